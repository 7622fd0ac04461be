"""How the runs of a sweep stand: what their folders say, held against what the cluster or the sweep's lock says."""

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rescaler.record import SUMMARY_FILE, TRUNK_FILE
from rescaler.sweeps.scheduler import JobState, states
from rescaler.sweeps.sweep import Sweep, SweepRun
from rescaler.texttable import counted

_DEATHS = {
    "OUT_OF_MEMORY": "out of memory",
    "TIMEOUT": "its time limit passed before it could save",
    "NODE_FAIL": "its node failed",
    "PREEMPTED": "preempted and not requeued",
    "DEADLINE": "its deadline passed",
    "BOOT_FAIL": "its node did not start",
}


@dataclass(frozen=True)
class RunStatus:
    """How one run stands."""

    name: str
    state: str
    """``waiting``, ``running``, ``done``, ``failed``, ``lost`` or ``cancelled``."""
    detail: str = ""
    position: float = 0.0
    """Epochs behind it, in fractions."""
    epochs: int | None = None
    """Epochs that it will have, as far as is known."""
    top1: float | None = None
    """Best test accuracy so far, a fraction."""
    left_s: float | None = None
    """Seconds that it will still take, as far as is known."""

    @property
    def is_over(self) -> bool:
        """Whether it will not go on by itself."""
        return self.state not in ("waiting", "running")

    @property
    def is_unfinished(self) -> bool:
        """Whether it ended before its last epoch."""
        return self.is_over and self.state != "done"


def statuses(sweep: Sweep) -> list[RunStatus]:
    """How each run of a sweep stands, in its order.

    Raises:
        InputError: the cluster does not answer.
    """
    jobs: Mapping[str, JobState] = {}
    if sweep.launcher is not None:
        jobs = states([*(run.job for run in sweep.runs if run.job), *sweep.trunk_jobs.values()])
    return [_status(sweep, run, jobs) for run in sweep.runs]


def _status(sweep: Sweep, run: SweepRun, jobs: Mapping[str, JobState]) -> RunStatus:
    summary = _read(sweep.folder_of(run) / SUMMARY_FILE)
    state, detail = _state(sweep, run, summary, jobs)
    left_s = summary.get("left_s") if state in ("waiting", "running") else None
    if left_s is not None and state == "running":
        since = datetime.now(UTC) - datetime.fromisoformat(summary["updated"])
        left_s = max(0.0, left_s - since.total_seconds())
    return RunStatus(
        run.name,
        state,
        detail,
        summary.get("position", 0.0),
        summary.get("epochs_planned"),
        summary.get("best_top1"),
        left_s,
    )


def _state(sweep: Sweep, run: SweepRun, summary: Mapping[str, Any], jobs: Mapping[str, JobState]) -> tuple[str, str]:
    if summary.get("status") == "done":
        return "done", _times(summary.get("requeues", 0))
    if sweep.launcher is None:
        return _local_state(sweep, run, summary)
    if run.job is None:
        return "failed", "never submitted"
    job = jobs[run.job]
    requeues = _times(job.requeues)
    if job.waits:
        return "waiting", requeues or _trunk_detail(sweep, run, jobs)
    if job.runs:
        return "running", requeues
    if job.name == "CANCELLED" or run.cancelled:
        return "cancelled", ""
    if summary.get("status") == "failed":
        return "failed", summary["error"]
    if job.name in _DEATHS:
        return "lost", _DEATHS[job.name]
    from rescaler.sweeps.joblog import (
        why_ended,  # takes Submitit, which is slow to import and which nothing else here needs
    )

    words = why_ended(sweep.jobs_folder, run.job, run_began=summary.get("status") == "running")
    if words is None:
        return "lost", f"its job {run.job} ended without a word" + (f" ({job.name})" if job.name else "")
    return "failed", words


def _times(requeues: int) -> str:
    return f"requeued {counted(requeues, 'time')}" if requeues else ""


def _trunk_detail(sweep: Sweep, run: SweepRun, jobs: Mapping[str, JobState]) -> str:
    trunk_job = jobs.get(sweep.trunk_jobs.get(run.trunk or "", ""))
    if run.trunk is None or trunk_job is None or trunk_job.is_over:
        return ""
    trunk = _read(sweep.folder / run.trunk / TRUNK_FILE)
    if not trunk_job.runs:
        return "for its trunk, which waits"
    if not trunk:
        return "for its trunk, which starts"
    return f"for its trunk: epoch {trunk['position']:.1f} of {trunk['epochs_planned']}"


def _local_state(sweep: Sweep, run: SweepRun, summary: Mapping[str, Any]) -> tuple[str, str]:
    said = summary.get("status")
    if said == "failed":
        return "failed", summary["error"]
    is_here = socket.gethostname() == sweep.host
    if sweep.runs_here if is_here else sweep.pid is not None:
        return "running" if said else "waiting", "" if is_here else f"on {sweep.host}, as far as its files say"
    if run.cancelled:
        return "cancelled", ""
    return "lost", "its process is gone" if said else "never started"


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
