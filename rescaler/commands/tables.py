"""``rescaler tables``: the paper's tables and figures from the runs found in some folders."""

import argparse

from rich.console import Console

from rescaler.commands import sources
from rescaler.commands.output import write
from rescaler.commands.parser import STDOUT
from rescaler.results import over_seeds, paper_table, table
from rescaler.results.report import paper_reports, reports
from rescaler.sweeps.outcome import show


def run(arguments: argparse.Namespace) -> None:
    """Do what the command line asks.

    Raises:
        InputError: no runs, a bad option, or a file that cannot be written.
    """
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
    show(found, epochs, arguments.plot, console)
    if arguments.csv is not None:
        write(arguments.csv, numbers.to_csv(index=False))
    if arguments.markdown is not None:
        write(arguments.markdown, "\n".join(report.markdown() for report in found))
    if arguments.latex is not None:
        write(arguments.latex, "\n".join(report.latex() for report in found))
