"""What a run's files must hold, and the columns that frames of runs and epochs have in common."""

from collections.abc import Iterable, Mapping
from types import NoneType
from typing import Any

import pandas as pd
from pandas import DataFrame, Series

from rescaler.record import EPOCH_FIELDS

_SUMMARY: Mapping[str, type | tuple[type, ...]] = {
    "run": str,
    "comparison": str,
    "name": str,
    "model": str,
    "data": str,
    "seed": int,
    "resize_epoch": (int, str),
    "hold": bool,
    "variant": str,
    "epochs_planned": int,
    "epochs": int,
    "status": str,
    "error": (str, NoneType),
    "device": str,
    "torch": str,
    "version": str,
    "commit": (str, NoneType),
    "updated": str,
}

IDENTITY = ["run", "comparison", "name", "model", "data", "seed", "resize_epoch", "hold", "distinction", "status"]
"""Columns of a frame of runs that a frame of epochs repeats."""


def check_summary(values: Mapping[str, Any]) -> None:
    """Tell the summary of a run, the object in its ``summary.json``, from anything else.

    Raises:
        KeyError: it lacks a field.
        TypeError: it is no object.
        ValueError: a field has a wrong type or value.
    """
    wrong = [name for name, kind in _SUMMARY.items() if not isinstance(values[name], kind)]
    if wrong:
        raise ValueError(f"wrong type: {', '.join(wrong)}")
    if isinstance(values["resize_epoch"], str) and values["resize_epoch"] != "never":
        raise ValueError(f"resize_epoch is {values['resize_epoch']!r}: neither a number nor 'never'")
    pd.to_datetime(values["updated"], format="ISO8601")


def epoch_frame(rows: Iterable[Mapping[str, Any]]) -> DataFrame:
    """Epochs as a frame whose columns are those of ``metrics.csv``."""
    rows = list(rows)
    return DataFrame({name: Series([row[name] for row in rows], dtype=kind) for name, kind in EPOCH_FIELDS.items()})
