"""Budgets, schedules by cost, settings by stage: what they change of a run's epochs and keys."""

import dataclasses
from typing import Any

import pytest
import torch
from bench import Bench
from conftest import MakeExperiment
from torch import nn

from rescaler.config import Experiment, StageSettings, check
from rescaler.data.order import split_holdout
from rescaler.errors import InputError
from rescaler.plan import Run, plan
from rescaler.schedule import check_stages

LINEAR: dict[str, Any] = {
    "schedule__rule": "linear",
    "schedule__milestones": [],
    "schedule__learning_rates": [0.1],
    "schedule__weight_decay_until": None,
}
QUARTER: dict[str, Any] = {**LINEAR, "cost__reference": [1.0, 4.0], "schedule__clock": "cost"}


@pytest.fixture
def budgeted(make_experiment: MakeExperiment) -> Any:
    """A run of 6 target epochs of 5 mini-batches by cost, whose pre-train network costs a quarter."""
    return lambda **changes: plan(make_experiment(**{**QUARTER, "resize_epoch": "auto", **changes}))


def cost(run: Run) -> float:
    """In runs of the target."""
    steps = sum(slot.batches * run.chain.stages[slot.stage].stretch.step_cost for slot in run.chain.slots)
    return steps / (run.experiment.schedule.epochs * 5)


@pytest.mark.parametrize(
    ("changes", "epochs", "last_batches"),
    [
        ({"resize_at": 0.25}, [3, 3], [5, 1]),  # 15 steps in all: 3.75 are 15 small ones, 11.25 target's
        ({"resize_epoch": 4}, [4, 2], [5, 5]),
        ({"resize_epoch": 0}, [3], [5]),
        ({"resize_epoch": "never"}, [12], [5]),
        ({}, [6, 2], [2, 3]),  # 0.45 of it: 6.75 are 27 small ones, of 8.25 the target trains 8
        ({"shrink__input_only": True}, [4, 2], [3, 5]),  # 0.3: 4.5 are 18 small ones, of 10.5 10
    ],
)
def test_a_budget_ends_every_run_at_its_cost(
    budgeted: Any, changes: dict[str, Any], epochs: list[int], last_batches: list[int]
) -> None:
    run = budgeted(schedule__budget=0.5, **changes)
    assert [stage.stretch.epochs for stage in run.chain.stages] == epochs
    assert [stage.stretch.last_batches for stage in run.chain.stages] == last_batches
    assert 0.5 - 1 / 30 < cost(run) <= 0.5


def test_middle_stages_share_the_budget(budgeted: Any) -> None:
    middle = [StageSettings(table={1: 1, 3: 2, 5: 4}, image_px=22)]
    run = budgeted(schedule__budget=0.5, shrink__middle=middle, cost__reference=[1.0, 2.0, 4.0], resize_at=[0.2, 0.4])
    assert [stage.stretch.epochs for stage in run.chain.stages] == [3, 2, 2]
    assert cost(run) <= 0.5


def test_by_cost_the_rate_falls_with_what_is_spent_and_ends_at_zero(budgeted: Any) -> None:
    run = budgeted(schedule__budget=0.5, resize_epoch=4)
    slots = run.chain.slots
    # Half a run of 6 epochs: a small epoch is a quarter of a target's, and the schedule passes twice as fast.
    assert [slot.end for slot in slots] == pytest.approx([0.5, 1, 1.5, 2, 4, 6])
    epoch = run.chain.next([])
    assert epoch is not None
    assert epoch.recipe.learning_rate == pytest.approx(0.1)
    assert epoch.recipe.learning_rate_end == pytest.approx(0.1 * (1 - 0.5 / 6))


@pytest.mark.parametrize("rule", ["linear", "cosine", "one_cycle", "constant"])
@pytest.mark.parametrize("clock", ["epochs", "cost"])
def test_every_rule_runs_through_under_both_clocks(budgeted: Any, rule: str, clock: str) -> None:
    warmup = 1 if rule == "one_cycle" else 0
    run = budgeted(
        schedule__budget=0.5, schedule__rule=rule, schedule__clock=clock, schedule__warmup_epochs=warmup, resize_epoch=4
    )
    assert run.chain.slots[0].start == 0
    assert run.chain.slots[-1].end == pytest.approx(6)


def test_milestones_are_squeezed_with_the_schedule(budgeted: Any) -> None:
    rates = {"schedule__rule": "milestones", "schedule__milestones": [3], "schedule__learning_rates": [0.1, 0.01]}
    run = budgeted(schedule__budget=0.5, resize_epoch=4, **rates)
    found = [run.chain._epoch(run.chain.origin, [0.0] * done).recipe.learning_rate for done in range(run.chain.epochs)]
    assert found == [0.1] * 5 + [0.01]  # the fifth epoch begins at 2 of 6, the sixth at 4


def test_runs_of_one_budget_share_their_small_epochs(budgeted: Any) -> None:
    one, other = (budgeted(schedule__budget=0.5, resize_epoch=count) for count in (3, 4))
    assert one.chain.known_keys[:3] == other.chain.known_keys[:3]
    assert one.id != other.id
    slower = budgeted(schedule__budget=0.5, resize_epoch=3, cost__reference=[2.0, 4.0])
    assert slower.chain.known_keys[0] != one.chain.known_keys[0]
    assert budgeted(schedule__budget=0.5, resize_epoch=3, cost__reference=[2.0, 8.0]).id == one.id, "only ratios count"


def test_the_images_go_on_where_the_last_epoch_ended(budgeted: Any) -> None:
    run = budgeted(schedule__budget=0.5, resize_at=0.3)
    epochs = [run.chain._epoch(run.chain.origin, [0.0] * done) for done in range(run.chain.epochs)]
    before = [(epoch.batches_before, epoch.images_before) for epoch in epochs]
    assert before == [(number, 16 * number) for number in (0, 5, 10, 15, 18, 23)]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"schedule__budget": -1.0}, "schedule.budget must be positive"),
        ({"schedule__budget": 0.1}, "schedule.budget must be an epoch or more of schedule.epochs=6; got 0.1"),
        ({"schedule__budget": 1.5, "resize_epoch": 0}, "schedule.budget must be at most 1 where the target"),
        ({"schedule__budget": 0.5, "resize_epoch": 40}, "resize_epoch must leave the target network a part of"),
        ({"schedule__budget": 0.5, "resize_at": 1.0}, "resize_at must be a share of the budget between 0 and 1"),
        ({"schedule__budget": 0.5, "resize_at": 0.001}, "resize_at must give each pre-train network a mini-batch"),
        ({"resize_at": 0.3}, "resize_at must be null without schedule.budget"),
        ({"schedule__budget": 0.5, "resize_at": 0.3, "resize_epoch": 2}, "resize_epoch must be auto with resize_at"),
        ({"schedule__budget": 0.5, "cost__reference": []}, "cost.reference must be given or measured"),
        ({"schedule__budget": 0.5, "cost__reference": [1.0]}, r"cost.reference must be empty, or 2 numbers"),
        ({"schedule__budget": 0.5, "cost__reference": [-1.0, 1.0]}, "cost.reference must be positive"),
        ({"schedule__hold_after_resize": True}, "schedule.hold_after_resize must be false with schedule.budget"),
        ({"stages": {"small": {}}}, "stages.small names no network; allowed: pretrain, target"),
        ({"stages": {"pretrain": {"seed": 1}}}, "stages.pretrain.seed is no setting of a single network"),
        ({"stages": {"pretrain": {"optim": {"lr_factor": 0}}}}, "stages.pretrain.optim.lr_factor must be positive"),
        ({"stages": {"pretrain": {"optim": {"lr_factor": "a"}}}}, "stages.pretrain.optim.lr_factor must be of type"),
        ({"stages": {"pretrain": {"data": {"pad_px": 99}}}}, "^stages.pretrain.data.pad_px must be at most"),
        ({"stages": {"target": {"optim": {"batch_size": 1}, "step": {"micro_batch_size": 2}}}}, "^stages.target.step"),
        ({"init__from_": " "}, "init.from must be a file of weights, .*; got ' '"),
        ({"stages": {"pretrain": 3}}, "stages.pretrain must hold settings by name"),
        ({"data__holdout": 0.7}, r"data.holdout must be in \[0, 0.5\]"),
    ],
)
def test_the_impossible_is_refused_by_name(
    make_experiment: MakeExperiment, changes: dict[str, Any], problem: str
) -> None:
    made = make_experiment(**{**QUARTER, "resize_epoch": "auto", **changes})
    with pytest.raises(InputError, match=problem):
        checked(made)


def checked(made: Experiment) -> None:
    check(made)
    check_stages(made)
    plan(made)


STAGES: list[tuple[str, Any]] = [
    ("optim", {"batch_size": 8}),
    ("optim", {"lr_factor": 2.0}),
    ("optim", {"label_smoothing": 0.1}),
    ("schedule", {"weight_decay": 0.5}),
    ("step", {"dropout": 0.1}),
    ("data", {"pad_px": 1}),
    ("data", {"flip": False}),
    ("data", {"augment": {"_target_": "torch.nn.Identity"}}),
]


@pytest.mark.parametrize(("group", "values"), STAGES)
def test_a_setting_of_one_stage_is_in_the_keys_of_its_epochs_alone(
    make_experiment: MakeExperiment, group: str, values: dict[str, Any]
) -> None:
    plain = plan(make_experiment()).chain.known_keys
    target = plan(make_experiment(stages={"target": {group: values}}))
    assert target.chain.known_keys[:3] == plain[:3]
    assert target.chain.known_keys[3] != plain[3]
    small = plan(make_experiment(stages={"pretrain": {group: values}}))
    assert small.chain.known_keys[0] != plain[0]
    assert len({plan(make_experiment()).id, target.id, small.id}) == 3


def test_settings_of_one_stage_are_what_it_trains_with(bench: Bench, make_experiment: MakeExperiment) -> None:
    stages = {
        "pretrain": {"optim": {"batch_size": 8, "lr_factor": 2.0}, "step": {"dropout": 0.25}},
        "target": {"schedule": {"weight_decay": 0.0}},
    }
    experiment = make_experiment(stages=stages)
    records = bench.train(experiment)
    assert [record.images for record in records] == [40] * 3 + [80] * 3
    assert records[0].learning_rate == 2 * records[3].learning_rate == pytest.approx(0.06)
    assert [record.weight_decay for record in records] == [1e-4] * 3 + [0.0] * 3
    run = plan(experiment)
    drops = [
        {module.p for module in run.network(stage).modules() if isinstance(module, nn.Dropout)}
        for stage in run.chain.stages
    ]
    assert drops == [{0.25}, {0.5}]


def test_test_images_have_a_size_of_their_own(bench: Bench, make_experiment: MakeExperiment) -> None:
    model = {"_target_": "rescaler.models.resnet_small", "widths": [4], "blocks": 1}
    larger, plain = (
        bench.train(make_experiment(model=model, stages=stages))
        for stages in ({"pretrain": {"data": {"test_px": 24}}}, {})
    )
    assert [one.train_loss for one in larger] == [one.train_loss for one in plain]
    changed = [one.test_loss != other.test_loss for one, other in zip(larger, plain, strict=True)]
    assert changed == [True] * 3 + [False] * 3
    with pytest.raises(InputError, match="stages.target.data.test_px=20: .*overfeat_small cannot take such images"):
        plan(make_experiment(stages={"target": {"data": {"test_px": 20}}}))


def test_a_run_with_a_budget_trains_what_was_planned(bench: Bench, make_experiment: MakeExperiment) -> None:
    experiment = make_experiment(**QUARTER, schedule__budget=0.5, resize_epoch="auto", resize_at=0.3)
    records = bench.train(experiment)
    assert [record.images for record in records] == [80, 80, 80, 48, 80, 80]
    assert [record.stage for record in records] == ["pretrain"] * 4 + ["target"] * 2
    assert records[4].rescaled


def test_a_holdout_is_a_share_of_every_class_the_same_for_all_seeds() -> None:
    labels = torch.arange(200) % 4
    stays, held = split_holdout(labels, 0.1)
    assert sorted([*stays.tolist(), *held.tolist()]) == list(range(200))
    assert labels[held].bincount().tolist() == [5] * 4
    assert torch.equal(split_holdout(labels, 0.1)[1], held)
    with pytest.raises(InputError, match="data.holdout must be such that class 0 with its 3 training images"):
        split_holdout(torch.tensor([0, 0, 0, 1, 1, 1]), 0.1)


def test_a_holdout_takes_the_place_of_the_test_set(make_experiment: MakeExperiment) -> None:
    run, other = plan(make_experiment()), plan(make_experiment(data__holdout=0.25))
    assert (run.data.train_count, run.data.test_count) == (200, 100)
    assert (other.data.train_count, other.data.test_count) == (152, 48)
    assert dataclasses.replace(other.experiment.data, holdout=0.0) == run.experiment.data
