"""``rescaler status``: how the runs of a sweep stand."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rescaler.sweeps.sweep import Sweep

_RUNS = Path("runs")


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "status",
        help="how the runs of a sweep stand, on this machine or on a cluster",
        description="State of each run (waiting, running, done, failed, lost, cancelled), epoch, accuracy, time left.",
    )
    add_sweep(parser)
    parser.add_argument("--watch", action="store_true", help="look again every few seconds, until all runs are over")
    parser.set_defaults(run=run)


def add_sweep(parser: argparse.ArgumentParser) -> None:
    """Add SWEEP."""
    parser.add_argument(
        "sweep", nargs="?", type=Path, metavar="SWEEP", help=f"folder of the sweep; default: the newest in {_RUNS}/"
    )


def find(sweep: Path | None) -> "Sweep":
    """The sweep that SWEEP means.

    Raises:
        InputError: there is none.
    """
    from rescaler.sweeps.sweep import Sweep, newest

    return Sweep.read(newest(_RUNS) if sweep is None else sweep)


def run(arguments: argparse.Namespace) -> None:
    """Print the table.

    Raises:
        InputError: there is no such sweep, or the cluster does not answer.
    """
    from rich.console import Console

    from rescaler.sweeps.status import statuses
    from rescaler.sweeps.watching import status_table, watch

    sweep, console = find(arguments.sweep), Console()
    if arguments.watch:
        watch(sweep.folder, console)
    else:
        status_table(sweep, statuses(sweep)).print(console)
