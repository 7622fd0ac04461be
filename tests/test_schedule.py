import math
from collections.abc import Sequence

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR

from rescaler.config import ScheduleSettings
from rescaler.schedule import Rule, Stretch, next_rule, timetable

OVERFEAT = ScheduleSettings(
    epochs=55,
    learning_rates=[1e-2, 5e-3, 1e-3, 5e-4, 1e-4],
    milestones=[18, 29, 43, 52],
    weight_decay=1e-4,
    weight_decay_until=29,
)
RESNET = ScheduleSettings(epochs=90, learning_rates=[1e-1, 1e-2, 1e-3], milestones=[30, 60], weight_decay=1e-4)


def rules(schedule: ScheduleSettings, resize_epoch: int = 0, top1: Sequence[float] = ()) -> list[Rule]:
    """All rules of a run whose test accuracy rises for ever, but for the accuracies given."""
    accuracies: list[float] = []
    found: list[Rule] = []
    lengths = [epochs for epochs in (resize_epoch, schedule.epochs - resize_epoch) if epochs]
    slots = timetable(schedule, [Stretch(epochs, 10, 10, 1.0) for epochs in lengths])
    while (rule := next_rule(schedule, slots, resize_epoch, accuracies)) is not None:
        found.append(rule)
        done = len(accuracies)
        accuracies.append(top1[done] if done < len(top1) else 0.5 + done / 1000)
    return found


def rates(found: Sequence[Rule]) -> list[tuple[float, float, bool]]:
    return [(rule.learning_rate, rule.learning_rate_end, rule.decays) for rule in found]


def test_overfeat_schedule_is_the_papers() -> None:
    # Section 4: lowered at the end of epochs 18, 29, 43, 52; weight decay until the end of epoch 29.
    found = rules(OVERFEAT)
    assert len(found) == 55
    by_rate = {
        rate: [e for e, rule in enumerate(found, 1) if rule.learning_rate == rate]
        for rate in (1e-2, 5e-3, 1e-3, 5e-4, 1e-4)
    }
    assert [(epochs[0], epochs[-1]) for epochs in by_rate.values()] == [(1, 18), (19, 29), (30, 43), (44, 52), (53, 55)]
    assert [e for e, rule in enumerate(found, 1) if rule.decays] == list(range(1, 30))


def test_resnet_schedule_is_the_papers() -> None:
    # Section 5.3: lowered before epochs 31 and 61, weight decay throughout.
    found = rules(RESNET)
    assert [found[e - 1].learning_rate for e in (1, 30, 31, 60, 61, 90)] == [1e-1, 1e-1, 1e-2, 1e-2, 1e-3, 1e-3]
    assert all(rule.decays for rule in found)
    assert len(found) == 90


def held(schedule: ScheduleSettings) -> ScheduleSettings:
    return ScheduleSettings(**{**vars(schedule), "hold_after_resize": True})


def test_held_rule_lasts_until_accuracy_drops_and_lengthens_the_run() -> None:
    # Table 3, first row: resized after 18 epochs, accuracy drops in the fifth epoch after: 5 extra epochs.
    top1 = [0.5] * 18 + [0.40, 0.41, 0.42, 0.43, 0.42]
    found = rules(held(OVERFEAT), 18, top1)
    assert len(found) == 60
    assert [e for e, rule in enumerate(found, 1) if rule.held] == [19, 20, 21, 22, 23]
    assert {rule.learning_rate for rule in found[:23]} == {1e-2}
    # ... and the schedule goes on from where it stood.
    assert rates(found[23:]) == rates(rules(OVERFEAT)[18:])


def test_drop_at_the_resize_itself_does_not_end_the_hold() -> None:
    top1 = [0.9] * 43 + [0.3, 0.5, 0.4]
    assert [e for e, rule in enumerate(rules(held(OVERFEAT), 43, top1), 1) if rule.held] == [44, 45, 46]


def test_hold_ends_at_its_limit() -> None:
    schedule = held(OVERFEAT)
    schedule.hold_limit = 7
    assert len(rules(schedule, 18)) == 62


def test_without_a_rescale_nothing_is_held() -> None:
    assert rules(held(OVERFEAT), 0) == rules(OVERFEAT)


def borders(found: list[Rule]) -> list[float]:
    """Rates where the epochs meet: each begins where the one before it ended."""
    for before, after in zip(found, found[1:], strict=False):
        assert after.learning_rate == pytest.approx(before.learning_rate_end)
    return [found[0].learning_rate, *(rule.learning_rate_end for rule in found)]


def of_torch(scheduler: LRScheduler, epochs: int) -> list[float]:
    rates = []
    for _ in range(epochs + 1):
        rates.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        scheduler.step() if len(rates) <= epochs else None
    return [float(rate) for rate in rates]


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)


def test_cosine_is_torchs() -> None:
    found = rules(ScheduleSettings(epochs=12, rule="cosine", learning_rates=[0.5]))
    assert borders(found) == pytest.approx(of_torch(CosineAnnealingLR(optimizer(), 12), 12))


def test_one_cycle_is_torchs() -> None:
    found = rules(ScheduleSettings(epochs=10, rule="one_cycle", learning_rates=[0.5], warmup_epochs=3))
    # Torch counts the rates, of which there is one more than epochs, and its peak is the last but one of the rise.
    wanted = of_torch(OneCycleLR(optimizer(), 0.5, total_steps=11, pct_start=4 / 11, cycle_momentum=False), 10)
    assert borders(found) == pytest.approx(wanted)


def test_warm_up_rises_along_a_line_beside_the_milestones_and_before_the_cosine() -> None:
    milestones = rules(ScheduleSettings(epochs=6, learning_rates=[0.4, 0.1], milestones=[4], warmup_epochs=2))
    assert [(rule.learning_rate, rule.learning_rate_end) for rule in milestones[:3]] == [
        (0.0, 0.2),
        (0.2, 0.4),
        (0.4, 0.4),
    ]
    assert milestones[-1].learning_rate == 0.1
    cosine = borders(rules(ScheduleSettings(epochs=6, rule="cosine", learning_rates=[0.4], warmup_epochs=2)))
    assert cosine == pytest.approx([0, 0.2, 0.4, 0.2 + 0.2 * math.sqrt(0.5), 0.2, 0.2 - 0.2 * math.sqrt(0.5), 0])


def test_a_held_cosine_stands_still_where_it_was_and_goes_on_from_there() -> None:
    cosine = ScheduleSettings(epochs=8, rule="cosine", learning_rates=[0.4])
    found = rules(held(cosine), 4, [0.5] * 4 + [0.2, 0.3, 0.1])
    assert [rule.held for rule in found] == [False] * 4 + [True] * 3 + [False] * 4
    assert [rule.learning_rate for rule in found[4:7]] == pytest.approx([0.2] * 3)
    assert [rule.learning_rate_end for rule in found[4:7]] == pytest.approx([0.2] * 3)
    assert rates(found[:4] + found[7:]) == rates(rules(cosine))
