"""States of the runs of a sweep: what their folders say, beside what SLURM or the sweep's lock says. Once, or live."""

import contextlib
import math
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from rescaler.errors import InputError
from rescaler.record import CHAIN_FILE, CONFIG_FILE, SUMMARY_FILE, TRUNK_FILE, read_sealed
from rescaler.sweep import FILE, Sweep, SweepRun
from rescaler.sweep.scheduler import JobState, states
from rescaler.text import TextTable, clock, counted, percent

_DEATHS = {
    "OUT_OF_MEMORY": "out of memory",
    "TIMEOUT": "its time limit passed before it could save",
    "NODE_FAIL": "its node failed",
    "PREEMPTED": "preempted and not requeued",
    "DEADLINE": "its deadline passed",
    "BOOT_FAIL": "its node did not start",
}
_RAISED = re.compile(r"(?P<kind>[\w.]*(?:Error|Exception))(?:: (?P<message>.*))?")
_NOISE = ("submitit ", "srun: ", "slurmstepd: error: ***")
"""How lines of a log begin that Submitit writes, or that say no more than that the job is over."""
_ORDER = ("failed", "lost", "cancelled", "running", "waiting", "done")
"""On a terminal that is too small for all runs, the last ones are cut off."""
_LOOK_S = 5.0
"""Seconds between looks: SLURM has other users too."""
_PATIENCE_S = 600.0
"""Seconds without an answer from SLURM, after a first one, before the watch gives up."""
_LINE_S = 60.0
"""Seconds between lines where there is no terminal and nothing new."""


@dataclass(frozen=True)
class RunStatus:
    """State of one run."""

    name: str
    state: str
    """``waiting``, ``running``, ``done``, ``failed``, ``lost`` or ``cancelled``."""
    detail: str = ""
    position: float = 0.0
    """Epochs trained, in fractions."""
    epochs: int | None = None
    """Epochs planned, as far as is known."""
    top1: float | None = None
    """Best test accuracy so far, a fraction."""
    left_s: float | None = None
    """Seconds left, as far as is known."""

    @property
    def is_over(self) -> bool:
        """Whether it will not run any more by itself."""
        return self.state not in ("waiting", "running")

    @property
    def is_unfinished(self) -> bool:
        """Whether it ended before its last epoch."""
        return self.is_over and self.state != "done"


def sweep_at(folder: Path) -> Sweep:
    """Read the sweep in ``folder``; a run's folder is a sweep of one."""
    return Sweep.of_run(folder) if (folder / CONFIG_FILE).exists() else Sweep.read(folder)


def statuses(sweep: Sweep) -> list[RunStatus]:
    """State of each run of a sweep, in its order."""
    jobs: Mapping[str, JobState] = {}
    if sweep.launcher is not None:
        jobs = states([*(run.job for run in sweep.runs if run.job), *sweep.trunk_jobs.values()])
    return [_status(sweep, run, jobs) for run in sweep.runs]


def refuse_if_alive(folder: Path) -> None:
    """Raise InputError if ``folder`` has a sweep whose SLURM jobs wait or run."""
    if not (folder / FILE).exists() or (sweep := Sweep.read(folder)).launcher is None:
        return
    if not all(one.is_over for one in statuses(sweep)):
        raise InputError(f"jobs of {folder} wait or run: wait for them, or {sweep.command('cancel')}")


def _status(sweep: Sweep, run: SweepRun, jobs: Mapping[str, JobState]) -> RunStatus:
    path = sweep.folder_of(run) / SUMMARY_FILE
    summary = _read(path)
    state, detail = _state(sweep, run, summary, jobs)
    if state == "lost" and not summary and (path.exists() or (path.parent / CHAIN_FILE).exists()):
        detail = f"remove {path} first, it is a folder" if path.is_dir() else f"its {SUMMARY_FILE} is damaged or gone"
    left_s = _number(summary, "left_s") if state in ("waiting", "running") else None
    if left_s is not None and state == "running":
        with contextlib.suppress(KeyError, TypeError, ValueError):
            left_s -= (datetime.now(UTC) - datetime.fromisoformat(summary["updated"])).total_seconds()
        left_s = max(0.0, left_s)
    epochs = _number(summary, "epochs_planned")
    top1, position = _number(summary, "best_top1"), _number(summary, "position")
    return RunStatus(run.name, state, detail, position or 0.0, None if epochs is None else int(epochs), top1, left_s)


def _state(sweep: Sweep, run: SweepRun, summary: Mapping[str, Any], jobs: Mapping[str, JobState]) -> tuple[str, str]:
    said, error = summary.get("status"), str(summary.get("error"))
    if said == "done":
        return "done", _times(int(_number(summary, "requeues") or 0))
    if sweep.launcher is None:
        return _local_state(sweep, run, said, error)
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
    if said == "failed":
        return "failed", error
    if job.name in _DEATHS:
        return "lost", _DEATHS[job.name]
    words = _last_words(sweep.jobs_folder, run.job, run_began=said == "running")
    if words is None:
        return "lost", f"its job {run.job} ended without a word" + (f" ({job.name})" if job.name else "")
    return "failed", words


def _local_state(sweep: Sweep, run: SweepRun, said: object, error: str) -> tuple[str, str]:
    if said == "failed":
        return "failed", error
    if (owner := sweep.owner) is not None:
        return "running" if said else "waiting", "" if owner.host == socket.gethostname() else f"on {owner.host}"
    if run.cancelled:
        return "cancelled", ""
    return "lost", "its process is gone" if said else "never started"


def _times(requeues: int) -> str:
    return f"requeued {counted(requeues, 'time')}" if requeues else ""


def _trunk_detail(sweep: Sweep, run: SweepRun, jobs: Mapping[str, JobState]) -> str:
    trunk_job = jobs.get(sweep.trunk_jobs.get(run.trunk or "", ""))
    if run.trunk is None or trunk_job is None or trunk_job.is_over:
        return ""
    if not trunk_job.runs:
        return "for its trunk, which waits"
    trunk = _read(sweep.folder / run.trunk / TRUNK_FILE)
    position, epochs = _number(trunk, "position"), _number(trunk, "epochs_planned")
    if position is None or epochs is None:
        return "for its trunk, which starts"
    return f"for its trunk: epoch {position:.1f} of {epochs:g}"


def _last_words(folder: Path, job: str, *, run_began: bool) -> str | None:
    """The last exception in a job's error log; else its last line, unless the run had begun to train."""
    path = Path(str(folder).replace("%j", job)) / f"{job}_0_log.err"  # as Submitit names it
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    lines = [line.strip() for line in reversed(text.splitlines())]
    for line in lines:
        if raised := _RAISED.fullmatch(line):
            return raised["message"] if raised["kind"].endswith(InputError.__name__) else line
    return None if run_began else next((line for line in lines if line and not line.startswith(_NOISE)), None)


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_sealed(path)
    except InputError:
        return {}


def _number(values: Mapping[str, Any], key: str) -> float | None:
    value = values.get(key)
    return float(value) if isinstance(value, int | float) else None


def counts(found: Sequence[RunStatus]) -> str:
    """How many runs are in each state."""
    return ", ".join(f"{count} {state}" for state, count in Counter(one.state for one in found).most_common())


def status_table(sweep: Sweep, found: Sequence[RunStatus]) -> TextTable:
    """Table of the runs' states."""
    rows = [
        [
            one.name,
            f"{one.state}: {one.detail}" if one.detail else one.state,
            "–" if one.epochs is None else f"{round(one.position, 1):g} of {one.epochs}",
            "–" if one.top1 is None else percent(one.top1, 2),
            "–" if one.left_s is None else clock(one.left_s),
        ]
        for one in found
    ]
    heading = f"{sweep.folder}: {counts(found)}"
    return TextTable(heading, ["Run", "State", "Epoch", "Best accuracy", "Time left"], rows, words={"State"})


def watch(folder: Path, console: Console) -> None:
    """Show a sweep or a run until all is over: a live table on a terminal, lines elsewhere."""
    if console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            for sweep, found in _looks(folder):
                shown = status_table(sweep, sorted(found, key=lambda one: _ORDER.index(one.state)))
                live.update(Group(Text(shown.heading, "bold"), shown.view()), refresh=True)
        return
    said, said_at = "", 0.0
    for _, found in _looks(folder):
        now = counts(found)
        if now != said or time.monotonic() - said_at > _LINE_S:
            console.print(Text(now), soft_wrap=True)
            said, said_at = now, time.monotonic()


def _looks(folder: Path) -> Iterator[tuple[Sweep, list[RunStatus]]]:
    """The sweep, which others may cancel or retry meanwhile, and its runs, until they are over."""
    answered_at = -math.inf
    while True:
        sweep = sweep_at(folder)
        try:
            found = statuses(sweep)
        except InputError:  # SLURM may be busy for a while, or restarted
            if time.monotonic() - answered_at > _PATIENCE_S:
                raise
            time.sleep(_LOOK_S)
            continue
        answered_at = time.monotonic()
        yield sweep, found
        if all(one.is_over for one in found):
            return
        time.sleep(_LOOK_S)
