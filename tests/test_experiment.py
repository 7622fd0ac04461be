from typing import Any

import pytest

from rescaler.errors import InputError
from rescaler.experiment import CHOICES, check, resolve_resize_epoch
from rescaler.kernels import INTERPOLATIONS
from rescaler.plan import MEMORY_FORMATS
from rescaler.settings import Experiment, ScheduleSettings
from rescaler.tracking import resolve_mode


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


@pytest.mark.parametrize("value", [70, -1, 17.5, "soon", True, None])
def test_impossible_resize_epochs_are_refused(value: object) -> None:
    with pytest.raises(
        InputError, match=rf'^resize_epoch must be between 0 and epochs \(=55\), "never" or "auto"; got {value}$'
    ):
        check(experiment(resize_epoch=value))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule__epochs": -3}, "schedule.epochs must be at least 1; got -3"),
        (
            {"schedule__milestones": []},
            r"schedule.learning_rates must be one more than schedule.milestones \(=\[\]\); got",
        ),
        ({"schedule__milestones": [0]}, r"schedule.milestones must be positive and rising; got \[0\]"),
        ({"schedule__learning_rates": [0.1, float("nan")]}, "every number must be finite"),
        ({"schedule__weight_decay": -1.0}, "schedule.weight_decay must be 0 or more; got -1.0"),
        (
            {"schedule__batches_per_epoch": 0},
            "schedule.batches_per_epoch must be at least 1, or null for one pass; got 0",
        ),
        ({"schedule__auto_resize_before": 18}, "resize_epoch=auto gives 0"),
        ({"optim__batch_size": 0}, "optim.batch_size must be at least 1; got 0"),
        ({"optim__momentum": 1.0}, r"optim.momentum must be in \[0, 1\); got 1.0"),
        ({"device": "tpu"}, "device must be one of auto, cpu, cuda; got 'tpu'"),
        ({"rescale__interpolation": "cubic"}, "rescale.interpolation must be one of bilinear, .*; got 'cubic'"),
        ({"ledger__keep": "some"}, "ledger.keep must be one of last, forks, all; got 'some'"),
        ({"data__image_px": 0}, "data.image_px must be at least 1; got 0"),
    ],
)
def test_each_impossible_value_is_named_with_what_is_allowed(changes: dict[str, Any], message: str) -> None:
    check(experiment())
    with pytest.raises(InputError, match=message):
        check(experiment(**changes))


def test_the_choices_are_those_of_the_code_that_takes_them() -> None:
    assert CHOICES["rescale.interpolation"] == INTERPOLATIONS
    assert set(CHOICES["memory_format"]) == set(MEMORY_FORMATS)
    for mode in CHOICES["logger.mode"]:
        assert resolve_mode(mode, {}) == mode


def test_auto_without_milestones_asks_for_a_number() -> None:
    made = experiment(schedule__milestones=[], schedule__learning_rates=[0.1])
    with pytest.raises(InputError, match="resize_epoch=auto needs schedule.milestones"):
        check(made)
