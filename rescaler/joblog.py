"""What a job wrote before it ended, where nothing else says why."""

import re
from pathlib import Path

from submitit.core.utils import JobPaths

from rescaler.errors import InputError

_RAISED = re.compile(r"(?P<kind>[\w.]*(?:Error|Exception))(?:: (?P<message>.*))?")
_NOISE = ("submitit ", "srun: ", "slurmstepd: error: ***")
"""How lines begin that Submitit writes, or that say no more than that the job is over."""


def last_error(folder: Path, job: str) -> str | None:
    """The last exception in the error log of a job whose files are in ``folder``; None if it has none."""
    for line in reversed(_lines(folder, job)):
        if raised := _RAISED.fullmatch(line):
            return raised["message"] if raised["kind"].endswith(InputError.__name__) else line
    return None


def last_words(folder: Path, job: str) -> str | None:
    """The last line of that log that says something; None if it has none."""
    return next((line for line in reversed(_lines(folder, job)) if line and not line.startswith(_NOISE)), None)


def _lines(folder: Path, job: str) -> list[str]:
    try:
        text = JobPaths(folder, job, 0).stderr.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [line.strip() for line in text.splitlines()]
