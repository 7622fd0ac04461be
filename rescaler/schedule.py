"""Schedules: which network trains when, for how long, at what learning rate; pure functions of the settings.

The paper's milestones (section 4) and held rule (section 5.2), cosine, one cycle, linear, constant. They run over the
epochs, or over the cost spent: a mini-batch of each network costs what its step takes, in steps of the target network.
A rate that changes within an epoch does so along a line from where the epoch begins to where it ends: two numbers,
which are in its key.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

from rescaler.config import Experiment, ScheduleSettings, require
from rescaler.errors import InputError

AUTO_SHARE, AUTO_SHARE_INPUT_ONLY = 0.45, 0.3
"""Shares of a budget that ``resize_epoch=auto`` spends on pre-train networks: docs/study_protocol.md."""


class Stretch(NamedTuple):
    """How long one network trains."""

    epochs: int
    """The last of which may be a part of one; 0 where it is not trained."""
    batches: int
    """Mini-batches of a whole epoch."""
    last_batches: int
    """Mini-batches of its last epoch."""
    step_cost: float
    """Of a mini-batch, in steps of the target network."""

    def epoch_batches(self) -> list[int]:
        """Return the mini-batches of each epoch."""
        return [self.batches] * (self.epochs - 1) + [self.last_batches] * (self.epochs > 0)


class Slot(NamedTuple):
    """A scheduled epoch."""

    stage: int
    batches: int
    start: float
    """Where the schedule stands when it begins, from 0 to ``schedule.epochs``."""
    end: float


@dataclass(frozen=True)
class Rule:
    """What the schedule says about one epoch."""

    stage: int
    """Which network, counted from 0."""
    batches: int
    learning_rate: float
    """At its beginning."""
    learning_rate_end: float
    decays: bool
    """Whether weights decay."""
    held: bool
    """The epoch repeats the rule in force at the resize (section 5.2) and lengthens the run by one."""


def timetable(schedule: ScheduleSettings, stretches: Sequence[Stretch]) -> tuple[Slot, ...]:
    """Lay out the scheduled epochs of a run.

    Without a budget and by epochs, the schedule stands at the number of epochs done. Else its whole length is run
    through, by the share of the epochs or of the cost that is done.
    """
    by_cost = schedule.clock == "cost"
    elapsed = [0.0]
    epochs = [(stage, batches) for stage, one in enumerate(stretches) for batches in one.epoch_batches()]
    for stage, batches in epochs:
        one = stretches[stage]
        elapsed.append(elapsed[-1] + (batches * one.step_cost if by_cost else batches / one.batches))
    total = elapsed[-1]
    if by_cost and schedule.budget is not None:
        total = schedule.budget * schedule.epochs * stretches[-1].batches  # the same for all runs: they share epochs
    stands = [min(schedule.epochs * done / total, schedule.epochs) for done in elapsed]
    return tuple(Slot(*epoch, *ends) for epoch, ends in zip(epochs, pairwise(stands), strict=True))


def next_rule(
    schedule: ScheduleSettings, slots: Sequence[Slot], resize_epoch: int, test_top1: Sequence[float]
) -> Rule | None:
    """Return the rule of the next epoch; None when the run is complete.

    Args:
        schedule: the settings.
        slots: of :func:`timetable`.
        resize_epoch: completed epochs before the last rescale; 0: there is none.
        test_top1: test accuracy of each finished epoch, as fractions; no other number of a run has any influence.
    """
    done = len(test_top1)
    held, holding = 0, False
    if schedule.hold_after_resize and 0 < resize_epoch <= done:
        held, holding = _held(test_top1[resize_epoch:], schedule.hold_limit)
    index = resize_epoch if holding else done - held
    if index >= len(slots):
        return None
    slot = slots[index]
    # A held epoch repeats the rule of the last epoch before the resize, which is where the schedule stands.
    rule = slots[resize_epoch - 1] if holding else slot
    start, end = _rates(schedule, rule)
    decays = schedule.weight_decay_until is None or rule.start < schedule.weight_decay_until
    return Rule(slot.stage, slot.batches, end if holding else start, end, decays, holding)


def _held(top1: Sequence[float], limit: int) -> tuple[int, bool]:
    """Return how many of the epochs after the resize were held, and whether the next one is."""
    for index in range(1, min(len(top1), limit)):
        if top1[index] < top1[index - 1]:
            return index + 1, False
    return min(len(top1), limit), len(top1) < limit


def _rates(schedule: ScheduleSettings, slot: Slot) -> tuple[float, float]:
    """Return the learning rates at the beginning and the end of an epoch.

    A milestone within an epoch counts from the next epoch on.
    """
    if schedule.rule == "one_cycle":
        return _one_cycle(schedule, slot.start), _one_cycle(schedule, slot.end)
    warmup = schedule.warmup_epochs
    peak = schedule.learning_rates[sum(slot.start >= milestone for milestone in schedule.milestones)]
    rises = slot.start < warmup, slot.end <= warmup
    start, end = (
        peak * stands / warmup if rising else _decayed(schedule, peak, stands)
        for rising, stands in zip(rises, slot[2:], strict=True)
    )
    return start, end


def _decayed(schedule: ScheduleSettings, peak: float, stands: float) -> float:
    share = (stands - schedule.warmup_epochs) / (schedule.epochs - schedule.warmup_epochs or 1)
    if schedule.rule == "linear":
        return peak * (1 - share)
    return _along_cosine(peak, 0.0, share) if schedule.rule == "cosine" else peak


def _one_cycle(schedule: ScheduleSettings, stands: float) -> float:
    """Return the rate at some epoch, with the proportions of torch's ``OneCycleLR`` (Smith and Topin, 2017)."""
    (peak,), rise = schedule.learning_rates, schedule.warmup_epochs
    if stands <= rise:
        return _along_cosine(peak / 25, peak, stands / rise)
    return _along_cosine(peak, peak / 25e4, (stands - rise) / (schedule.epochs - rise))


def _along_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def trains_small(experiment: Experiment) -> bool:
    """Return whether a pre-train network is trained."""
    return resize_shares(experiment) is not None or resolve_resize_epoch(experiment) != 0


def needs_reference(experiment: Experiment) -> bool:
    """Return whether the run follows from what the steps of its networks cost."""
    schedule = experiment.schedule
    return (schedule.budget is not None or schedule.clock == "cost") and trains_small(experiment)


def stretches(experiment: Experiment, batches: Sequence[int], step_costs: Sequence[float]) -> list[Stretch]:
    """Return how long each network trains, the smallest first, the target last.

    Args:
        experiment: checked settings.
        batches: of a whole epoch of each network.
        step_costs: of a mini-batch of each, in steps of the target network.

    Raises:
        InputError: the budget, or a share of it, is too small for a mini-batch, or spent before the target's turn.
    """
    schedule = experiment.schedule
    if schedule.budget is None:
        return [
            Stretch(epochs, size, size, cost)
            for epochs, size, cost in zip(stage_epochs(experiment), batches, step_costs, strict=True)
        ]
    budget = schedule.budget * schedule.epochs * batches[-1]
    counts, spent = [0] * len(batches), 0.0
    shares = resize_shares(experiment)
    never = experiment.resize_epoch == "never"
    if never:
        shares = [(number + 1) / (len(batches) - 1) for number in range(len(batches) - 1)]
    given = [] if shares else _pretrain_epochs(experiment.resize_epoch, len(batches) - 1)
    for stage, cost in enumerate(step_costs[:-1]):
        counts[stage] = _count((shares[stage] * budget - spent) / cost) if shares else given[stage] * batches[stage]
        spent += counts[stage] * cost
    if not never:
        counts[-1] = _count(budget - spent)
    key, value = ("resize_epoch", experiment.resize_epoch) if given or never else ("resize_at", shares)
    if counts[-1] < 1 and not never:
        raise InputError(
            f"{key} must leave the target network a part of schedule.budget={schedule.budget}; got {value}, which "
            f"costs {spent / budget:.2f} of it"
        )
    if shares and min(counts[:-1]) < 1:
        raise InputError(f"{key} must give each pre-train network a mini-batch; got {value}")
    return [
        Stretch(math.ceil(count / size), size, (count - 1) % size + 1, cost)
        for count, size, cost in zip(counts, batches, step_costs, strict=True)
    ]


def _count(batches: float) -> int:
    """Return whole mini-batches, whatever rounding has done to their sum."""
    return math.floor(batches + 1e-6)


def resize_shares(experiment: Experiment) -> list[float] | None:
    """Return the shares of the budget spent when each pre-train network ends; None where epochs say so.

    Raises:
        InputError: ``resize_at`` is no such share, or comes without a budget or with another ``resize_epoch``.
    """
    given, stages = experiment.resize_at, len(experiment.shrink.stages)
    if given is None:
        if experiment.schedule.budget is None or experiment.resize_epoch != "auto":
            return None
        given = AUTO_SHARE_INPUT_ONLY if experiment.shrink.input_only else AUTO_SHARE
    elif experiment.resize_epoch != "auto":
        raise InputError(
            f"resize_epoch must be auto with resize_at={given}, which says when instead; got {experiment.resize_epoch}"
        )
    alone = "null without schedule.budget, of which it is a share: set that, such as schedule.budget=0.65"
    require(experiment.schedule.budget is not None, "resize_at", given, alone)
    ends = given if isinstance(given, list) else [given * number / stages for number in range(1, stages + 1)]
    numbers = [end for end in ends if isinstance(end, int | float) and not isinstance(end, bool)]
    rising = all(a < b for a, b in pairwise([0, *numbers, 1]))
    allowed = f"a share of the budget between 0 and 1, or one for each pre-train network ({stages}), rising"
    require(len(numbers) == len(ends) == stages and rising, "resize_at", given, allowed)
    return [float(end) for end in numbers]


def _pretrain_epochs(ends: int | list[int], stages: int) -> list[int]:
    """Return the epochs of each pre-train network, from the last one of each or of all."""
    ends = ends if isinstance(ends, list) else [math.ceil(ends * number / stages) for number in range(1, stages + 1)]
    return [end - start for start, end in pairwise([0, *ends])]


def stage_epochs(experiment: Experiment) -> list[int]:
    """Return the scheduled epochs of each network without a budget, the smallest first, the target last.

    It is 0 where a network is not trained.

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
    pretrain = _pretrain_epochs(given if isinstance(given, list) else last, stages)
    return [*pretrain, epochs - sum(pretrain)]


def resolve_resize_epoch(experiment: Experiment) -> int | Literal["never"]:
    """Return the completed pre-train epochs before the target network takes over, or ``never``.

    ``auto`` is the paper's rule: an epoch or two before the first change of the learning rate. Where that changes all
    the time, it is a third of the epochs, which is where the first change is in both of the paper's schedules.

    Raises:
        InputError: not a number in range, nor ``never`` or ``auto``; or ``auto`` without a milestone to go by.
    """
    value, schedule = experiment.resize_epoch, experiment.schedule
    most = schedule.epochs if schedule.budget is None else 100_000
    if isinstance(value, list):
        _check_ends(value, len(experiment.shrink.stages), most)
        value = value[-1]
    if value == "auto":
        value = _auto_resize_epoch(schedule)
    if value == "never":
        return "never"
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise InputError(f'resize_epoch must be between 0 and epochs (={most}), "never" or "auto"; got {value}')
    return "never" if value == schedule.epochs and schedule.budget is None else value


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


def check_stages(experiment: Experiment) -> None:
    """Check ``resize_epoch`` and ``resize_at``, as far as that takes no reference times.

    Raises:
        InputError: one of them is impossible.
    """
    schedule, alone = experiment.schedule, not trains_small(experiment)
    if schedule.budget is None:
        stage_epochs(experiment)
        return
    epochs = f"an epoch or more of schedule.epochs={schedule.epochs}"
    require(schedule.budget * schedule.epochs >= 1, "schedule.budget", schedule.budget, epochs)
    most = "at most 1 where the target network is trained alone (resize_epoch=0)"
    require(schedule.budget <= 1 or not alone, "schedule.budget", schedule.budget, most)


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
