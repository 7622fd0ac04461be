import json
import signal
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeExperiment

from rescaler.running import trainingfolder
from rescaler.running.execution import execute_trunk
from rescaler.running.trunkfolder import TrunkFolder
from rescaler.training import statefile
from rescaler.training.plan import plan


def trunk(folder: Path) -> Any:
    return json.loads((folder / "trunk.json").read_text())


def test_a_trunk_says_now_and_then_how_far_it_is(
    make_experiment: MakeExperiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    epoch = plan(make_experiment()).chain.next([])  # of 5 batches
    assert epoch is not None
    folder = TrunkFolder(tmp_path, 3)
    assert trunk(tmp_path) == {
        "status": "running",
        "error": None,
        "position": 0.0,
        "requeues": 2,
        "epochs_planned": 3,
    }
    folder.batch(epoch, 1)
    assert trunk(tmp_path)["position"] == 0.0, "it was written a moment ago"
    monkeypatch.setattr(trainingfolder, "_WRITE_S", -1)
    folder.batch(epoch, 2)
    assert trunk(tmp_path)["position"] == pytest.approx(0.4)


def test_a_trunk_that_is_trained_is_done(
    make_experiment: MakeExperiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    execute_trunk([(make_experiment(), 2, (2,))], tmp_path / "trunk")
    found = trunk(tmp_path / "trunk")
    assert (found["status"], found["position"]) == ("done", 2)


def test_a_warning_between_two_parts_is_heeded_by_the_second(
    make_experiment: MakeExperiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SLURM warns once: a warning that is forgotten is a job that its time limit ends unsaved."""

    def requeue(*_: object) -> None:
        raise SystemExit(0)

    def note(folder: TrunkFolder, status: Any, error: str | None = None) -> None:
        write_note(folder, status, error)
        if status == "done":
            signal.raise_signal(signal.SIGUSR2)

    write_note = TrunkFolder.note
    monkeypatch.setattr(TrunkFolder, "note", note)
    monkeypatch.chdir(tmp_path)
    before = signal.signal(signal.SIGUSR2, requeue)
    try:
        with pytest.raises(SystemExit):
            execute_trunk([(make_experiment(seed=seed), 1, (1,)) for seed in (0, 1)], tmp_path / "trunk")
    finally:
        signal.signal(signal.SIGUSR2, before)
    (save,) = (tmp_path / "ledger" / "saves").glob("*.pt")
    assert statefile.read(save).more["batches"] == 1
