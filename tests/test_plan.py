import dataclasses
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from bench import RESNET
from conftest import MakeExperiment
from torch import nn

from rescaler.config import StageSettings, identity
from rescaler.errors import InputError
from rescaler.plan import plan

NO_NUMBER = {
    "name",
    "arm",
    "progress",
    "checkpoint_every_min",  # a save changes nothing
    "data__folder",  # of synthetic images; other sets have a fingerprint
    "data__workers",
    "ledger__folder",
    "ledger__keep",
    "logger__mode",
    "logger__project",
    "logger__entity",
    "logger__more",
    "logger__others",
    "logger__group",
    "logger__tags",
    "objective",
    "step__cudnn_benchmark",  # refused on a CPU
    "step__cuda_graphs",  # likewise
    "device",  # likewise
}
OTHER = {
    "model": RESNET,
    "shrink__table": {1: 1, 3: 2, 5: 4},
    "shrink__image_px": 20,
    "shrink__padding": {"conv1": 1},
    "shrink__input_only": True,
    "shrink__middle": [StageSettings(table={1: 1, 3: 3, 5: 4}, image_px=24)],
    "rescale__interpolation": "bicubic",
    "rescale__recalibrate": True,
    "rescale__calibration_batches": 3,
    "rescale__ridge": None,
    "rescale__align": True,
    "rescale__optimizer_state": "reset",
    "rescale__warmup_batches": 2,
    "rescale__distill_batches": 2,
    "data__name": "other",
    "data__image_px": 32,
    "data__classes": 5,
    "data__channels": 3,
    "data__mean": [0.4],
    "data__std": [0.3],
    "data__pad_px": 1,
    "data__flip": False,
    "data__resize": "fourier",
    "data__augment": {"_target_": "torch.nn.Identity"},
    "data__class_weights": "balanced",
    "data__sampling_weights": [1, 2, 1, 1],
    "data__train": {"_target_": "torch.nn.Identity"},  # acts in tests/test_data_custom.py
    "data__test": {"_target_": "torch.nn.Identity"},
    "data__train_images": 300,
    "data__test_images": 50,
    "schedule__epochs": 7,
    "schedule__batches_per_epoch": 6,
    "schedule__rule": "cosine",
    "schedule__learning_rates": [0.03, 0.02],
    "schedule__milestones": [5],
    "schedule__warmup_epochs": 1,
    "schedule__weight_decay": 1e-3,
    "schedule__weight_decay_until": 4,
    "schedule__auto_resize_before": 2,
    "schedule__hold_after_resize": True,
    "schedule__hold_limit": 5,
    "schedule__recalibration_batches": 2,
    "optim__batch_size": 8,
    "optim__arguments": {"_target_": "torch.optim.SGD", "momentum": 0.5},
    "optim__lr_factor": 0.5,
    "optim__no_decay": "norm_and_bias",
    "optim__groups": {"fc*": {"lr_factor": 0.1}},
    "optim__clip_norm": 1.0,
    "optim__label_smoothing": 0.1,
    "optim__ema_decay": 0.9,
    "step__precision": "bf16",
    "step__memory_format": "contiguous",
    "step__optimizer": "foreach",
    "step__compile": True,
    "step__micro_batch_size": 4,
    "step__dropout": 0.5,
    "data__holdout": 0.25,
    "data__in_memory": True,
    "data__test_px": 20,
    "schedule__budget": 0.5,
    "schedule__clock": "cost",
    "cost__reference": [1.0, 3.0],
    "stages": {"pretrain": {"optim": {"lr_factor": 2.0}}},
    "resize_epoch": 2,
    "resize_at": 0.4,
    "seed": 1,
}
"""Another value of each setting that changes numbers."""
LINEAR = {"schedule__rule": "linear", "schedule__milestones": [], "schedule__learning_rates": [0.03]}
NEEDED: dict[str, dict[str, Any]] = {
    "rescale__recalibrate": {"model": RESNET},
    "schedule__recalibration_batches": {"model": RESNET},
    "data__test_px": {"model": RESNET},
    "rescale__calibration_batches": {"rescale__interpolation": "fit"},
    "rescale__ridge": {"rescale__interpolation": "fit"},
    "rescale__align": {"rescale__interpolation": "fit"},
    "data__channels": {"data__mean": [0.5] * 3, "data__std": [0.25] * 3},
    "data__image_px": {"model__image_px": 32},
    "schedule__rule": {"schedule__milestones": [], "schedule__learning_rates": [0.03]},
    "schedule__hold_limit": {"schedule__hold_after_resize": True},
    "schedule__auto_resize_before": {"resize_epoch": "auto"},
    "schedule__budget": {"cost__reference": [1.0, 2.0]},
    "schedule__clock": {"cost__reference": [1.0, 2.0], **LINEAR},
    "cost__reference": {"schedule__clock": "cost", "cost__reference": [1.0, 2.0], **LINEAR},
    "resize_at": {"schedule__budget": 0.5, "resize_epoch": "auto", "cost__reference": [1.0, 2.0]},
}
"""What else must be set for it to act, or to be possible."""


IMPOSSIBLE_ALONE = {"data__mean", "data__std", "model__image_px"}


def fields(settings: object, prefix: str = "") -> Iterator[str]:
    for field in dataclasses.fields(settings):  # type: ignore[arg-type]
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            yield from fields(value, f"{prefix}{field.name}__")
        else:
            yield prefix + field.name


def test_every_setting_is_known_to_change_numbers_or_not_to(make_experiment: MakeExperiment) -> None:
    of_weights = {"init__from_", "init__exclude"}  # tests/test_weights.py
    assert set(fields(make_experiment())) == NO_NUMBER | set(OTHER) | of_weights


@pytest.mark.parametrize("key", sorted(set(OTHER) - {"data__name"}))
def test_a_setting_that_changes_numbers_changes_the_id(
    make_experiment: MakeExperiment, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rescaler.precision.cannot_compile", lambda _: None)
    needed = NEEDED.get(key, {})
    before = {name: value for name, value in needed.items() if name not in IMPOSSIBLE_ALONE}
    run, other = plan(make_experiment(**before)), plan(make_experiment(**{**needed, key: OTHER[key]}))
    assert other.id != run.id
    unknown = key == "schedule__hold_limit"  # it changes epochs whose keys follow from accuracies
    assert (other.chain.known_keys == run.chain.known_keys) == unknown


@pytest.mark.parametrize(
    ("key", "value"),
    [("name", "other"), ("progress", True), ("data__workers", 7), ("ledger__keep", "all"), ("checkpoint_every_min", 1)],
)
def test_what_changes_no_number_changes_no_id(make_experiment: MakeExperiment, key: str, value: object) -> None:
    assert key in NO_NUMBER
    assert plan(make_experiment(**{key: value})).id == plan(make_experiment()).id


def test_auto_is_the_run_that_it_resolves_to(make_experiment: MakeExperiment) -> None:
    assert plan(make_experiment(resize_epoch="auto")).id == plan(make_experiment(resize_epoch=3)).id


def test_the_target_baseline_is_one_whatever_is_shrunk(make_experiment: MakeExperiment) -> None:
    other = make_experiment(resize_epoch=0, shrink__table={1: 1, 3: 3, 5: 3}, schedule__hold_after_resize=True)
    assert plan(other).id == plan(make_experiment(resize_epoch=0)).id


def test_runs_compare_whatever_their_resize_epoch_and_seed(make_experiment: MakeExperiment) -> None:
    run = plan(make_experiment())
    for same in ({"resize_epoch": 0}, {"seed": 3}, {"schedule__hold_after_resize": True}):
        assert plan(make_experiment(**same)).comparison == run.comparison
    for other in ({"schedule__epochs": 7}, {"optim__batch_size": 8}, {"data__flip": False}):
        assert plan(make_experiment(**other)).comparison != run.comparison


@pytest.mark.parametrize(
    "inert",
    [
        {"rescale__calibration_batches": 3},
        {"rescale__ridge": None},
        {"rescale__align": True},
        {"rescale__recalibrate": True},
        {"schedule__recalibration_batches": 2},
        {"shrink__middle": []},
    ],
)
def test_what_has_nothing_to_act_on_changes_no_id(make_experiment: MakeExperiment, inert: dict[str, object]) -> None:
    assert plan(make_experiment(**inert)).id == plan(make_experiment()).id  # the network has no BatchNorm


def test_what_is_off_is_in_no_key(make_experiment: MakeExperiment) -> None:
    """Keys of runs that were made before there was a choice stay what they were."""
    run = plan(make_experiment())
    assert identity(run.chain.rescale) == {"interpolation": "bilinear", "optimizer_state": "resize"}
    assert identity(run.chain.stages[0].optim).keys() == {"arguments", "batch_size", "label_smoothing", "ema_decay"}


def test_what_acts_is_in_the_recipe_of_the_epoch_after_the_resize_alone(make_experiment: MakeExperiment) -> None:
    model = {"_target_": "rescaler.models.resnet_small", "widths": [4], "blocks": 1}
    settings = {"rescale__interpolation": "fit", "rescale__recalibrate": True, "rescale__warmup_batches": 2}
    run = plan(make_experiment(model=model, **settings))
    assert identity(run.chain.rescale) == {
        "interpolation": "fit",
        "optimizer_state": "resize",
        "recalibrate": True,
        "calibration_batches": 5,  # all of the epoch's
        "warmup_batches": 2,
    }
    assert run.chain.known_keys[:3] == plan(make_experiment(model=model)).chain.known_keys[:3]


MIDDLE = StageSettings(table={1: 1, 3: 2, 5: 4}, image_px=22)


def test_stages_grow_from_the_smallest_network_to_the_target(make_experiment: MakeExperiment) -> None:
    run = plan(make_experiment(resize_epoch=4, shrink__middle=[MIDDLE]))
    assert [(stage.name, stage.image_px) for stage in run.chain.stages] == [
        ("pretrain", 17),
        ("middle", 22),
        ("target", 28),
    ]
    assert run.chain.ends == (2, 4, 6)
    kernels = [run.network(stage).get_parameter("conv1.weight").shape[-1] for stage in run.chain.stages]
    assert kernels == [3, 4, 5]
    assert run.resize_epoch == 4


def test_input_only_shrinks_images_and_no_kernel(make_experiment: MakeExperiment) -> None:
    run = plan(make_experiment(shrink__input_only=True))
    assert [stage.image_px for stage in run.chain.stages] == [17, 28]
    small = run.network(run.chain.stages[0])
    assert small.get_parameter("conv1.weight").shape[-2:] == (5, 5)
    assert (
        small.get_parameter("fc4.weight").shape[1]
        < run.network(run.chain.stages[1]).get_parameter("fc4.weight").shape[1]
    )


def test_every_network_of_a_seed_starts_from_the_same_weights(make_experiment: MakeExperiment) -> None:
    run = plan(make_experiment())
    states = [run.network(run.chain.stages[0]).state_dict() for _ in range(2)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert states[0]["conv1.weight"].shape[2:] == (3, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rescale__warmup_batches": 6}, "rescale.warmup_batches must be at most 5, the batches of an epoch; got 6"),
        ({"rescale__distill_batches": 6}, "rescale.distill_batches must be at most 5, the batches of an epoch; got 6"),
        ({"optim__batch_size": 300}, "optim.batch_size must be at most 200"),
        ({"optim__batch_size": 300, "schedule__batches_per_epoch": None}, "optim.batch_size must be at most 200"),
    ],
)
def test_what_does_not_fit_is_refused(
    make_experiment: MakeExperiment, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        plan(make_experiment(**changes))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_is_refused_where_there_is_none(make_experiment: MakeExperiment) -> None:
    with pytest.raises(InputError, match=f"device=cuda, but torch finds no CUDA device on {socket.gethostname()}"):
        plan(dataclasses.replace(make_experiment(), device="cuda"))


def test_images_that_are_read_while_training_are_resized_in_one_way(make_experiment: MakeExperiment) -> None:
    experiment = make_experiment(data__name="imagenet", data__channels=3, data__mean=[0.5] * 3, data__std=[0.2] * 3)
    rule = "data.resize must be bilinear for images that are read while training; got 'fourier'"
    with pytest.raises(InputError, match=rule):
        plan(dataclasses.replace(experiment, stages={"pretrain": {"data": {"resize": "fourier"}}}))


class Squeezing(nn.Module):
    """A network that loses the batch's dimension with a single image, or cannot train on one."""

    def __init__(self, *, squeezes: bool) -> None:
        super().__init__()
        self.conv, self.pool, self.norm = nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4)
        self.fc, self.squeezes = nn.Linear(4, 4), squeezes

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.pool(self.conv(images))
        scores: torch.Tensor = self.fc(maps.squeeze() if self.squeezes else self.norm(maps).flatten(1))
        return scores


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data__test_images": 251},
            r"test set of 251 images leaves a last part of one image, .*returns \(4,\)",
        ),
        (
            {"step__micro_batch_size": 3},
            r"optim.batch_size=16 with step.micro_batch_size=3 leaves .*: Expected more than",
        ),
        (
            {"step__micro_batch_size": 1},
            r"optim.batch_size=16 with step.micro_batch_size=1 leaves .*: Expected more than",
        ),
    ],
)
def test_a_last_part_of_one_image_is_tried_before_training(
    make_experiment: MakeExperiment, changes: dict[str, Any], message: str
) -> None:
    squeezes = "data__test_images" in changes
    model = {"_target_": f"{__name__}.Squeezing", "squeezes": squeezes}
    with pytest.raises(InputError, match=message):
        plan(make_experiment(model=model, optim__batch_size=16, **changes))
