"""``rescaler status``: how the runs of a sweep stand."""

import argparse

from rich.console import Console

from rescaler.commands.parser import RUNS
from rescaler.sweeps.status import statuses
from rescaler.sweeps.sweep import Sweep, newest
from rescaler.sweeps.watching import status_table, watch


def run(arguments: argparse.Namespace) -> None:
    """Print the table.

    Raises:
        InputError: there is no such sweep, or the cluster does not answer.
    """
    sweep, console = Sweep.read(arguments.sweep or newest(RUNS)), Console()
    if arguments.watch:
        watch(sweep.folder, console)
    else:
        status_table(sweep, statuses(sweep)).print(console)
