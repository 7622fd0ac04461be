"""``rescaler report``: one self-contained page about some runs, for sending to a colleague."""

import argparse

from rescaler.commands import sources
from rescaler.files import write_text
from rescaler.page import render
from rescaler.texttable import counted


def run(arguments: argparse.Namespace) -> None:
    """Write the page.

    Raises:
        InputError: no runs, a bad option, or a file that cannot be written.
    """
    runs, epochs, margin = sources.load(arguments)
    write_text(arguments.output, render(runs, epochs, margin=margin))
    print(f"Report on {counted(len(runs), 'run')}: {arguments.output}")
