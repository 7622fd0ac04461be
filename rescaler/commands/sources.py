"""Which runs a command reads, and how: arguments that several commands have in common."""

import argparse
from typing import TYPE_CHECKING, NamedTuple

from rescaler.errors import InputError

if TYPE_CHECKING:
    from pandas import DataFrame


class Loaded(NamedTuple):
    """What the arguments ask for."""

    runs: "DataFrame"
    epochs: "DataFrame"
    margin: float
    """Accuracy that may be lost and still counts as preserved, as a fraction."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add RUNS, ``--margin`` and ``--epochs``."""
    parser.add_argument(
        "sources", nargs="*", default=["runs"], metavar="RUNS", help="folders, or wandb:ENTITY/PROJECT; default: runs"
    )
    parser.add_argument(
        "--margin",
        type=float,
        default=0.5,
        metavar="POINTS",
        help="accuracy that may be lost and still counts as preserved; default: %(default)s",
    )
    parser.add_argument("--epochs", type=int, metavar="N", help="count only the first N epochs of each run")


def load(arguments: argparse.Namespace) -> Loaded:
    """Load the runs that the arguments name.

    Raises:
        InputError: no source has runs, or an argument is out of range.
    """
    from rescaler.results import load_epochs, load_runs, read_at

    if not 0 <= arguments.margin < 100:
        raise InputError(f"--margin must be between 0 and 100 points; got {arguments.margin:g}")
    runs = load_runs(arguments.sources)
    if arguments.epochs is not None:
        runs = read_at(runs, arguments.epochs)
    return Loaded(runs, load_epochs(runs), arguments.margin / 100)
