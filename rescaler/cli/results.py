"""Commands that show results: ``rescaler tables``, ``report`` and ``compare``."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pandas import DataFrame
from rich.console import Console

from rescaler.cli import STDOUT, write
from rescaler.errors import ArgumentError, InputError, listed
from rescaler.figures import figure_format, save_figure
from rescaler.figures.compare import compare_figure
from rescaler.files import write_text
from rescaler.record import CONFIG_FILE
from rescaler.results import add_column, load_epochs, load_runs, over_seeds, paper_table, read_at, select, table
from rescaler.results.columns import shown
from rescaler.results.compare import compare_table, side_by_side
from rescaler.results.report import paper_reports, reports
from rescaler.text import TextTable, counted

_COMPARED = ("model.", "data.", "schedule.", "optim.", "step.")
"""Settings that are named where they tell comparisons of the same heading apart."""


def tables(arguments: argparse.Namespace) -> None:
    """Print, write and draw what the options ask for."""
    from rescaler.sweep.local import show  # imports torch

    if arguments.plot is not None:
        figure_format(arguments.plot)  # before all is read
    runs, epochs, margin = _load(arguments)
    rows = table(runs, epochs)
    seeds = over_seeds(rows, margin=margin)
    # What is piped on is the file alone; a person still sees the tables.
    console = Console(stderr=STDOUT in (arguments.csv, arguments.markdown, arguments.latex))
    if arguments.table is None:
        columns = [add_column(rows, epochs, path) for path in arguments.column]
        found, numbers = _told_apart(reports(rows, seeds, epochs, columns), runs), rows
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


def report(arguments: argparse.Namespace) -> None:
    """Write the page."""
    from rescaler.page import render  # needs the extra `report`

    runs, epochs, margin = _load(arguments)
    write_text(arguments.output, render(runs, epochs, margin=margin))
    print(f"Report on {counted(len(runs), 'run')}: {arguments.output}")


def compare(arguments: argparse.Namespace) -> None:
    """Print the table, write it and draw the figure."""
    if arguments.output is not None:
        figure_format(arguments.output)  # before all is read
    for source in arguments.runs:
        if not (source.startswith("wandb:") or Path(source).is_dir()):
            raise InputError(f"no folder {source}: compare takes folders of runs, or folders above them")
    runs = select(load_runs(arguments.runs), arguments.where)
    epochs = load_epochs(runs)
    rows = side_by_side(runs, epochs)
    console = Console(stderr=arguments.csv == STDOUT)  # what is piped on is the file alone
    compare_table(rows).print(console)
    if arguments.csv is not None:
        write(arguments.csv, rows.to_csv(index=False))
    if arguments.output is not None:
        save_figure(compare_figure(rows, epochs), arguments.output)
        console.print(f"Accuracy of each run: {arguments.output}", markup=False, highlight=False, soft_wrap=True)


def _load(arguments: argparse.Namespace) -> tuple[DataFrame, DataFrame, float]:
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


def _told_apart(found: Sequence[TextTable], runs: DataFrame) -> list[TextTable]:
    """Tables of several comparisons; those of the same heading have a note on what tells them apart."""
    firsts = runs.drop_duplicates("comparison").set_index("comparison")
    settings = firsts[[name for name in firsts if str(name).startswith(_COMPARED)]]
    headings = [one.heading.replace(key[:8], "") for one, key in zip(found, map(str, firsts.index), strict=True)]
    told = []
    for number, one in enumerate(found):
        alike = settings[[heading == headings[number] for heading in headings]]
        own = settings.iloc[number][alike.nunique(dropna=False).gt(1)]
        has_settings = (Path(str(firsts["folder"].iloc[number])) / CONFIG_FILE).exists()  # one of W&B's has none
        words = listed((f"{key}={shown(value)}" for key, value in own.items()), most=8)
        note = [f"Where those of the same heading differ: {words}"] if has_settings and len(own) else []
        told.append(replace(one, notes=[*one.notes, *note]))
    return told
