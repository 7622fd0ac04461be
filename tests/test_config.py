import dataclasses
from typing import Any

import pytest

from rescaler import config
from rescaler.config import (
    DATA_SETS,
    INTERPOLATIONS,
    Experiment,
    OptimSettings,
    ScheduleSettings,
    StageSettings,
    StepSettings,
    fields,
    identity,
    setting,
)
from rescaler.data import DATA_SETS as READERS
from rescaler.errors import InputError
from rescaler.method import MAX_IMAGE_PX, kernels
from rescaler.precision import MEMORY_FORMATS
from rescaler.schedule import check_stages, resolve_resize_epoch, stage_epochs


def check(made: Experiment) -> None:
    """All that is checked before anything is loaded."""
    config.check(made)
    check_stages(made)


def experiment(**changes: Any) -> Experiment:
    made = Experiment(schedule=ScheduleSettings(epochs=55, learning_rates=[1e-2, 1e-3], milestones=[18]))
    for key, value in changes.items():
        *path, last = key.split("__")
        target: Any = made
        for part in path:
            target = getattr(target, part)
        setattr(target, last, value)
    return made


def test_auto_is_one_epoch_before_the_learning_rate_first_drops() -> None:
    assert resolve_resize_epoch(experiment()) == 17
    assert resolve_resize_epoch(experiment(schedule__auto_resize_before=2)) == 16


@pytest.mark.parametrize(("given", "resolved"), [(0, 0), (17, 17), (54, 54), (55, "never"), ("never", "never")])
def test_resize_epoch_counts_completed_pretrain_epochs(given: object, resolved: object) -> None:
    assert resolve_resize_epoch(experiment(resize_epoch=given)) == resolved


@pytest.mark.parametrize(
    ("middle", "given", "epochs"),
    [
        (0, 17, [17, 38]),
        (0, 0, [0, 55]),
        (0, "never", [55, 0]),
        (0, [17], [17, 38]),
        (1, 17, [9, 8, 38]),
        (1, "auto", [9, 8, 38]),
        (1, [4, 17], [4, 13, 38]),
        (1, 0, [0, 0, 55]),
        (1, "never", [28, 27, 0]),
        (1, [9, 55], [9, 46, 0]),
        (2, 18, [6, 6, 6, 37]),
    ],
)
def test_pretrain_networks_share_the_epochs_before_the_resize(middle: int, given: object, epochs: list[int]) -> None:
    made = experiment(resize_epoch=given, shrink__middle=[StageSettings()] * middle)
    assert stage_epochs(made) == epochs
    assert resolve_resize_epoch(made) == ("never" if epochs[-1] == 0 else sum(epochs[:-1]))


@pytest.mark.parametrize("ends", [[17], [9, 9], [17, 9], [0, 17], [9, 56], [9, "auto"], [True, 17], []])
def test_a_list_of_resize_epochs_must_rise_once_a_stage(ends: list[object]) -> None:
    with pytest.raises(
        InputError,
        match=r"resize_epoch as a list must hold the last epoch of each pre-train network \(their number is 2\), "
        r"rising, from 1 to epochs \(=55\); got \[",
    ):
        check(experiment(resize_epoch=ends, shrink__middle=[StageSettings()]))


def test_every_pretrain_network_needs_an_epoch() -> None:
    with pytest.raises(InputError, match="resize_epoch must be at least 2, an epoch for each pre-train network; got 1"):
        check(experiment(resize_epoch=1, shrink__middle=[StageSettings()]))


@pytest.mark.parametrize("value", [70, -1, 17.5, "soon", True, None])
def test_impossible_resize_epochs_are_refused(value: object) -> None:
    with pytest.raises(
        InputError, match=rf'^resize_epoch must be between 0 and epochs \(=55\), "never" or "auto"; got {value}$'
    ):
        check(experiment(resize_epoch=value))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule__epochs": -3}, "schedule.epochs must be at least 1 and at most 100,000; got -3"),
        ({"schedule__epochs": 10**8}, "schedule.epochs must be at least 1 and at most 100,000; got 100000000"),
        ({"data__pad_px": 999}, r"data.pad_px must be at most data.image_px \(=28\); got 999"),
        ({"ledger__folder": ""}, "ledger.folder must be a folder; got ''"),
        (
            {"schedule__recalibration_batches": 2, "schedule__hold_after_resize": True},
            "schedule.recalibration_batches must be 0 with schedule.hold_after_resize, which moves the last epoch",
        ),
        ({"optim__clip_norm": 0.0}, "optim.clip_norm must be positive; got 0.0"),
        ({"optim__groups": {"fc*": {"lr": 1}}}, "optim.groups.fc.* must be lr_factor, decay_factor or arguments"),
        ({"optim__arguments": {"_target_": "torch.optim.SGD", "lr": 1}}, "optim.lr must be left to schedule; got 1"),
        (
            {"schedule__milestones": []},
            r"schedule.learning_rates must be one more than schedule.milestones \(=\[\]\); got",
        ),
        ({"schedule__milestones": [0]}, r"schedule.milestones must be positive and rising; got \[0\]"),
        ({"schedule__learning_rates": [0.1, float("nan")]}, r"schedule.learning_rates\[1\] must be finite; got nan"),
        ({"model": {"widths": {"a": float("-inf")}}}, "model.widths.a must be finite; got -inf"),
        ({"schedule__weight_decay": -1.0}, "schedule.weight_decay must be 0 or more; got -1.0"),
        (
            {"schedule__batches_per_epoch": 0},
            "schedule.batches_per_epoch must be at least 1, or null for one pass over the training set; got 0",
        ),
        ({"schedule__auto_resize_before": 18}, "resize_epoch=auto gives 0"),
        ({"optim__batch_size": 0}, "optim.batch_size must be at least 1; got 0"),
        (
            {"optim__arguments": {"_target_": "torch.optim.SGD", "momentum": 1.0}},
            r"optim.momentum must be in \[0, 1\); got 1.0",
        ),
        ({"device": "tpu"}, "device must be one of auto, cpu, cuda; got 'tpu'"),
        ({"rescale__interpolation": "cubic"}, "rescale.interpolation must be one of bilinear, .*; got 'cubic'"),
        ({"rescale__calibration_batches": 0}, "rescale.calibration_batches must be at least 1; got 0"),
        ({"rescale__warmup_batches": -1}, "rescale.warmup_batches must be 0 or more; got -1"),
        ({"ledger__keep": "some"}, "ledger.keep must be one of last, forks, all; got 'some'"),
        ({"optim__label_smoothing": 1.0}, r"optim.label_smoothing must be in \[0, 1\); got 1.0"),
        ({"optim__ema_decay": 1.0}, "optim.ema_decay must be between 0 and 1, or null for none; got 1.0"),
        ({"step__precision": "fp8"}, "step.precision must be one of default, fp32, tf32, bf16, fp16; got 'fp8'"),
        ({"step__micro_batch_size": 0}, "step.micro_batch_size must be at least 1, or null for whole batches; got 0"),
        (
            {"optim__batch_size": 16, "step__micro_batch_size": 17},
            r"step.micro_batch_size must be at most optim.batch_size \(=16\); got 17",
        ),
        ({"data__folder": ""}, "data.folder must be a folder; got ''"),
        (
            {"step__cuda_graphs": True, "step__compile": True, "step__micro_batch_size": 8},
            "step.micro_batch_size must be null with step.cuda_graphs; got 8",
        ),
        ({"step__cuda_graphs": True}, "step.compile must be true with step.cuda_graphs; got False"),
        (
            {"schedule__rule": "step"},
            "schedule.rule must be one of milestones, cosine, one_cycle, linear, constant; got 'step'",
        ),
        ({"schedule__rule": "cosine"}, r"schedule.milestones must be empty with schedule.rule=cosine; got \[18\]"),
        (
            {"schedule__warmup_epochs": 19},
            "schedule.warmup_epochs must be from 0 to 18 with schedule.rule=milestones; got 19",
        ),
        (
            {"schedule__rule": "one_cycle", "schedule__milestones": [], "schedule__learning_rates": [0.1]},
            "schedule.warmup_epochs must be from 1 to 54 with schedule.rule=one_cycle; got 0",
        ),
        ({"data__image_px": 0}, r"data.image_px must be .* integer or \[height, width\], at most 16,384; got 0"),
        ({"data__image_px": 10**9}, "data.image_px must be .* at most 16,384; got 1000000000"),
        ({"data__image_px": 28.0}, "data.image_px must be .* got 28.0"),
        ({"data__image_px": True}, "data.image_px must be .* got True"),
        ({"data__image_px": [28]}, r"data.image_px must be .* got \[28\]"),
        ({"data__image_px": [1, 2, 3]}, r"data.image_px must be .* got \[1, 2, 3\]"),
        ({"data__image_px": ["a", 2]}, r"data.image_px must be .* got \['a', 2\]"),
        ({"data__image_px": [28, -1]}, r"data.image_px must be .* got \[28, -1\]"),
        ({"data__test_px": [28, 0]}, r"data.test_px must be .* got \[28, 0\]"),
        ({"shrink__image_px": 2.5}, "shrink.image_px must be .* got 2.5"),
        ({"data__image_px": [28, 20], "data__pad_px": 21}, r"data.pad_px must be at most data.image_px \(=28x20\)"),
        ({"data__classes": 1}, "data.classes must be at least 2; got 1"),
        (
            {"data__train_images": 500},
            "data.train_images must be 0 with data=fashion_mnist, which is always used whole",
        ),
    ],
)
def test_each_impossible_value_is_named_with_what_is_allowed(changes: dict[str, Any], message: str) -> None:
    check(experiment())
    with pytest.raises(InputError, match=message):
        check(experiment(**changes))


def test_the_choices_are_those_of_the_code_that_takes_them() -> None:
    assert (*kernels.INTERPOLATIONS, "fit") == INTERPOLATIONS
    assert set(DATA_SETS) == set(READERS)
    for name in MEMORY_FORMATS:
        check(experiment(step__memory_format=name))


def test_every_setting_says_what_it_means() -> None:
    assert [key for key, _, about in fields(Experiment()) if not about.get("help")] == []


def test_an_absent_value_is_in_no_key() -> None:
    """As a setting that is added later: keys of experiments before it stay what they are."""
    later = dataclasses.make_dataclass("Later", [("mixup", float, setting(0.0, absent=0.0))], bases=(StepSettings,))
    assert identity(later()) == identity(StepSettings())
    assert identity(later(mixup=0.2)) == {**identity(StepSettings()), "mixup": 0.2}


def test_an_optimizer_takes_arguments_of_its_own() -> None:
    options = {"_target_": "torch.optim.AdamW", "betas": [0.9, 0.95], "batch_size": 8, "clip_norm": 1}
    made = OptimSettings.of(options)
    assert made.arguments == {"_target_": "torch.optim.AdamW", "betas": [0.9, 0.95]}
    assert (made.batch_size, made.clip_norm) == (8, 1.0)
    assert OptimSettings.of(dataclasses.asdict(made)) == made
    shown = Experiment(optim=options).to_dict()["optim"]  # type: ignore[arg-type]
    assert OptimSettings.of(shown) == made
    assert "arguments" not in shown
    for name, value in {"batch_size": "8", "clip_norm": "big", "groups": 3, "label_smoothing": True}.items():
        with pytest.raises(InputError, match=f"optim.{name} must be of type"):
            OptimSettings.of({name: value})


def test_auto_without_milestones_asks_for_a_number() -> None:
    made = experiment(schedule__milestones=[], schedule__learning_rates=[0.1])
    with pytest.raises(InputError, match="resize_epoch=auto needs schedule.milestones"):
        check(made)


def test_auto_is_a_third_of_the_epochs_where_the_rate_always_changes() -> None:
    cosine = {"schedule__rule": "cosine", "schedule__milestones": [], "schedule__learning_rates": [0.1]}
    assert resolve_resize_epoch(experiment(**cosine)) == 18
    with pytest.raises(InputError, match=r"resize_epoch=auto gives 0 \(a third of schedule.epochs"):
        check(experiment(**cosine, schedule__epochs=1))


def test_images_are_as_large_as_the_method_takes_them() -> None:
    check(experiment(data__image_px=MAX_IMAGE_PX))
    with pytest.raises(InputError, match="data.image_px must be .* at most 16,384; got 16385"):
        check(experiment(data__image_px=MAX_IMAGE_PX + 1))
