"""Which runs are trained, which epochs they share, what finds its folder, how long it takes."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeExperiment

from rescaler.compose import Job, jobs
from rescaler.config import StageSettings
from rescaler.errors import InputError
from rescaler.execution import execute, execute_trunk
from rescaler.sweep.planner import (
    Group,
    Planned,
    Timed,
    Trunk,
    check_folder,
    find_trunks,
    freeze,
    groups,
    plan_runs,
    shared_hours,
    time_epochs,
)

TABLE_2 = (106.8 / 55, 269.1 / 55)
TABLE_4 = (70.09 / 90, 179.33 / 90)
"""Hours of an epoch of the paper's two baselines."""


def resized(epoch: int, epochs: int = 6) -> list[str]:
    """Keys of a run whose first ``epoch`` epochs are pre-training."""
    return [f"small{i}" if i <= epoch else f"{epoch}large{i}" for i in range(1, epochs + 1)]


def nothing(_: str) -> bool:
    return False


def test_runs_resized_at_several_epochs_share_all_but_the_last_of_the_longest() -> None:
    keys = [resized(2), resized(3), resized(4)]
    assert find_trunks(keys, nothing) == [Group((Trunk(1, 3, (2, 3)),), (0, 1, 2))]


def test_a_baseline_that_shares_nothing_is_no_branch() -> None:
    keys = [resized(0), resized(2), resized(6)]
    assert find_trunks(keys, nothing) == [Group((Trunk(1, 2, (2,)),), (1, 2))]


def test_a_trunk_that_forks_is_several() -> None:
    # Two share a1 b2, two a1 c2, so all a1.
    keys = [["a1", "b2", "d3"], ["a1", "b2", "e3"], ["a1", "c2", "f3"], ["a1", "c2", "g3"]]
    assert find_trunks(keys, nothing) == [Group((Trunk(0, 2, (2,)), Trunk(2, 2, (2,))), (0, 1, 2, 3))]


def test_each_seed_has_its_own() -> None:
    keys = [[f"{seed}{key}" for key in resized(epoch)] for seed in (0, 1) for epoch in (2, 3)]
    assert [group.members for group in find_trunks(keys, nothing)] == [(0, 1), (2, 3)]


def test_a_trunk_whose_states_are_there_is_not_trained_again() -> None:
    keys = [resized(2), resized(3), resized(4)]
    assert find_trunks(keys, {"small2", "small3"}.__contains__) == []
    assert len(find_trunks(keys, {"small3"}.__contains__)) == 1


def test_runs_without_common_epochs_have_none() -> None:
    assert find_trunks([["a"], ["b"], []], nothing) == []


def made(make: MakeExperiment, folder: Path, *changes: dict[str, Any]) -> list[Planned]:
    ledger = str(folder / "ledger")
    experiments = [make(ledger__folder=ledger, **change) for change in changes]
    return plan_runs([Job((f"a={i}",), one, i, str(i)) for i, one in enumerate(experiments)], folder)


@pytest.fixture
def planned(make_experiment: MakeExperiment, tmp_path: Path) -> list[Planned]:
    """Resized after epoch 2 and after epoch 3, and one of another seed."""
    return made(make_experiment, tmp_path, {"resize_epoch": 2}, {"resize_epoch": 3}, {"resize_epoch": 3, "seed": 1})


def test_runs_that_share_epochs_are_behind_a_trunk(planned: list[Planned]) -> None:
    assert groups(planned) == [Group((Trunk(0, 2, (2,)),), (0, 1)), Group((), (2,))]
    assert groups(planned, share_trunk=False) == [Group((), (0, 1, 2))]


def test_with_a_run_that_the_ledger_has_nothing_is_shared(planned: list[Planned]) -> None:
    execute(planned[0].run.experiment, planned[0].folder, group="sweep")
    assert groups(planned) == [Group((), (0, 1, 2))]


def test_held_runs_are_complete_at_their_last_epoch_not_at_the_resize(
    make_experiment: MakeExperiment, tmp_path: Path
) -> None:
    held: dict[str, Any] = {"schedule__hold_after_resize": True, "resize_epoch": 2}
    changes = [held, held | {"rescale__interpolation": "bicubic"}, held | {"rescale__optimizer_state": "reset"}]
    three = made(make_experiment, tmp_path, *changes)
    whole = groups(three[:2])
    execute_trunk([(three[0].run.experiment, 2, (2,))], tmp_path / "trunk")
    assert groups(three[:2]) == [Group((), (0, 1))], "the trunk is there"
    three[0].ledger.state_path(three[0].run.chain.known_keys[-1]).unlink()
    assert groups(three[:2]) == whole
    execute(three[2].run.experiment, three[2].folder, group="sweep")
    assert groups(three[1:]) == [Group((), (0, 1))], "one of them is complete"


def test_a_frozen_sweep_keeps_the_state_where_its_runs_part(planned: list[Planned]) -> None:
    freeze(planned)
    assert all((one.folder / "config.yaml").exists() for one in planned)
    keys, ledger = planned[1].run.chain.known_keys, planned[1].ledger
    held = [ledger.holders(key) != set() for key in keys[:3]]
    assert held == [False, True, True], "and of course its last pre-train's"


def test_a_ledger_that_cannot_be_written_is_said_first(planned: list[Planned], tmp_path: Path) -> None:
    (tmp_path / "ledger").write_text("a file")
    with pytest.raises(InputError, match="cannot write .*ledger"):
        freeze(planned)
    assert not any(one.folder.exists() for one in planned)


def test_jobs_that_are_the_same_run_are_one(
    make_experiment: MakeExperiment, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = made(make_experiment, tmp_path, *({"resize_epoch": epoch} for epoch in ("auto", 3, 5)))
    assert [(one.entry.name, one.entry.folder, one.folder.name) for one in found] == [
        ("a=0", "0", "0"),
        ("a=2", "2", "2"),
    ]
    assert "a=1 is the same run as a=0: it is run once" in caplog.text


def test_a_folder_is_one_runs(make_experiment: MakeExperiment, tmp_path: Path, planned: list[Planned]) -> None:
    twice = [Job((f"seed={seed}",), make_experiment(seed=seed), seed, "x") for seed in (0, 1)]
    with pytest.raises(InputError, match="^hydra.sweep.subdir must be another .*; got x for seed=0 and for seed=1$"):
        plan_runs(twice, tmp_path)
    freeze(planned)
    freeze(planned)  # the same runs are continued
    check_folder(planned[0].folder, make_experiment(resize_epoch=2, data__workers=3))
    with pytest.raises(InputError, match="0 holds another run already: choose another folder, or remove it$"):
        check_folder(planned[0].folder, make_experiment(resize_epoch=3))
    (planned[0].folder / "config.yaml").write_bytes(b"\xff")
    with pytest.raises(InputError, match="0 holds a run already, and not this one: cannot read"):
        check_folder(planned[0].folder, make_experiment(resize_epoch=2))


def timed(hours: Sequence[float], *overrides: str) -> list[Timed]:
    found = plan_runs(jobs(overrides), Path("sweep"), elsewhere="cuda", load=False)
    return [time_epochs(one.run, hours) for one in found]


def total(runs: Sequence[Timed]) -> float:
    return sum(sum(run.hours) for run in runs)


@pytest.mark.parametrize(
    ("sweep", "hours", "published"),
    [
        ("table2_imagenet", TABLE_2, {17: 220.0, 18: 217.0, 19: 213.9, 20: 210.9, "never": 106.8, 0: 269.1}),
        # Its labels name the first target epoch: "29" has 28 pre-train epochs.
        ("table4_imagenet", TABLE_4, {28: 145.60, 29: 144.32, 58: 110.02, 59: 107.82, "never": 70.09, 0: 179.33}),
    ],
)
def test_the_papers_tables_within_their_own_error(
    sweep: str, hours: Sequence[float], published: dict[object, float]
) -> None:
    found = {one.run.resize_epoch: sum(one.hours) for one in timed(hours, f"sweep={sweep}", "data.folder=nowhere")}
    assert found == pytest.approx(published, rel=0.015)


def test_figure_6_alone_and_with_its_trunk_shared() -> None:
    # 576 pre-train and 304 target epochs; the pre-train baseline contains all of the first.
    runs = timed(TABLE_2, "sweep=figure6_imagenet", "schedule.epochs=55")
    baselines = [one for one in runs if one.run.resize_epoch in ("never", 0)]
    others = [one for one in runs if one.run.resize_epoch not in ("never", 0)]
    assert len(others) == 16
    assert total(others) == pytest.approx(2606, abs=1)
    assert shared_hours(others, beside=baselines) == pytest.approx(1488, abs=1)
    assert total(runs) == pytest.approx(2982, abs=1)
    assert shared_hours(runs) == pytest.approx(1863, abs=1)
    # Without the baseline the 54 epochs of the longest trunk are trained for the first time.
    assert shared_hours(others) == pytest.approx(54 * TABLE_2[0] + 304 * TABLE_2[1])


def test_held_epochs_are_not_counted() -> None:
    runs = timed((1.0, 3.0), "sweep=table3")
    assert [one.run.chain.holds for one in runs] == [False, False, True, True, True]
    assert {len(one.hours) for one in runs} == {55}


def test_what_is_not_the_same_is_not_shared() -> None:
    assert shared_hours(timed((1.0, 1.0), "resize_epoch=3", "seed=0,1")) == 2 * 55
    assert shared_hours(timed((1.0, 1.0), "resize_epoch=3", "schedule.hold_after_resize=true,false")) == 3 + 2 * 52
    assert shared_hours(timed((1.0, 1.0), "resize_epoch=3", "schedule.epochs=55,65")) == 65


def test_epochs_are_shared_without_the_data_where_the_ledger_shares_them(
    make_experiment: MakeExperiment, tmp_path: Path
) -> None:
    middle = StageSettings(table={1: 1, 3: 3, 5: 4}, image_px=24)
    changes: list[dict[str, Any]] = [
        *({"resize_epoch": epoch, "seed": seed} for epoch, seed in itertools.product((0, 2, 4, "never"), (0, 1))),
        {"resize_epoch": 2, "schedule__epochs": 5},
        {"resize_epoch": 4, "rescale__interpolation": "bicubic"},
        {"resize_epoch": 4, "rescale__calibration_batches": 3},  # of no use to bilinear: the same run
        *({"resize_epoch": 4, "rescale__interpolation": "fit", "rescale__calibration_batches": n} for n in (3, 5, 6)),
        {"resize_epoch": 4, "shrink__image_px": 18},
        {"resize_epoch": [2, 4], "shrink__middle": [middle]},
        {"resize_epoch": 4, "data__workers": 7, "name": "other"},
        {"resize_epoch": 2, "optim__batch_size": 8},
    ]
    experiments = [Job((f"a={i}",), make_experiment(**change), i, str(i)) for i, change in enumerate(changes)]
    with_data, without = (plan_runs(experiments, tmp_path, load=load) for load in (True, False))
    assert [one.entry.name for one in with_data] == [one.entry.name for one in without]
    keys = {key for one in with_data for key in one.run.chain.known_keys}
    assert shared_hours([time_epochs(one.run, [1.0] * 3) for one in without]) == len(keys)
