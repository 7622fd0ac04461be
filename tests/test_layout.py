from pathlib import Path

import pytest
from conftest import MakeExperiment

from rescaler.errors import InputError
from rescaler.execution import execute, execute_trunk
from rescaler.plan import plan
from rescaler.sweeps.layout import Group, Planned, freeze, groups
from rescaler.sweeps.sweep import SweepRun
from rescaler.training.sharing import Part, Trunk


@pytest.fixture
def planned(make_experiment: MakeExperiment, tmp_path: Path) -> list[Planned]:
    """Resized after epoch 2 and after epoch 3, and one of another seed."""
    changes = [{"resize_epoch": 2}, {"resize_epoch": 3}, {"resize_epoch": 3, "seed": 1}]
    runs = [plan(make_experiment(ledger__folder=str(tmp_path / "ledger"), **change)) for change in changes]
    return [Planned(SweepRun(str(i), str(i)), run, tmp_path / str(i)) for i, run in enumerate(runs)]


def test_runs_that_share_epochs_are_behind_a_trunk(planned: list[Planned]) -> None:
    assert groups(planned) == [Group(Trunk((Part(0, 2, (2,)),), (0, 1)), (0, 1)), Group(None, (2,))]
    assert groups(planned, share_trunk=False) == [Group(None, (0, 1, 2))]


def test_with_a_run_that_the_ledger_has_nothing_is_shared(planned: list[Planned]) -> None:
    execute(planned[0].run.experiment, planned[0].folder, group="sweep")
    assert groups(planned) == [Group(None, (0, 1, 2))]


def test_held_runs_are_complete_at_their_last_epoch_not_at_the_resize(
    make_experiment: MakeExperiment, tmp_path: Path
) -> None:
    held = {"schedule__hold_after_resize": True, "ledger__folder": str(tmp_path / "ledger")}
    changes = [{}, {"rescale__interpolation": "bicubic"}, {"rescale__momentum": "reset"}]
    runs = [plan(make_experiment(resize_epoch=2, **held, **change)) for change in changes]
    both = [Planned(SweepRun(str(i), str(i)), run, tmp_path / str(i)) for i, run in enumerate(runs)]
    whole = groups(both[:2])
    execute_trunk([(runs[0].experiment, Part(0, 2, (2,)))], tmp_path / "trunk")
    assert groups(both[:2]) == [Group(None, (0, 1))], "the trunk is there"
    both[0].ledger.state_path(runs[0].chain.known_keys[-1]).unlink()
    assert groups(both[:2]) == whole
    execute(runs[2].experiment, both[2].folder, group="sweep")
    assert groups(both[1:]) == [Group(None, (0, 1))], "one of them is complete"


def test_a_frozen_sweep_keeps_the_state_where_its_runs_part(planned: list[Planned]) -> None:
    freeze(planned)
    assert all((one.folder / "config.yaml").exists() for one in planned)
    keys, ledger = planned[1].run.chain.known_keys, planned[1].ledger
    assert [ledger.holders(key) != set() for key in keys[:3]] == [False, True, True], (
        "and of course its last pre-train's"
    )


def test_a_ledger_that_cannot_be_written_is_said_first(planned: list[Planned], tmp_path: Path) -> None:
    (tmp_path / "ledger").write_text("a file")
    with pytest.raises(InputError, match="cannot write .*ledger"):
        freeze(planned)
    assert not any(one.folder.exists() for one in planned)
