"""What is submitted, to a stand-in of the cluster."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from conftest import MakeExperiment

from rescaler.config import SlurmSettings
from rescaler.errors import InputError
from rescaler.plan import plan
from rescaler.sweeps import submission
from rescaler.sweeps.layout import Planned
from rescaler.sweeps.submission import submit
from rescaler.sweeps.sweep import Sweep, SweepRun

Job = Callable[[], None]


@pytest.fixture
def cancelled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the jobs that were cancelled."""
    found: list[str] = []
    monkeypatch.setattr(submission, "cancel", found.extend)
    return found


@pytest.fixture
def planned(make_experiment: MakeExperiment, tmp_path: Path) -> list[Planned]:
    """Two runs with a trunk."""
    changes = {"ledger__folder": str(tmp_path / "ledger")}
    runs = [plan(make_experiment(resize_epoch=epoch, **changes)) for epoch in (2, 3)]
    return [Planned(SweepRun(str(i), str(i)), run, tmp_path / "sweep" / str(i)) for i, run in enumerate(runs)]


def start(planned: list[Planned], monkeypatch: pytest.MonkeyPatch, accepts: int) -> tuple[Sweep, list[str | None]]:
    """Submit to a cluster that accepts so many times; also returns what each submission waits for."""
    waits: list[str | None] = []

    class Cluster:
        def __init__(self, *_: object) -> None: ...

        def submit(self, jobs: Sequence[Job], name: str, after: str | None = None) -> list[str]:
            if len(waits) == accepts:
                raise InputError(f"sbatch: no more of {name}")
            waits.append(after)
            return [f"{len(waits)}_{task}" for task in range(len(jobs))]

    monkeypatch.setattr(submission, "Cluster", Cluster)
    folder = planned[0].folder.parent
    sweep = Sweep(folder, [one.entry for one in planned], {}, pid=None)
    submit(sweep, planned, SlurmSettings())
    return sweep, waits


def test_runs_wait_for_their_trunk(
    planned: list[Planned], monkeypatch: pytest.MonkeyPatch, cancelled: list[str]
) -> None:
    sweep, waits = start(planned, monkeypatch, accepts=2)
    assert waits == [None, "1_0"]
    kept = Sweep.read(sweep.folder)
    assert kept.trunk_jobs == {"trunks/0": "1_0"}
    assert [(run.trunk, run.job) for run in kept.runs] == [("trunks/0", "2_0"), ("trunks/0", "2_1")]
    assert cancelled == []


def test_what_is_refused_in_part_is_undone_but_earlier_results_stay(
    planned: list[Planned], monkeypatch: pytest.MonkeyPatch, cancelled: list[str]
) -> None:
    old, new = (one.folder for one in planned)
    old.mkdir(parents=True)
    (old / "metrics.csv").write_text("of an earlier sweep")
    with pytest.raises(InputError, match="sbatch: no more of rescaler-"):
        start(planned, monkeypatch, accepts=1)
    assert cancelled == ["1_0"]
    assert (old / "metrics.csv").read_text() == "of an earlier sweep"
    assert not new.exists()
    assert not (old.parent / "sweep.json").exists()
