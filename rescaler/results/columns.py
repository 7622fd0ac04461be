"""What a run's files must hold, and the columns that frames of runs and epochs have in common."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from pandas import DataFrame, Series

from rescaler.record import Record

SUMMARY: Mapping[str, type | tuple[type, ...]] = {
    "run": str,
    "comparison": str,
    "name": str,
    "model": str,
    "data": str,
    "seed": int,
    "resize_epoch": (int, str),
    "hold": bool,
    "epochs_planned": int,
    "epochs": int,
    "status": str,
    "device": str,
    "updated": str,
}
"""What a run's ``summary.json`` must have to be one."""

EPOCH: Mapping[str, Any] = {field.name: field.type for field in dataclasses.fields(Record)} | {"reused": bool}
"""Columns of ``metrics.csv`` and their types."""

IDENTITY = ["run", "comparison", "name", "model", "data", "seed", "resize_epoch", "hold", "distinction", "status"]
"""Columns of a frame of runs that a frame of epochs repeats."""


def epoch_frame(rows: Iterable[Mapping[str, Any]]) -> DataFrame:
    """Epochs as a frame whose columns are those of ``metrics.csv``."""
    rows = list(rows)
    return DataFrame({name: Series([row[name] for row in rows], dtype=kind) for name, kind in EPOCH.items()})
