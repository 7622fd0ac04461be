"""States of runs from what their folders hold and what SLURM, here a stand-in, says of their jobs."""

import contextlib
import json
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rescaler.sweep import Sweep, SweepRun
from rescaler.sweep.scheduler import JobState
from rescaler.sweep.status import RunStatus, statuses

JOB, TRUNK = "71_0", "70"


def write(path: Path, **content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def log(folder: Path, text: str) -> None:
    path = folder / ".submitit" / JOB / f"{JOB}_0_log.err"
    path.parent.mkdir(parents=True)
    path.write_text(text)


Ask = Callable[..., RunStatus]


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """How the one run of a sweep stands, if SLURM says this of its job and its trunk's."""

    def call(job: JobState, trunk: JobState | None = None) -> RunStatus:
        monkeypatch.setattr("rescaler.sweep.status.states", lambda _: {JOB: job, TRUNK: trunk or JobState("")})
        jobs = {} if trunk is None else {"trunks/0": TRUNK}
        run = SweepRun("seed=0", "0", next(iter(jobs), None), JOB)
        (status,) = statuses(Sweep(tmp_path, [run], {}, jobs))
        return status

    return call


def test_a_job_in_the_queue_waits_whatever_its_last_attempt_wrote(tmp_path: Path, ask: Ask) -> None:
    status = ask(JobState("PENDING"))
    assert (status.state, status.detail) == ("waiting", "")
    assert not status.is_over
    write(tmp_path / "0" / "summary.json", status="running", error=None)
    status = ask(JobState("PENDING", 1))
    assert (status.state, status.detail) == ("waiting", "requeued 1 time")


@pytest.mark.parametrize(
    ("trunk", "file", "detail"),
    [
        (JobState("PENDING"), None, "for its trunk, which waits"),
        (JobState("RUNNING"), None, "for its trunk, which starts"),
        (JobState("RUNNING"), {"position": 3.25, "epochs_planned": 19}, "for its trunk: epoch 3.2 of 19"),
        (JobState("COMPLETED"), {"position": 19, "epochs_planned": 19}, ""),
    ],
)
def test_a_branch_says_how_far_its_trunk_is(
    tmp_path: Path, ask: Ask, trunk: JobState, file: dict[str, Any] | None, detail: str
) -> None:
    if file is not None:
        write(tmp_path / "trunks" / "0" / "trunk.json", **file)
    status = ask(JobState("PENDING"), trunk)
    assert (status.state, status.detail) == ("waiting", detail)


def test_a_running_job_counts_down(tmp_path: Path, ask: Ask) -> None:
    ago = (datetime.now(UTC) - timedelta(seconds=40)).isoformat()
    numbers = {"position": 2.5, "epochs_planned": 6, "best_top1": 0.5, "left_s": 100.0, "updated": ago}
    write(tmp_path / "0" / "summary.json", status="running", **numbers)
    status = ask(JobState("RUNNING", 2))
    assert (status.state, status.detail) == ("running", "requeued 2 times")
    assert (status.position, status.epochs, status.top1) == (2.5, 6, 0.5)
    assert status.left_s == pytest.approx(60, abs=5)


def test_a_finished_run_is_done_whatever_slurm_says(tmp_path: Path, ask: Ask) -> None:
    write(tmp_path / "0" / "summary.json", status="done", error=None, requeues=3)
    for state in ("", "COMPLETED", "COMPLETING", "FAILED", "CANCELLED"):
        status = ask(JobState(state))
        assert (status.state, status.detail) == ("done", "requeued 3 times")
        assert status.is_over
        assert not status.is_unfinished


def test_a_failure_says_why_until_the_run_is_tried_again(tmp_path: Path, ask: Ask) -> None:
    write(tmp_path / "0" / "summary.json", status="failed", error="the loss became nan")
    status = ask(JobState("FAILED"))
    assert (status.state, status.detail) == ("failed", "the loss became nan")
    assert status.is_unfinished
    assert ask(JobState("PENDING")).state == "waiting"
    assert ask(JobState("CANCELLED")).state == "cancelled"


@pytest.mark.parametrize(
    ("state", "detail"),
    [
        ("OUT_OF_MEMORY", "out of memory"),
        ("TIMEOUT", "its time limit passed before it could save"),
        ("NODE_FAIL", "its node failed"),
        ("FAILED", "its job 71_0 ended without a word (FAILED)"),
        ("", "its job 71_0 ended without a word"),
    ],
)
def test_a_job_that_died_is_lost(tmp_path: Path, ask: Ask, state: str, detail: str) -> None:
    write(tmp_path / "0" / "summary.json", status="running", error=None)
    log(tmp_path, "epoch 3\n")
    status = ask(JobState(state))
    assert (status.state, status.detail) == ("lost", detail)
    assert status.is_unfinished


@pytest.mark.parametrize(
    ("began", "text", "detail"),
    [
        (
            False,
            "Traceback (most recent call last):\nrescaler.errors.InputError: data.folder=tree must hold train/\n",
            "data.folder=tree must hold train/",
        ),
        (True, "[INFO] epoch 3\nTraceback (most recent call last):\nOSError: disk is gone\n", "OSError: disk is gone"),
        (False, "slurmstepd: error: execve(): pyton: None such\n", "slurmstepd: error: execve(): pyton: None such"),
    ],
    ids=["before the run began", "a later attempt", "before Python began"],
)
def test_a_job_that_failed_says_why_by_its_log(tmp_path: Path, ask: Ask, began: bool, text: str, detail: str) -> None:
    if began:
        write(tmp_path / "0" / "summary.json", status="running", error=None)
    log(tmp_path, f"{text}srun: error: node1: task 0: Exited with exit code 1\n")
    status = ask(JobState("FAILED"))
    assert (status.state, status.detail) == ("failed", detail)


def test_a_job_that_wrote_nothing_is_lost_or_was_never_submitted(
    tmp_path: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = ask(JobState(""))
    assert (status.state, status.detail) == ("lost", "its job 71_0 ended without a word")
    monkeypatch.setattr("rescaler.sweep.status.states", lambda _: {})
    (status,) = statuses(Sweep(tmp_path, [SweepRun("seed=0", "0")], {}))
    assert (status.state, status.detail) == ("failed", "never submitted")
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "summary.json").write_text('{"status": "do')
    assert ask(JobState("RUNNING")).state == "running", "a damaged summary is none"


def local(folder: Path, *, alive: bool) -> tuple[str, str]:
    sweep = Sweep(folder, [SweepRun("seed=0", "0")])
    with sweep.owned() if alive else contextlib.nullcontext():
        (status,) = statuses(sweep)
    return status.state, status.detail


def test_a_run_on_this_machine_stands_and_falls_with_its_process(tmp_path: Path) -> None:
    assert local(tmp_path, alive=True) == ("waiting", "")
    assert local(tmp_path, alive=False) == ("lost", "never started")
    write(tmp_path / "0" / "summary.json", status="running", error=None)
    assert local(tmp_path, alive=True) == ("running", "")
    assert local(tmp_path, alive=False) == ("lost", "its process is gone")
    write(tmp_path / "0" / "summary.json", status="failed", error="the loss became nan")
    assert local(tmp_path, alive=True) == ("failed", "the loss became nan")


def test_what_is_in_the_place_of_a_summary_is_said(tmp_path: Path) -> None:
    path = tmp_path / "0" / "summary.json"
    path.mkdir(parents=True)
    assert local(tmp_path, alive=False) == ("lost", f"remove {path} first, it is a folder")
    path.rmdir()
    path.write_text("{")
    assert local(tmp_path, alive=False) == ("lost", "its summary.json is damaged or gone")
    path.unlink()
    (path.parent / "chain.json").write_text("{}")
    assert local(tmp_path, alive=False) == ("lost", "its summary.json is damaged or gone")


def test_the_heartbeat_decides_for_another_host(tmp_path: Path) -> None:
    """A container's host may have another name when it is started again, and locks may not be seen from elsewhere."""
    write(tmp_path / "0" / "summary.json", status="running", error=None)
    (tmp_path / "sweep.lock").write_text("elsewhere 1")
    assert local(tmp_path, alive=False) == ("running", "on elsewhere")
    long_ago = time.time() - 91
    os.utime(tmp_path / "sweep.lock", (long_ago, long_ago))
    assert local(tmp_path, alive=False) == ("lost", "its process is gone")


def test_the_process_touches_its_heartbeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rescaler.sweep._BEAT_S", 0.01)
    with Sweep(tmp_path, []).owned():
        os.utime(tmp_path / "sweep.lock", (0, 0))
        deadline = time.monotonic() + 10
        while (tmp_path / "sweep.lock").stat().st_mtime == 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.mark.parametrize("content", [b"[]", b"\xff", b'{"status": "running", "left_s": "x", "best_top1": {}}'])
def test_files_of_other_content_are_no_traceback(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "summary.json").write_bytes(content)
    assert local(tmp_path, alive=False)[0] == "lost"
    (tmp_path / "0" / "summary.json").unlink()
    (tmp_path / "0" / "summary.json").mkdir()
    assert local(tmp_path, alive=False)[0] == "lost"
