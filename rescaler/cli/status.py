"""``rescaler status``: how the runs of a sweep stand."""

import argparse

from rich.console import Console

from rescaler.cli import RUNS
from rescaler.sweep.status import status_table, statuses, watch
from rescaler.sweep.sweep import Sweep, newest


def run(arguments: argparse.Namespace) -> None:
    """Print the table, once or until all runs are over."""
    sweep, console = Sweep.read(arguments.sweep or newest(RUNS)), Console()
    if arguments.watch:
        watch(sweep.folder, console)
    else:
        status_table(sweep, statuses(sweep)).print(console)
