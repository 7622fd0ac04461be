"""``rescaler tables``: the paper's tables and figures from the runs found in some folders."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rescaler.files import write_text

if TYPE_CHECKING:
    from pandas import DataFrame
    from rich.console import Console

# pandas and matplotlib take seconds to import, so they are imported where they are used.

_STDOUT = "-"


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``tables`` to the commands; its namespace's ``run`` does the work."""
    parser = subparsers.add_parser(
        "tables",
        help="accuracy, training time and time saved of all runs found",
        description="Best accuracy, training time and time saved against the target network, for all runs in and below "
        "the given folders. Runs of different models, data or schedules come in separate tables.",
    )
    parser.add_argument("folders", nargs="*", type=Path, default=[Path("runs")], metavar="DIR", help="default: runs")
    parser.add_argument("--csv", metavar="FILE", help="write all numbers as CSV; - for standard output")
    parser.add_argument("--markdown", metavar="FILE", help="write the tables as Markdown; - for standard output")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the figure: FILE.png, FILE.svg or FILE.pdf")
    parser.add_argument("--epochs", type=int, metavar="N", help="count only the first N epochs of each run")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Do what the command line asks.

    Raises:
        InputError: no runs, a bad option, or a file that cannot be written.
    """
    from rich.console import Console

    from rescaler.report import reports
    from rescaler.results import load_epochs, load_runs, read_at, table

    runs = load_runs(arguments.folders)
    if arguments.epochs is not None:
        runs = read_at(runs, arguments.epochs)
    epochs = load_epochs(runs)
    # What is piped on is the file alone; a person still sees the tables.
    console = Console(stderr=_STDOUT in (arguments.csv, arguments.markdown))
    _show(runs, epochs, arguments.plot, console)
    if arguments.csv is not None:
        _write(arguments.csv, table(runs, epochs).to_csv(index=False))
    if arguments.markdown is not None:
        _write(arguments.markdown, "\n".join(report.markdown() for report in reports(runs, epochs)))


def show_results(folders: Sequence[Path], *, plot: Path | None, console: "Console") -> None:
    """Print the tables of all runs in and below ``folders``; draw the figure to ``plot`` and print its path.

    Raises:
        InputError: a folder has no run, or the figure cannot be written.
    """
    from rescaler.results import load_epochs, load_runs

    runs = load_runs(folders)
    _show(runs, load_epochs(runs), plot, console)


def _show(runs: "DataFrame", epochs: "DataFrame", plot: Path | None, console: "Console") -> None:
    from rescaler.report import reports

    for report in reports(runs, epochs):
        report.print(console)
    if plot is not None:
        from rescaler.plots import accuracy_figure, save_figure

        save_figure(accuracy_figure(epochs), plot)
        console.print(f"Accuracy over epochs and over time: {plot}", markup=False, highlight=False, soft_wrap=True)


def _write(target: str, text: str) -> None:
    if target == _STDOUT:
        sys.stdout.write(text)
    else:
        write_text(Path(target), text)
