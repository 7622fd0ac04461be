"""``rescaler report``: one self-contained page about some runs, for sending to a colleague."""

import argparse
from pathlib import Path

from rescaler.commands import sources
from rescaler.files import write_text

# pandas and matplotlib take seconds to import, so they are imported where they are used.


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "report",
        help="one page with tables, figures and settings, to send to a colleague",
        description="Write one HTML file, which needs no network: what was compared, how much time was saved and "
        "whether accuracy was preserved, tables, figures, how the runs' settings differ, and how to run them again.",
    )
    sources.add_arguments(parser)
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("report.html"), metavar="FILE", help="default: %(default)s"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        InputError: no runs, a bad option, or a file that cannot be written.
    """
    from rescaler.page import render

    runs, epochs, margin = sources.load(arguments)
    write_text(arguments.output, render(runs, epochs, margin=margin))
    print(f"Report on {len(runs)} run{'s' * (len(runs) > 1)}: {arguments.output}")
