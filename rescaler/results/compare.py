"""Runs side by side: the settings that differ, accuracy, time and cost, one row a run."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pandas import DataFrame

from rescaler.config import LOOKED_AT
from rescaler.errors import InputError, listed
from rescaler.results.columns import setting_columns, shown
from rescaler.results.report import ACCURACY, NONE, Quantity, time_quantity
from rescaler.results.tables import progress_label, table
from rescaler.text import TextTable, natural

_MUST_AGREE = ("classes", "channels", "image_px", "holdout", "train_images", "test_images")
"""Settings of ``data`` without which accuracies do not compare."""
_FOUND = ("mean", "std")
"""With ``data=folder`` found in the pictures, so that other pictures differ in them."""
_COST = Quantity(1, 2, "")
_NUMBERS = ["final_top1", "best_top1", "best_epoch", "training_s", "epochs", "epochs_scheduled", "held_epochs"]


def side_by_side(runs: DataFrame, epochs: DataFrame) -> DataFrame:
    """Return a row for each run, in the natural order of their names.

    Args:
        runs: from :func:`rescaler.results.load_runs`.
        epochs: theirs, from :func:`rescaler.results.load_epochs`.

    Returns:
        ``name``, the run's folder below what all have in common; the settings that differ, named as they are typed;
        ``final_top1`` after the last epoch, ``best_top1`` and ``best_epoch`` of the target's own epochs,
        ``training_s``; ``cost`` in runs of the target, by reference times, missing where a run has none; ``complete``,
        ``status``, ``run``.

    Raises:
        InputError: there are fewer than two runs, or they differ in data or target network.
    """
    if len(runs) < 2:
        raise InputError(f"compare needs at least two runs; got {len(runs)}")
    _check_comparable(runs)
    numbers = table(runs, epochs).set_index("run")[[*_NUMBERS, "complete"]]
    costs = epochs.groupby("run", observed=True)["cost"].last()
    rows = runs[["run", "status", *setting_columns(runs)]].join(numbers, on="run")
    rows["cost"] = rows["run"].map(costs.set_axis(costs.index.astype(str))).astype(float)
    rows.insert(0, "name", _names(runs["folder"].tolist()))
    return rows.sort_values("name", key=lambda names: names.map(natural))


def _check_comparable(runs: DataFrame) -> None:
    """Raise InputError for runs whose accuracies mean different things."""
    keys = ["data", *(f"data.{name}" for name in _MUST_AGREE), "model"]
    keys += [name for name in setting_columns(runs) if name.startswith("model.")]
    keys += [name for name in setting_columns(runs) if name.startswith(("data.train.", "data.test."))]
    if set(runs["data"]) <= set(LOOKED_AT):
        keys += [f"data.{name}" for name in _FOUND]
    for key in keys:
        if key in runs and len(values := dict.fromkeys(map(shown, runs[key]))) > 1:
            raise InputError(f"runs that are compared must agree in data and target network; {key} is {listed(values)}")


def _names(folders: Sequence[Path | str]) -> list[str]:
    """Return the folders without what all have in common."""
    paths = [str(folder) if isinstance(folder, str) else str(folder.absolute()) for folder in folders]
    common = os.path.commonpath(paths) if len({path.startswith("/") for path in paths}) == 1 else ""
    return [os.path.relpath(path, common) if common else path for path in paths]


def compare_table(rows: DataFrame) -> TextTable:
    """Return :func:`side_by_side` in words and cells."""
    time = time_quantity(rows["training_s"].max())
    settings = setting_columns(rows)
    cells: dict[str, Any] = {"Run": rows["name"], **{key: rows[key].map(_cell) for key in settings}}
    cells["Last accuracy"] = rows["final_top1"].map(ACCURACY.show)
    best = zip(rows["best_top1"], rows["best_epoch"], strict=True)
    cells["Best accuracy (epoch)"] = [
        NONE if pd.isna(top1) else f"{ACCURACY.show(top1)} ({epoch:.0f})" for top1, epoch in best
    ]
    cells["Training time"] = rows["training_s"].map(time.show)
    if rows["cost"].notna().any():
        cells["Cost"] = rows["cost"].map(_COST.show)
    if not rows["complete"].all():
        standing = zip(rows["status"], rows["epochs"], rows["epochs_scheduled"] + rows["held_epochs"], strict=True)
        labels = [progress_label(*one) for one in standing]
        cells["Status"] = ["done" if whole else label for whole, label in zip(rows["complete"], labels, strict=True)]
    notes = ["Best accuracy: of the target's own epochs."]
    notes += ["Cost: in runs of the target, by reference times."] * ("Cost" in cells)
    found = DataFrame(cells)
    return TextTable("Runs side by side", list(found.columns), found.to_numpy().tolist(), notes, (*settings, "Status"))


def _cell(value: Any) -> str:
    return NONE if pd.isna(value) else shown(value)
