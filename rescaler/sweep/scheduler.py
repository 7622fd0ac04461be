"""SLURM's commands: states of jobs, the size of an array, cancelling."""

import re
import shutil
import subprocess
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from rescaler.errors import InputError, listed

_WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "SUSPENDED", "STOPPED"}
_RUNNING = {"RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "RESIZING"}


class JobState(NamedTuple):
    """State of one job."""

    name: str
    """SLURM's word, such as ``PENDING``; empty where it has forgotten the job."""
    requeues: int = 0

    @property
    def waits(self) -> bool:
        """Whether it is in the queue."""
        return self.name in _WAITING

    @property
    def runs(self) -> bool:
        """Whether it is on a node."""
        return self.name in _RUNNING

    @property
    def is_over(self) -> bool:
        """Whether it will not run any more by itself."""
        return not (self.waits or self.runs)


def states(ids: Iterable[str]) -> dict[str, JobState]:
    """States of jobs by id, from the queue or, once that forgot them, from accounting if the cluster has it."""
    wanted = set(ids)
    if shutil.which("squeue") is None:
        raise InputError("no squeue on the path: look at a sweep of SLURM jobs where they were submitted")
    found = _in_queue(wanted)
    forgotten = wanted - set(found)
    if forgotten and shutil.which("sacct") is not None:
        found |= _in_accounts(forgotten)
    return {job: found.get(job, JobState("")) for job in wanted}


def _in_queue(ids: Collection[str]) -> dict[str, JobState]:
    fields = "JobArrayID:64,State:24,RestartCnt:12"
    lines = _answer("squeue", "--me", "--noheader", "--array", "--states=all", f"--Format={fields}").splitlines()
    rows = (line.split() for line in lines)
    return {row[0]: JobState(row[1], int(row[2])) for row in rows if row[0] in ids}


def _in_accounts(ids: Iterable[str]) -> dict[str, JobState]:
    which = ["--allocations", f"--jobs={','.join(ids)}"]
    lines = _call(["sacct", "--noheader", "--parsable2", "--format=JobID,State", *which]).stdout.splitlines()
    pairs = (line.partition("|")[::2] for line in lines)
    return {job: JobState(state.split()[0]) for job, state in pairs}  # "CANCELLED by 0"


def cancel(ids: Iterable[str]) -> None:
    """Cancel jobs; those that are over stay as they are."""
    wanted = list(ids)
    if not wanted:
        return
    finished = _call(["scancel", *wanted])
    if finished.returncode != 0:  # as it also is where one of them was over already
        alive = [job for job, state in states(wanted).items() if not state.is_over and state.name != "COMPLETING"]
        if alive:
            raise InputError(f"scancel: {complaint(finished.stderr)}; still there: {listed(alive)}")


def max_array_size() -> int:
    """How many jobs one array may have."""
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", _answer("scontrol", "show", "config"))
    return max(1, int(found[1])) if found else 1000


def complaint(text: str) -> str:
    """Error output of one of SLURM's commands, in one line."""
    words = [line.partition("error: ")[2] or line for line in text.splitlines() if line.strip()]
    return "; ".join(dict.fromkeys(word.strip() for word in words)) or "failed without a word"


def _answer(*command: str) -> str:
    finished = _call(command)
    if finished.returncode != 0:
        raise InputError(f"{command[0]}: {complaint(finished.stderr)}")
    return finished.stdout


def _call(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, check=False)
