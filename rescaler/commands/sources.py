"""The runs that a command reads."""

import argparse
from typing import NamedTuple

from pandas import DataFrame

from rescaler.errors import ArgumentError, InputError
from rescaler.results import load_epochs, load_runs, read_at


class Loaded(NamedTuple):
    """What the arguments ask for."""

    runs: DataFrame
    epochs: DataFrame
    margin: float
    """Accuracy that may be lost and still counts as preserved, as a fraction."""


def load(arguments: argparse.Namespace) -> Loaded:
    """Load the runs that the arguments name.

    Raises:
        InputError: no source has runs, or an argument is out of range.
    """
    if not 0 <= arguments.margin < 100:
        raise InputError(f"--margin must be between 0 and 100 points; got {arguments.margin:g}")
    runs = load_runs(arguments.sources)
    if arguments.epochs is not None:
        try:
            runs = read_at(runs, arguments.epochs)
        except ArgumentError as error:
            raise InputError(f"--epochs{error.problem}") from error
    return Loaded(runs, load_epochs(runs), arguments.margin / 100)
