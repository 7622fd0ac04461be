"""What came out of a sweep, for whoever started it."""

import logging
from pathlib import Path

from rich.console import Console

from rescaler.commands.tables import show_results
from rescaler.errors import InputError, listed
from rescaler.sweeps.status import statuses
from rescaler.sweeps.sweep import Sweep

log = logging.getLogger(__name__)


def conclude(folder: Path) -> None:
    """Print the table of the sweep in ``folder``, draw its figure, and say which runs did not finish.

    Raises:
        InputError: there are some.
    """
    try:
        show_results([folder], plot=folder / "accuracy.png", console=Console())
    except InputError as error:  # no run came as far as an epoch: why, is said next
        log.warning("%s", error)
    found = statuses(Sweep.read(folder))
    failed = [run for run in found if run.is_unfinished]
    if failed:
        why = listed((f"{run.name}: {run.detail or run.state}" for run in failed), most=10)
        again = f"run them again with: python -m rescaler retry {folder}"
        raise InputError(f"{len(failed)} of {len(found)} runs failed: {why}; {again}")
