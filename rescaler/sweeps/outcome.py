"""What came out of runs, for whoever started them."""

import logging
from collections.abc import Sequence
from pathlib import Path

from pandas import DataFrame
from rich.console import Console

from rescaler.errors import InputError, listed
from rescaler.figures import accuracy_figure, save_figure
from rescaler.results import load_epochs, load_runs, over_seeds, table
from rescaler.results.report import reports
from rescaler.sweeps.status import statuses
from rescaler.sweeps.sweep import Sweep
from rescaler.texttable import TextTable

log = logging.getLogger(__name__)


def conclude(folder: Path) -> None:
    """Print the table of the sweep in ``folder``, draw its figure, and say which runs did not finish.

    Raises:
        InputError: there are some.
    """
    try:
        show_results([folder], plot=folder / "accuracy.png", console=Console())
    except InputError as error:  # no run finished an epoch; the reasons follow
        log.warning("%s", error)
    found = statuses(Sweep.read(folder))
    failed = [run for run in found if run.is_unfinished]
    if failed:
        why = listed((f"{run.name}: {run.detail or run.state}" for run in failed), most=10)
        again = f"run them again with: python -m rescaler retry {folder}"
        raise InputError(f"{len(failed)} of {len(found)} runs failed: {why}; {again}")


def show_results(folders: Sequence[Path], *, plot: Path | None, console: Console) -> None:
    """Print the tables of all runs in and below ``folders``; draw the figure to ``plot`` and print its path.

    Raises:
        InputError: no folder has runs, or the figure cannot be written.
    """
    runs = load_runs(folders)
    epochs = load_epochs(runs)
    rows = table(runs, epochs)
    show(reports(rows, over_seeds(rows), epochs), epochs, plot, console)


def show(found: Sequence[TextTable], epochs: DataFrame, plot: Path | None, console: Console) -> None:
    """Print tables; draw the figure of ``epochs`` to ``plot`` and print its path.

    Raises:
        InputError: the figure cannot be written.
    """
    for report in found:
        report.print(console)
    if plot is not None:
        save_figure(accuracy_figure(epochs), plot)
        console.print(f"Accuracy over epochs and over time: {plot}", markup=False, highlight=False, soft_wrap=True)
