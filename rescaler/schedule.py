"""Learning rules by epoch: the paper's milestones (section 4) and its held rule (section 5.2)."""

from collections.abc import Sequence
from dataclasses import dataclass

from rescaler.settings import ScheduleSettings


@dataclass(frozen=True)
class Rule:
    """What the schedule says about one epoch."""

    learning_rate: float
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
    passed = sum(position > milestone for milestone in schedule.milestones)
    decays = schedule.weight_decay_until is None or position <= schedule.weight_decay_until
    return Rule(schedule.learning_rates[passed], schedule.weight_decay if decays else 0.0, holding)


def _held(top1: Sequence[float], limit: int) -> tuple[int, bool]:
    """Held epochs among those after the resize, and whether the next one is held too."""
    for index in range(1, min(len(top1), limit)):
        if top1[index] < top1[index - 1]:
            return index + 1, False
    return min(len(top1), limit), len(top1) < limit
