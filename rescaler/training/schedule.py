"""Learning rules by epoch: the paper's milestones (section 4) and its held rule (section 5.2); cosine and one cycle.

A rate that changes within an epoch does so along a line from where the epoch begins to where it ends: two numbers say
all of it, and they are in the epoch's key.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rescaler.settings import ScheduleSettings


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
    """Rule for the epoch after those whose test accuracies are ``test_top1``; None when the run is complete.

    Reads only what earlier epochs recorded, so a chain stays a function of its records.

    Args:
        schedule: milestones, rates and the number of scheduled epochs.
        resize_epoch: completed epochs before the last rescale; 0: there is none.
        test_top1: test accuracy of each finished epoch, as fractions.
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


def _rates(schedule: ScheduleSettings, position: int) -> tuple[float, float]:
    """Learning rates at the beginning and the end of an epoch."""
    if schedule.rule == "one_cycle":
        return _one_cycle(schedule, position - 1), _one_cycle(schedule, position)
    peak = schedule.learning_rates[sum(position > milestone for milestone in schedule.milestones)]
    if position <= schedule.warmup_epochs:
        return peak * (position - 1) / schedule.warmup_epochs, peak * position / schedule.warmup_epochs
    if schedule.rule == "milestones":
        return peak, peak
    start, end = (
        _along_cosine(peak, 0.0, (done - schedule.warmup_epochs) / (schedule.epochs - schedule.warmup_epochs))
        for done in (position - 1, position)
    )
    return start, end


def _one_cycle(schedule: ScheduleSettings, done: int) -> float:
    """The rate after a number of epochs, with the proportions of torch's ``OneCycleLR`` (Smith and Topin, 2017)."""
    (peak,), rise = schedule.learning_rates, schedule.warmup_epochs
    if done <= rise:
        return _along_cosine(peak / 25, peak, done / rise)
    return _along_cosine(peak, peak / 25e4, (done - rise) / (schedule.epochs - rise))


def _along_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def _held(top1: Sequence[float], limit: int) -> tuple[int, bool]:
    """Held epochs among those after the resize, and whether the next one is held too."""
    for index in range(1, min(len(top1), limit)):
        if top1[index] < top1[index - 1]:
            return index + 1, False
    return min(len(top1), limit), len(top1) < limit
