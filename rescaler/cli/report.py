"""``rescaler report``: one self-contained page about some runs, to send to a colleague."""

import argparse

from rescaler.cli.tables import load
from rescaler.files import write_text
from rescaler.page import render
from rescaler.text import counted


def run(arguments: argparse.Namespace) -> None:
    """Write the page."""
    runs, epochs, margin = load(arguments)
    write_text(arguments.output, render(runs, epochs, margin=margin))
    print(f"Report on {counted(len(runs), 'run')}: {arguments.output}")
