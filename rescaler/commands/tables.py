"""``rescaler tables``: the paper's tables and figures from the runs found in some folders."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rescaler.commands import sources
from rescaler.commands.output import STDOUT, write

if TYPE_CHECKING:
    from pandas import DataFrame
    from rich.console import Console

    from rescaler.texttable import TextTable

# pandas and matplotlib take seconds to import, so they are imported where they are used.

TABLES = (2, 3, 4)


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``tables`` to the commands; its namespace's ``run`` does the work."""
    parser = subparsers.add_parser(
        "tables",
        help="accuracy, training time and time saved of all runs found",
        description="Best accuracy, training time and time saved against the target network, for all runs in and below "
        "the given folders. Runs of different models, data or schedules come in separate tables.",
    )
    sources.add_arguments(parser)
    parser.add_argument(
        "--table", type=int, choices=TABLES, help="the paper's Table 2, 3 or 4, its numbers and ours side by side"
    )
    parser.add_argument("--csv", metavar="FILE", help="write all numbers as CSV; - for standard output")
    parser.add_argument("--markdown", metavar="FILE", help="write the tables as Markdown; - for standard output")
    parser.add_argument("--latex", metavar="FILE", help="write the tables as LaTeX (booktabs); - for standard output")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the figure: FILE.png, FILE.svg or FILE.pdf")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Do what the command line asks.

    Raises:
        InputError: no runs, a bad option, or a file that cannot be written.
    """
    from rich.console import Console

    from rescaler.results import over_seeds, paper_table, table
    from rescaler.results.report import paper_reports, reports

    runs, epochs, margin = sources.load(arguments)
    rows = table(runs, epochs)
    seeds = over_seeds(rows, margin=margin)
    # What is piped on is the file alone; a person still sees the tables.
    console = Console(stderr=STDOUT in (arguments.csv, arguments.markdown, arguments.latex))
    if arguments.table is None:
        found, numbers = reports(rows, seeds, epochs), rows
    else:
        numbers = paper_table(arguments.table, seeds)
        found = paper_reports(arguments.table, numbers, rows, epochs)
    _show(found, epochs, arguments.plot, console)
    if arguments.csv is not None:
        write(arguments.csv, numbers.to_csv(index=False))
    if arguments.markdown is not None:
        write(arguments.markdown, "\n".join(report.markdown() for report in found))
    if arguments.latex is not None:
        write(arguments.latex, "\n".join(report.latex() for report in found))


def show_results(folders: Sequence[Path], *, plot: Path | None, console: "Console") -> None:
    """Print the tables of all runs in and below ``folders``; draw the figure to ``plot`` and print its path.

    Raises:
        InputError: no folder has runs, or the figure cannot be written.
    """
    from rescaler.results import load_epochs, load_runs, over_seeds, table
    from rescaler.results.report import reports

    runs = load_runs(folders)
    epochs = load_epochs(runs)
    rows = table(runs, epochs)
    _show(reports(rows, over_seeds(rows), epochs), epochs, plot, console)


def _show(found: "Sequence[TextTable]", epochs: "DataFrame", plot: Path | None, console: "Console") -> None:
    for report in found:
        report.print(console)
    if plot is not None:
        from rescaler.figures import accuracy_figure, save_figure

        save_figure(accuracy_figure(epochs), plot)
        console.print(f"Accuracy over epochs and over time: {plot}", markup=False, highlight=False, soft_wrap=True)
