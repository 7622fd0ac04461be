"""``status``, ``retry`` and ``cancel`` of sweeps on this machine."""

import json
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeExperiment
from processes import started, wait_until
from test_run import TINY, command, final_digests

from rescaler.cli import main
from rescaler.compose import Job
from rescaler.execution import execute
from rescaler.plan import Run
from rescaler.record import Record, sealed, unsealed
from rescaler.runfolder import write_config
from rescaler.sweep import RUN_LOCK, Sweep, SweepRun, newest, owned
from rescaler.sweep.planner import freeze, plan_runs
from rescaler.sweep.status import statuses, sweep_at
from rescaler.train import train

SWEEP = ["-m", "seed=0,1", "resize_epoch=3", *TINY]


@pytest.fixture
def sweeping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["subprocess.Popen[bytes]"]:
    """A sweep that is in its first run and has much before it."""
    monkeypatch.chdir(tmp_path)
    long = ["schedule.batches_per_epoch=50000", "checkpoint_every_min=0.01"]
    with started(command(*SWEEP, *long), cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
        saves = tmp_path / "ledger" / "saves"
        wait_until(lambda: process.poll() is not None or list(saves.glob("[!.]*")), "a save", every_s=0.02)
        yield process


def states(text: str) -> list[str]:
    return [line.split()[1] for line in text.splitlines() if line.startswith("seed=")]


def test_a_sweep_is_looked_at_and_cancelled_and_saves_first(
    sweeping: "subprocess.Popen[bytes]", tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["status"])
    assert states(capsys.readouterr().out) == ["running", "waiting"]
    assert [one.state for one in statuses(sweep_at(newest(tmp_path / "runs") / "0"))] == ["running"]
    main(["retry"])
    assert "nothing to retry: 1 running, 1 waiting" in capsys.readouterr().out
    main(["cancel", str(newest(tmp_path / "runs"))])
    assert "2 runs cancelled" in capsys.readouterr().out
    assert sweeping.wait(timeout=60) == -signal.SIGTERM
    assert len(list(tmp_path.glob("ledger/saves/*.safetensors"))) == 1
    main(["status"])
    assert states(capsys.readouterr().out) == ["cancelled", "cancelled"]
    main(["cancel"])
    assert "nothing to cancel, no run waits or runs" in capsys.readouterr().out


def test_a_single_run_is_looked_at_while_it_trains_and_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], make_experiment: MakeExperiment
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "mine" / "first"

    def said(*words: str) -> list[str]:
        main(["status", *words])
        return [line.split(None, 1)[1].strip() for line in capsys.readouterr().out.splitlines() if "first " in line]

    done = execute(make_experiment(), folder, group="mine")
    assert done is not None
    (row,) = said()
    assert row.startswith("done ")
    assert said("runs/mine/first") == [row]
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(sealed({**unsealed(summary), "status": "running"})))
    with owned(folder / RUN_LOCK, "it", "run", ""):
        (row,) = said()
        assert row.startswith("running ")
    (row,) = said()
    assert row.startswith("lost: its process is gone ")


def test_retry_runs_what_is_left_and_nothing_else(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    make_experiment: MakeExperiment,
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = [SweepRun(f"seed={seed}", str(seed)) for seed in (0, 1)]
    sweep, whole = Sweep(tmp_path / "runs" / "0", runs), tmp_path / "whole"
    for seed, run in enumerate(runs):
        write_config(sweep.folder_of(run), make_experiment(seed=seed))
        execute(make_experiment(seed=seed, ledger__folder="another"), whole / run.folder, group="whole")
    sweep.write()
    execute(make_experiment(seed=0), sweep.folder / "0", group="sweep")  # then the process was killed
    before = (sweep.folder / "0" / "summary.json").read_text()
    main(["status"])
    assert states(capsys.readouterr().out) == ["done", "lost:"]

    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")  # the ledger is found nevertheless
    main(["retry", str(sweep.folder)])
    assert "Resized at epoch 3" in capsys.readouterr().out
    assert list((tmp_path / "elsewhere").iterdir()) == []
    monkeypatch.chdir(tmp_path)
    assert (sweep.folder / "0" / "summary.json").read_text() == before
    assert final_digests(sweep.folder) == final_digests(whole)
    main(["status", "--watch"])
    assert "2 done" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["status", "retry", "cancel"])
def test_no_sweep_is_said_in_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="error: no sweep in runs: start one with"):
        main([name])
    with pytest.raises(SystemExit, match="error: no sweep at nowhere: it must be the folder that a sweep has made"):
        main([name, "nowhere"])


def test_processes_elsewhere_and_of_others_are_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Sweep(tmp_path, [SweepRun("seed=0", "0")]).write()
    (tmp_path / "sweep.lock").write_text("elsewhere 1")
    with pytest.raises(SystemExit, match="runs on elsewhere: cancel it there"):
        main(["cancel", str(tmp_path)])
    assert not Sweep.read(tmp_path).runs[0].cancelled
    with started(["sleep", "60"]) as another:  # has a dead sweep's number now
        (tmp_path / "sweep.lock").write_text(f"{socket.gethostname()} {another.pid}")
        main(["status", str(tmp_path)])
        assert states(capsys.readouterr().out) == ["lost:"]
        main(["cancel", str(tmp_path)])
        assert "nothing to cancel, no run waits or runs" in capsys.readouterr().out
        time.sleep(0.1)
        assert another.poll() is None


def test_retry_goes_on_after_a_run_that_fails_unexpectedly(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_experiment: MakeExperiment,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    sweep = Sweep(tmp_path / "runs" / "0", [SweepRun(f"seed={seed}", str(seed)) for seed in (0, 1)])
    sweep.write()
    for seed, run in enumerate(sweep.runs):
        write_config(sweep.folder_of(run), make_experiment(seed=seed))

    def fail_at_first(run: Run, *arguments: Any, **more: Any) -> list[Record]:
        if run.experiment.seed == 0:
            raise ZeroDivisionError("a bug")
        return train(run, *arguments, **more)

    monkeypatch.setattr("rescaler.execution.train", fail_at_first)
    with pytest.raises(SystemExit, match="error: 1 of 2 runs failed: seed=0: a bug; run them again with: python -m"):
        main(["retry", str(sweep.folder)])
    assert "ZeroDivisionError" in caplog.text
    assert [status.state for status in statuses(Sweep.read(sweep.folder))] == ["failed", "done"]


def test_a_sweep_that_runs_is_not_run_twice(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, [SweepRun(f"seed={seed}", str(seed)) for seed in (0, 1)])
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "summary.json").write_text('{"status": "failed", "error": "the loss became nan"}')
    sweep.write()
    with sweep.owned(), pytest.raises(SystemExit, match="in use by process .*: wait for it, or"):
        main(["retry", str(tmp_path)])


@pytest.mark.parametrize("content", [None, b"\xff", b"seed: many"])
def test_a_damaged_config_is_said_before_anything_is_run_again(tmp_path: Path, content: bytes | None) -> None:
    Sweep(tmp_path, [SweepRun("seed=0", "0")]).write()
    path = tmp_path / "0" / "config.yaml"
    path.parent.mkdir()
    path.write_bytes(content) if content is not None else path.mkdir()
    with pytest.raises(SystemExit, match="^error: .*config.yaml") as ended:
        main(["retry", str(tmp_path)])
    assert "\n" not in str(ended.value)


def test_retry_refuses_settings_that_were_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_experiment: MakeExperiment
) -> None:
    monkeypatch.chdir(tmp_path)
    (planned,) = plan_runs([Job((), make_experiment())], tmp_path / "sweep")
    freeze([planned])
    Sweep(tmp_path / "sweep", [planned.entry]).write()
    write_config(planned.folder, make_experiment(seed=1))
    with pytest.raises(SystemExit, match=r"0/config.yaml was changed after the start of the sweep, in a setting that"):
        main(["retry", "sweep"])
    write_config(planned.folder, make_experiment(name="other"))  # changes no number
    main(["retry", "sweep"])


def test_retry_in_a_copied_project_leaves_the_original_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_experiment: MakeExperiment
) -> None:
    project, copy = tmp_path / "project", tmp_path / "copy"
    project.mkdir()
    monkeypatch.chdir(project)
    sweep = Sweep(project / "runs" / "0", [SweepRun("seed=0", "0")])
    write_config(sweep.folder / "0", make_experiment())
    sweep.write()
    shutil.copytree(project, copy)
    monkeypatch.chdir(tmp_path)
    main(["retry", str(copy / "runs" / "0")])
    assert (copy / "ledger").exists()
    assert not (project / "ledger").exists()


@pytest.mark.parametrize("folder", ["../other", "/other"])
def test_a_sweep_sends_nobody_out_of_its_folder(tmp_path: Path, folder: str) -> None:
    Sweep(tmp_path, [SweepRun("seed=0", folder)]).write()
    with pytest.raises(SystemExit, match=f"sweep.json is not what a sweep writes: {folder} must be a folder in it"):
        main(["retry", str(tmp_path)])


@pytest.mark.parametrize(("command", "content"), [("status", ""), ("retry", "{"), ("retry", '{"check": "0"}')])
def test_a_damaged_sweep_is_one_line(tmp_path: Path, command: str, content: str) -> None:
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(SystemExit, match=f"^error: .*{tmp_path}/sweep.json"):
        main([command, str(tmp_path)])


def test_verify_says_what_is_damaged_and_what_will_happen(
    tmp_path: Path, make_experiment: MakeExperiment, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = tmp_path / "ledger"
    execute(make_experiment(ledger__folder=str(ledger)), tmp_path / "run", group="")
    main(["ledger", "verify", "--folder", str(ledger)])
    state = next(ledger.glob("entries/*/*/state.safetensors"))
    state.write_bytes(b"")
    with pytest.raises(SystemExit, match="1 of 6 entries are damaged: a run that needs them trains their epochs again"):
        main(["ledger", "verify", "--folder", str(ledger)])
    assert f"{state.parent.name}: its state is damaged" in capsys.readouterr().out
