"""Check an experiment and lay out its run: everything that is known before the first batch."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, Literal

from rescaler.data import DATA_SETS
from rescaler.errors import InputError
from rescaler.settings import (
    DataSettings,
    Experiment,
    OptimSettings,
    RescaleSettings,
    ScheduleSettings,
    StepSettings,
)

CHOICES: Mapping[str, tuple[str, ...]] = {
    "device": ("auto", "cpu", "cuda"),
    "schedule.rule": ("milestones", "cosine", "one_cycle"),
    "step.precision": ("default", "fp32", "tf32", "bf16", "fp16"),
    "step.memory_format": ("channels_last", "contiguous"),
    "step.optimizer": ("fused", "foreach"),
    "rescale.interpolation": ("bilinear", "bicubic", "nearest", "area", "pinv", "fit"),
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
    for key, number in _numbers(dataclasses.asdict(experiment)):
        _require(math.isfinite(number), key, number, "finite")
    _check_data(experiment.data)
    _check_optim(experiment.optim)
    _check_step(experiment.step)
    _check_schedule(experiment.schedule)
    _check_rescale(experiment.rescale)
    every = experiment.checkpoint_every_min
    _require(every >= 0, "checkpoint_every_min", every, "0 or more")
    stage_epochs(experiment)


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """Every number in nested settings, with its key as the command line has it."""
    if isinstance(value, Mapping):
        for name, entry in value.items():
            yield from _numbers(entry, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _numbers(entry, f"{key}[{index}]")
    elif isinstance(value, float):
        yield key, value


def _check_data(data: DataSettings) -> None:
    _require(data.name in DATA_SETS, "data.name", data.name, f"one of {', '.join(DATA_SETS)}")
    _require(all(0 <= mean <= 1 for mean in data.mean), "data.mean", data.mean, "in [0, 1], by channel")
    _require(all(0 < std <= 1 for std in data.std), "data.std", data.std, "in (0, 1], by channel")
    for key in ("image_px", "classes", "channels"):
        _require(getattr(data, key) >= 1, f"data.{key}", getattr(data, key), "at least 1")
    if data.name != "synthetic":
        for key in ("train_images", "test_images"):
            value = getattr(data, key)
            _require(value == 0, f"data.{key}", value, f"0 with data={data.name}, which is always used whole")
    for key in ("pad_px", "workers", "train_images", "test_images"):
        _require(getattr(data, key) >= 0, f"data.{key}", getattr(data, key), "0 or more")


def _check_optim(optim: OptimSettings) -> None:
    _require(optim.batch_size >= 1, "optim.batch_size", optim.batch_size, "at least 1")
    _require(0 <= optim.momentum < 1, "optim.momentum", optim.momentum, "in [0, 1)")
    _require(optim.momentum > 0 or not optim.nesterov, "optim.momentum", optim.momentum, "above 0 with optim.nesterov")
    smoothing, decay = optim.label_smoothing, optim.ema_decay
    _require(0 <= smoothing < 1, "optim.label_smoothing", smoothing, "in [0, 1)")
    _require(decay is None or 0 < decay < 1, "optim.ema_decay", decay, "between 0 and 1, or null for none")


def _check_step(step: StepSettings) -> None:
    size = step.micro_batch_size
    _require(size is None or size >= 1, "step.micro_batch_size", size, "at least 1, or null for whole batches")
    # The gradients are in the graphs' own memory, which the next part of the batch takes again.
    _require(size is None or not step.cuda_graphs, "step.micro_batch_size", size, "null with step.cuda_graphs")
    _require(step.compile or not step.cuda_graphs, "step.compile", step.compile, "true with step.cuda_graphs")


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
    _check_shape(schedule)
    decay = schedule.weight_decay
    _require(decay >= 0, "schedule.weight_decay", decay, "0 or more")
    until = schedule.weight_decay_until
    _require(until is None or until >= 0, "schedule.weight_decay_until", until, "0 or more, or null for all epochs")
    _require(schedule.auto_resize_before >= 0, "schedule.auto_resize_before", schedule.auto_resize_before, "0 or more")
    _require(schedule.hold_limit >= 1, "schedule.hold_limit", schedule.hold_limit, "at least 1")


def _check_shape(schedule: ScheduleSettings) -> None:
    rule, milestones, warmup = schedule.rule, schedule.milestones, schedule.warmup_epochs
    if rule == "milestones":
        last = min([schedule.epochs, *milestones])
    else:
        _require(not milestones, "schedule.milestones", milestones, f"empty with schedule.rule={rule}")
        last = schedule.epochs - 1
    first = 1 if rule == "one_cycle" else 0
    allowed = f"from {first} to {last} with schedule.rule={rule}"
    _require(first <= warmup <= last, "schedule.warmup_epochs", warmup, allowed)


def _check_rescale(rescale: RescaleSettings) -> None:
    batches, warmup = rescale.calibration_batches, rescale.warmup_batches
    _require(batches >= 1, "rescale.calibration_batches", batches, "at least 1")
    _require(warmup >= 0, "rescale.warmup_batches", warmup, "0 or more")


def _require(condition: bool, key: str, value: object, allowed: str) -> None:
    if not condition:
        raise InputError(f"{key} must be {allowed}; got {value}")


def stage_epochs(experiment: Experiment) -> list[int]:
    """Scheduled epochs of each network, the smallest first and the target last; 0 where a network is not trained.

    Raises:
        InputError: ``resize_epoch`` is impossible, or leaves a pre-train network no epoch.
    """
    epochs, stages = experiment.schedule.epochs, len(experiment.shrink.stages)
    resize_epoch = resolve_resize_epoch(experiment)
    if resize_epoch == 0:
        return [0] * stages + [epochs]
    last = epochs if resize_epoch == "never" else resize_epoch
    given = experiment.resize_epoch
    ends = given if isinstance(given, list) else _shared(last, stages)
    return [end - start for start, end in pairwise([0, *ends, epochs])]


def batches_per_epoch(experiment: Experiment, train_images: int) -> int:
    """Mini-batches of an epoch; the last images of a pass that fill none are left out.

    Args:
        experiment: the settings.
        train_images: size of the training set.

    Raises:
        InputError: a batch takes more images than there are.
    """
    size = experiment.optim.batch_size
    _require(size <= train_images, "optim.batch_size", size, f"at most {train_images}, all training images")
    return experiment.schedule.batches_per_epoch or train_images // size


def network_names(experiment: Experiment) -> list[str]:
    """The names of an experiment's networks: ``pre-train``, numbered if there are several, and ``target``."""
    stages = len(experiment.shrink.stages)
    return [*(["pre-train"] if stages == 1 else [f"pre-train {number}" for number in range(1, stages + 1)]), "target"]


def _shared(epochs: int, stages: int) -> list[int]:
    """Last epoch of each pre-train network, all of about as many epochs."""
    if epochs < stages:
        raise InputError(f"resize_epoch must be at least {stages}, an epoch for each pre-train network; got {epochs}")
    return [math.ceil(epochs * number / stages) for number in range(1, stages + 1)]


def rescale_recipe(rescale: RescaleSettings, batches: int, *, normalises: bool) -> dict[str, Any]:
    """The settings of the rescale as the recipe of an epoch has them; what is off, or acts on nothing, is left out.

    Args:
        rescale: the settings.
        batches: of an epoch.
        normalises: whether the network has BatchNorm.
    """
    recipe: dict[str, Any] = {"interpolation": rescale.interpolation, "momentum": rescale.momentum}
    if rescale.recalibrate and normalises:
        recipe["recalibrate"] = True
    if rescale.interpolation == "fit" or "recalibrate" in recipe:
        recipe["calibration_batches"] = min(rescale.calibration_batches, batches)
    if rescale.warmup_batches > 0:
        recipe["warmup_batches"] = rescale.warmup_batches
    return recipe


def resolve_resize_epoch(experiment: Experiment) -> int | Literal["never"]:
    """Completed pre-train epochs before the target network takes over, or ``never``.

    ``auto`` is the paper's rule: an epoch or two before the first change of the learning rate. Where that changes all
    the time, it is a third of the epochs, which is where the first change is in both of the paper's schedules.

    Raises:
        InputError: not a number in range, nor ``never`` or ``auto``; or ``auto`` without a milestone to go by.
    """
    value, schedule = experiment.resize_epoch, experiment.schedule
    if isinstance(value, list):
        _check_ends(value, len(experiment.shrink.stages), schedule.epochs)
        value = value[-1]
    if value == "auto":
        value = _auto_resize_epoch(schedule)
    if value == "never":
        return "never"
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= schedule.epochs:
        raise InputError(
            f'resize_epoch must be between 0 and epochs (={schedule.epochs}), "never" or "auto"; got {value}'
        )
    return "never" if value == schedule.epochs else value


def _auto_resize_epoch(schedule: ScheduleSettings) -> int:
    if schedule.rule != "milestones":
        value = round(schedule.epochs / 3)
        how = f"a third of schedule.epochs with schedule.rule={schedule.rule}"
    elif not schedule.milestones:
        raise InputError("resize_epoch=auto needs schedule.milestones to go by; got none: give resize_epoch a number")
    else:
        value = schedule.milestones[0] - schedule.auto_resize_before
        how = (
            f"schedule.milestones[0]={schedule.milestones[0]} - "
            f"schedule.auto_resize_before={schedule.auto_resize_before}"
        )
    if not 0 < value < schedule.epochs:
        raise InputError(
            f"resize_epoch=auto gives {value} ({how}), which must be between 1 and "
            f"schedule.epochs - 1 (={schedule.epochs - 1})"
        )
    return value


def _check_ends(ends: list[object], stages: int, epochs: int) -> None:
    whole = all(isinstance(end, int) and not isinstance(end, bool) for end in ends)
    if not (whole and len(ends) == stages and all(a < b for a, b in pairwise([0, *ends, epochs + 1]))):  # type: ignore[operator]
        raise InputError(
            f"resize_epoch as a list must hold the last epoch of each pre-train network (their number is {stages}), "
            f"rising, from 1 to epochs (={epochs}); got {ends}"
        )
