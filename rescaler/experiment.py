"""Check an experiment and lay out its run: everything that is known before the first batch."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Literal

from rescaler.data import DATA_SETS
from rescaler.errors import InputError
from rescaler.settings import DataSettings, Experiment, OptimSettings, ScheduleSettings

CHOICES: Mapping[str, tuple[str, ...]] = {
    "device": ("auto", "cpu", "cuda"),
    "memory_format": ("channels_last", "contiguous"),
    "rescale.interpolation": ("bilinear", "bicubic", "nearest", "area"),
    "rescale.momentum": ("rescale", "reset"),
    "logger.mode": ("auto", "online", "offline", "disabled"),
    "ledger.keep": ("last", "forks", "all"),
}


def check(experiment: Experiment) -> None:
    """Refuse impossible values, before anything is loaded.

    Raises:
        InputError: names the key, its value and what is allowed.
    """
    for key, allowed in CHOICES.items():
        value: Any = experiment
        for part in key.split("."):
            value = getattr(value, part)
        if value not in allowed:
            raise InputError(f"{key} must be one of {', '.join(allowed)}; got {value!r}")
    try:
        json.dumps(dataclasses.asdict(experiment), allow_nan=False)
    except ValueError as error:
        raise InputError("every number must be finite; --cfg job shows which is not") from error
    _check_data(experiment.data)
    _check_optim(experiment.optim)
    _check_schedule(experiment.schedule)
    resolve_resize_epoch(experiment)


def _check_data(data: DataSettings) -> None:
    _require(data.name in DATA_SETS, "data.name", data.name, f"one of {', '.join(DATA_SETS)}")
    _require(all(0 <= mean <= 1 for mean in data.mean), "data.mean", data.mean, "in [0, 1], by channel")
    _require(all(0 < std <= 1 for std in data.std), "data.std", data.std, "in (0, 1], by channel")
    for key in ("image_px", "classes", "channels"):
        _require(getattr(data, key) >= 1, f"data.{key}", getattr(data, key), "at least 1")
    for key in ("pad_px", "workers", "train_images", "test_images"):
        _require(getattr(data, key) >= 0, f"data.{key}", getattr(data, key), "0 or more")


def _check_optim(optim: OptimSettings) -> None:
    _require(optim.batch_size >= 1, "optim.batch_size", optim.batch_size, "at least 1")
    _require(0 <= optim.momentum < 1, "optim.momentum", optim.momentum, "in [0, 1)")
    _require(optim.momentum > 0 or not optim.nesterov, "optim.momentum", optim.momentum, "above 0 with optim.nesterov")


def _check_schedule(schedule: ScheduleSettings) -> None:
    _require(schedule.epochs >= 1, "schedule.epochs", schedule.epochs, "at least 1")
    batches = schedule.batches_per_epoch
    _require(batches is None or batches >= 1, "schedule.batches_per_epoch", batches, "at least 1, or null for one pass")
    rates, milestones = schedule.learning_rates, schedule.milestones
    _require(all(rate > 0 for rate in rates), "schedule.learning_rates", rates, "positive")
    count = f"one more than schedule.milestones (={milestones})"
    _require(len(rates) == len(milestones) + 1, "schedule.learning_rates", rates, count)
    rising = all(a < b for a, b in zip([0, *milestones], milestones, strict=False))
    _require(rising, "schedule.milestones", milestones, "positive and rising")
    decay = schedule.weight_decay
    _require(decay >= 0, "schedule.weight_decay", decay, "0 or more")
    until = schedule.weight_decay_until
    _require(until is None or until >= 0, "schedule.weight_decay_until", until, "0 or more, or null for all epochs")
    _require(schedule.auto_resize_before >= 0, "schedule.auto_resize_before", schedule.auto_resize_before, "0 or more")
    _require(schedule.hold_limit >= 1, "schedule.hold_limit", schedule.hold_limit, "at least 1")


def _require(condition: bool, key: str, value: object, allowed: str) -> None:
    if not condition:
        raise InputError(f"{key} must be {allowed}; got {value}")


def resolve_resize_epoch(experiment: Experiment) -> int | Literal["never"]:
    """The resize epoch as a number of completed pre-train epochs, or ``never``.

    ``auto`` is the paper's rule: an epoch or two before the first change of the learning rate.

    Raises:
        InputError: not a number in range, nor ``never`` or ``auto``; or ``auto`` without a milestone to go by.
    """
    value, schedule = experiment.resize_epoch, experiment.schedule
    if value == "auto":
        if not schedule.milestones:
            raise InputError(
                "resize_epoch=auto needs schedule.milestones to go by; got none: give resize_epoch a number"
            )
        value = schedule.milestones[0] - schedule.auto_resize_before
        if not 0 < value < schedule.epochs:
            raise InputError(
                f"resize_epoch=auto gives {value} (schedule.milestones[0]={schedule.milestones[0]} - "
                f"schedule.auto_resize_before={schedule.auto_resize_before}), which must be between 1 and "
                f"schedule.epochs - 1 (={schedule.epochs - 1})"
            )
    if value == "never":
        return "never"
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= schedule.epochs:
        raise InputError(
            f'resize_epoch must be between 0 and epochs (={schedule.epochs}), "never" or "auto"; got {value}'
        )
    return "never" if value == schedule.epochs else value
