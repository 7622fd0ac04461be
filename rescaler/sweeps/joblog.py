"""What a job wrote before it ended, where nothing else says why."""

import re
from pathlib import Path

from submitit.core.utils import JobPaths

from rescaler.errors import InputError

_RAISED = re.compile(r"(?P<kind>[\w.]*(?:Error|Exception))(?:: (?P<message>.*))?")
_NOISE = ("submitit ", "srun: ", "slurmstepd: error: ***")
"""How lines begin that Submitit writes, or that say no more than that the job is over."""


def why_ended(folder: Path, job: str, *, run_began: bool) -> str | None:
    """The last exception in a job's error log, else its last words if the run had not begun; None if there are none.

    Args:
        folder: of the job's files.
        job: its id.
        run_began: whether it came to train: then what it said last is not why it ended.
    """
    lines = list(reversed(_lines(folder, job)))
    for line in lines:
        if raised := _RAISED.fullmatch(line):
            return raised["message"] if raised["kind"].endswith(InputError.__name__) else line
    if run_began:
        return None
    return next((line for line in lines if line and not line.startswith(_NOISE)), None)


def _lines(folder: Path, job: str) -> list[str]:
    try:
        text = JobPaths(folder, job, 0).stderr.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [line.strip() for line in text.splitlines()]
