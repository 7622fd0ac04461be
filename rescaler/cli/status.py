"""``rescaler status``: how the runs of a sweep stand, or a single run."""

import argparse

from rich.console import Console

from rescaler.cli.arguments import RUNS
from rescaler.sweep.status import status_table, statuses, sweep_at, watch
from rescaler.sweep.sweep import newest


def run(arguments: argparse.Namespace) -> None:
    """Print the table, once or until all runs are over."""
    folder, console = arguments.sweep or newest(RUNS, single=True), Console()
    if arguments.watch:
        watch(folder, console)
    else:
        sweep = sweep_at(folder)
        status_table(sweep, statuses(sweep)).print(console)
