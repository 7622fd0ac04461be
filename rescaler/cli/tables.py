"""``rescaler tables`` and ``report``: tables and figures, or one page, from the runs found in some folders."""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pandas import DataFrame
from rich.console import Console

from rescaler.cli import STDOUT, write
from rescaler.errors import ArgumentError, InputError
from rescaler.figures import figure_format
from rescaler.files import write_text
from rescaler.page import render
from rescaler.page.settings import set_apart
from rescaler.results import add_column, load_epochs, load_runs, over_seeds, paper_table, read_at, select, table
from rescaler.results.report import paper_reports, reports
from rescaler.sweep.local import show
from rescaler.text import TextTable, counted


def run(arguments: argparse.Namespace) -> None:
    """Print, write and draw what the options ask for; for ``report`` the page."""
    if arguments.command == "report":
        runs, epochs, margin = load(arguments)
        write_text(arguments.output, render(runs, epochs, margin=margin))
        print(f"Report on {counted(len(runs), 'run')}: {arguments.output}")
        return
    if arguments.plot is not None:
        figure_format(arguments.plot)  # before all is read
    runs, epochs, margin = load(arguments)
    rows = table(runs, epochs)
    seeds = over_seeds(rows, margin=margin)
    # What is piped on is the file alone; a person still sees the tables.
    console = Console(stderr=STDOUT in (arguments.csv, arguments.markdown, arguments.latex))
    if arguments.table is None:
        columns = [add_column(rows, epochs, path) for path in arguments.column]
        found, numbers = _told_apart(reports(rows, seeds, epochs, columns), rows), rows
    else:
        numbers = paper_table(arguments.table, seeds)
        found = paper_reports(arguments.table, numbers, rows, epochs)
    show(found, epochs, arguments.plot, console)
    if arguments.csv is not None:
        write(arguments.csv, numbers.to_csv(index=False))
    if arguments.markdown is not None:
        write(arguments.markdown, "\n".join(report.markdown() for report in found))
    if arguments.latex is not None:
        write(arguments.latex, "\n".join(report.latex() for report in found))


def load(arguments: argparse.Namespace) -> tuple[DataFrame, DataFrame, float]:
    """Load the runs that the arguments name, with their epochs and the margin as a fraction."""
    if not 0 <= arguments.margin < 100:
        raise InputError(f"--margin must be between 0 and 100 points; got {arguments.margin:g}")
    runs = select(load_runs(arguments.sources), arguments.where)
    if arguments.epochs is not None:
        try:
            runs = read_at(runs, arguments.epochs)
        except ArgumentError as error:
            raise InputError(f"--epochs{error.problem}") from error
    return runs, load_epochs(runs), arguments.margin / 100


def _told_apart(found: Sequence[TextTable], rows: DataFrame) -> list[TextTable]:
    """Tables of several comparisons; those of the same heading have a note on what tells them apart."""
    folders = rows.groupby("comparison", sort=False)["folder"].first()
    namesakes: dict[str, dict[str, Path]] = defaultdict(dict)
    for one, (comparison, folder) in zip(found, folders.items(), strict=True):
        namesakes[one.heading.replace(str(comparison)[:8], "")][str(comparison)] = Path(folder)
    words = {comparison: own for group in namesakes.values() for comparison, own in set_apart(group).items()}
    told = [words.get(str(comparison)) for comparison in folders.index]
    return [
        replace(one, notes=[*one.notes, f"Where those of the same heading differ: {own}"]) if own else one
        for one, own in zip(found, told, strict=True)
    ]
