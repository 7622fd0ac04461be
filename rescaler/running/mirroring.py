"""The client's process: mirrors a run while that trains, with what processor time the training leaves."""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rescaler.errors import InputError, one_line
from rescaler.record import SUMMARY_FILE

# What takes long to import is imported once signals are ignored.


def main() -> None:
    """Mirror what the training writes to the standard input."""
    os.nice(10)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):  # a cluster warns all processes of a job
        signal.signal(number, signal.SIG_IGN)
    try:
        from rescaler.tracking.client import mirror

        mirror(_with_time_saved(map(json.loads, sys.stdin)), x_stats_pid=os.getppid())
    except Exception as error:
        raise SystemExit(f"{type(error).__name__}: {one_line(error)}") from None


def _with_time_saved(messages: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    folder = Path()
    for message in messages:
        if "dir" in message:
            folder = Path(message["dir"])
        if "summary" in message and message["summary"].get("resize_epoch", 0) != 0:  # the target baseline saves nothing
            message["summary"] |= _time_saved_beside(folder, message["summary"])
        yield message


def _time_saved_beside(folder: Path, summary: Mapping[str, Any]) -> dict[str, Any]:
    """The time that the run in ``folder`` saved; its target baseline may be in a folder beside it, as in a sweep."""
    from rescaler.results import load_epochs, load_runs, time_saved

    folders = [folder]
    for path in folder.parent.glob(f"*/{SUMMARY_FILE}"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            other = json.loads(path.read_text(encoding="utf-8"))
            if other["resize_epoch"] == 0 and all(other[key] == summary[key] for key in ("comparison", "seed")):
                folders.append(path.parent)
    with contextlib.suppress(InputError):  # the run's own folder cannot be read: no reason to lose the mirror
        runs = load_runs(folders)
        return time_saved(runs, load_epochs(runs)).get(summary["run"], {})
    return {}
