"""Schedules: which network trains in which epoch, at what learning rate; pure functions of the settings.

The paper's milestones (section 4) and held rule (section 5.2), cosine, one cycle, linear, constant. A rate that changes
within an epoch does so along a line from where the epoch begins to where it ends: two numbers, which are in its key.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from rescaler.config import Experiment, ScheduleSettings, require
from rescaler.errors import InputError


@dataclass(frozen=True)
class Rule:
    """What the schedule says about one epoch."""

    learning_rate: float
    """At its beginning."""
    learning_rate_end: float
    weight_decay: float
    held: bool
    """The epoch repeats the rule in force at the resize (section 5.2) and lengthens the run by one."""


def next_rule(schedule: ScheduleSettings, resize_epoch: int, test_top1: Sequence[float]) -> Rule | None:
    """Return the rule of the next epoch; None when the run is complete.

    Args:
        schedule: the settings.
        resize_epoch: completed epochs before the last rescale; 0: there is none.
        test_top1: test accuracy of each finished epoch, as fractions; no other number of a run has any influence.
    """
    done = len(test_top1)
    held, holding = 0, False
    if schedule.hold_after_resize and 0 < resize_epoch <= done:
        held, holding = _held(test_top1[resize_epoch:], schedule.hold_limit)
    # A held epoch repeats the rule of the last epoch before the resize, which is where the schedule stands.
    position = resize_epoch if holding else done - held + 1
    if position > schedule.epochs:
        return None
    start, end = _rates(schedule, position)
    if holding:
        start = end
    decays = schedule.weight_decay_until is None or position <= schedule.weight_decay_until
    return Rule(start, end, schedule.weight_decay if decays else 0.0, holding)


def _held(top1: Sequence[float], limit: int) -> tuple[int, bool]:
    """Return how many of the epochs after the resize were held, and whether the next one is."""
    for index in range(1, min(len(top1), limit)):
        if top1[index] < top1[index - 1]:
            return index + 1, False
    return min(len(top1), limit), len(top1) < limit


def _rates(schedule: ScheduleSettings, position: int) -> tuple[float, float]:
    """Return the learning rates at the beginning and the end of an epoch."""
    warmup = schedule.warmup_epochs
    if schedule.rule == "one_cycle":
        return _one_cycle(schedule, position - 1), _one_cycle(schedule, position)
    peak = schedule.learning_rates[sum(position > milestone for milestone in schedule.milestones)]
    if position <= warmup:
        return peak * (position - 1) / warmup, peak * position / warmup
    if schedule.rule in ("milestones", "constant"):
        return peak, peak
    start, end = ((done - warmup) / (schedule.epochs - warmup) for done in (position - 1, position))
    if schedule.rule == "linear":
        return peak * (1 - start), peak * (1 - end)
    return _along_cosine(peak, 0.0, start), _along_cosine(peak, 0.0, end)


def _one_cycle(schedule: ScheduleSettings, done: int) -> float:
    """Return the rate after some epochs, with the proportions of torch's ``OneCycleLR`` (Smith and Topin, 2017)."""
    (peak,), rise = schedule.learning_rates, schedule.warmup_epochs
    if done <= rise:
        return _along_cosine(peak / 25, peak, done / rise)
    return _along_cosine(peak, peak / 25e4, (done - rise) / (schedule.epochs - rise))


def _along_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def stage_epochs(experiment: Experiment) -> list[int]:
    """Return the scheduled epochs of each network, the smallest first, the target last; 0 where it is not trained.

    Raises:
        InputError: ``resize_epoch`` is impossible, or leaves a pre-train network no epoch.
    """
    epochs, stages = experiment.schedule.epochs, len(experiment.shrink.stages)
    resize_epoch = resolve_resize_epoch(experiment)
    if resize_epoch == 0:
        return [0] * stages + [epochs]
    last = epochs if resize_epoch == "never" else resize_epoch
    if last < stages:
        raise InputError(f"resize_epoch must be at least {stages}, an epoch for each pre-train network; got {last}")
    given = experiment.resize_epoch
    ends = given if isinstance(given, list) else [math.ceil(last * n / stages) for n in range(1, stages + 1)]
    return [end - start for start, end in pairwise([0, *ends, epochs])]


def resolve_resize_epoch(experiment: Experiment) -> int | Literal["never"]:
    """Return the completed pre-train epochs before the target network takes over, or ``never``.

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
    numbers = [end for end in ends if isinstance(end, int) and not isinstance(end, bool)]
    rising = all(a < b for a, b in pairwise([0, *numbers, epochs + 1]))
    if not (len(numbers) == len(ends) == stages and rising):
        raise InputError(
            f"resize_epoch as a list must hold the last epoch of each pre-train network (their number is {stages}), "
            f"rising, from 1 to epochs (={epochs}); got {ends}"
        )


def batches_per_epoch(experiment: Experiment, train_images: int) -> int:
    """Return the mini-batches of an epoch; the last images of a pass that fill none are left out.

    Raises:
        InputError: a batch takes more images than there are.
    """
    size = experiment.optim.batch_size
    require(size <= train_images, "optim.batch_size", size, f"at most {train_images}, all training images")
    return experiment.schedule.batches_per_epoch or train_images // size


def network_names(experiment: Experiment) -> list[str]:
    """Return the names of an experiment's networks: ``pre-train``, numbered if there are several, and ``target``."""
    stages = len(experiment.shrink.stages)
    return [*(["pre-train"] if stages == 1 else [f"pre-train {number}" for number in range(1, stages + 1)]), "target"]
