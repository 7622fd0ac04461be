import json
import signal
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeExperiment

from rescaler import runfolder
from rescaler.config import StageSettings
from rescaler.execution import execute_trunk
from rescaler.ledger import Ledger
from rescaler.plan import plan
from rescaler.runfolder import RunFolder, TrunkFolder

RESNET = {"_target_": "rescaler.models.resnet_small", "widths": [4], "blocks": 1}


@pytest.mark.parametrize(
    ("changes", "variant"),
    [
        ({}, "3->2, 5->3 at 17 px; bilinear; resize optimizer"),
        ({"resize_epoch": 0}, ""),
        ({"resize_epoch": "never", "schedule__hold_after_resize": True}, "3->2, 5->3 at 17 px"),
        (
            {"shrink__padding": {"conv1": 0}, "schedule__hold_after_resize": True},
            "3->2, 5->3 at 17 px; padding conv1=0; bilinear; resize optimizer; at most 20 epochs held",
        ),
        ({"shrink__input_only": True}, "input only at 17 px; bilinear; resize optimizer"),
        (
            {"rescale__interpolation": "fit", "rescale__optimizer_state": "reset", "rescale__recalibrate": True},
            "3->2, 5->3 at 17 px; fit; reset optimizer; 5 calibration batches",
        ),
        (
            {"model": RESNET, "rescale__recalibrate": True, "rescale__warmup_batches": 3},
            "3->2 at 19 px; bilinear; resize optimizer; BatchNorm recalibrated; 5 calibration batches; "
            "3 warmup batches",
        ),
        (
            {
                "shrink__middle": [StageSettings(table={1: 1, 3: 2, 5: 4}, image_px=22)],
                "resize_epoch": [1, 4],
            },
            "3->2, 5->3 at 17 px to epoch 1; 3->2, 5->4 at 22 px to epoch 4; bilinear; resize optimizer",
        ),
    ],
)
def test_the_summary_says_how_a_run_differs_from_others_of_its_resize_epoch(
    make_experiment: MakeExperiment, tmp_path: Path, changes: dict[str, object], variant: str
) -> None:
    RunFolder(tmp_path, plan(make_experiment(**changes)))
    assert json.loads((tmp_path / "summary.json").read_text())["variant"] == variant


@pytest.mark.parametrize(("resize_epoch", "holds"), [(0, False), (3, True), ("never", False)])
def test_only_a_resize_is_held(
    make_experiment: MakeExperiment, tmp_path: Path, resize_epoch: object, *, holds: bool
) -> None:
    RunFolder(tmp_path, plan(make_experiment(resize_epoch=resize_epoch, schedule__hold_after_resize=True)))
    assert json.loads((tmp_path / "summary.json").read_text())["hold"] is holds


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
    monkeypatch.setattr(runfolder, "_WRITE_S", -1)
    folder.batch(epoch, 2)
    assert trunk(tmp_path)["position"] == pytest.approx(0.4)


def test_a_trunk_that_is_trained_is_done(
    make_experiment: MakeExperiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    execute_trunk([(make_experiment(), 2, (2,))], tmp_path / "trunk")
    found = trunk(tmp_path / "trunk")
    assert (found["status"], found["position"]) == ("done", 2)


def test_a_warning_between_two_parts_is_heeded_before_the_second(
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
    assert [record.epoch for record in Ledger(tmp_path / "ledger").records()] == [1], "of the first part"
