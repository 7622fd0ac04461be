"""Comparisons: runs side by side, and arms at equal cost, paired by seed (``rescaler fair``)."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pandas import DataFrame, Series

from rescaler.config import LOOKED_AT
from rescaler.errors import InputError, listed, one_line
from rescaler.results.columns import setting_columns, shown
from rescaler.results.frames import load_epochs, load_runs
from rescaler.results.report import ACCURACY, NONE, POINTS, Quantity, best_and_epoch, time_quantity
from rescaler.results.tables import half_width, progress_label, table
from rescaler.text import TextTable, natural

_MUST_AGREE = ("classes", "channels", "image_px", "holdout", "train_images", "test_images")
"""Settings of ``data`` without which accuracies do not compare."""
_FOUND = ("mean", "std")
"""With ``data=folder`` found in the pictures, so that other pictures differ in them."""
_COST = Quantity(1, 2, "")
_NUMBERS = ["final_top1", "best_top1", "best_epoch", "training_s", "epochs", "epochs_scheduled", "held_epochs"]

FULL, OURS = "target", "rescaled"
"""Arms: the target network in full, and kernel rescaling."""
ARMS = (FULL, "squeezed", "input_only", OURS)
NAMES = {
    FULL: "Target in full",
    "squeezed": "Target, trained for less",
    "input_only": "Progressive resizing",
    OURS: "Kernel rescaling",
    "paper": "Kernel rescaling, as in the paper",
}
"""What tables and plots call the arms; others by their own name."""
MARGIN = 0.003
"""Accuracy that may be lost to the target in full: 0.3 points."""
_CURVES = [
    "run", "epoch", "stage", "image_px", "images", "learning_rate", "cost", "test_top1", "test_loss", "train_loss",
    "training_s", "key", "device", "torch",
]  # fmt: skip
"""Of an epoch that a comparison of arms shows or keeps."""


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
    keys += [name for name in setting_columns(runs) if name.startswith(("model.", "data.train.", "data.test."))]
    if set(runs["data"]) <= set(LOOKED_AT):
        keys += [f"data.{name}" for name in _FOUND]
    for key in keys:
        if key in runs and len(values := dict.fromkeys(map(shown, runs[key]))) > 1:
            raise InputError(f"runs that are compared must agree in data and target network; {key} is {listed(values)}")


def _names(folders: Sequence[Path | str]) -> list[str]:
    """Return the folders without what all have in common; those of W&B's server are texts."""
    paths = [str(folder) if isinstance(folder, str) else str(folder.absolute()) for folder in folders]
    common = os.path.commonpath(paths) if len({path.startswith("/") for path in paths}) == 1 else ""
    return [os.path.relpath(path, common) if common else path for path in paths]


def compare_table(rows: DataFrame) -> TextTable:
    """Return :func:`side_by_side` in words and cells."""
    time = time_quantity(rows["training_s"].max())
    settings = setting_columns(rows)
    cells: dict[str, Any] = {
        "Run": rows["name"],
        **{key: [NONE if pd.isna(value) else shown(value) for value in rows[key]] for key in settings},
        "Last accuracy": rows["final_top1"].map(ACCURACY.show),
        "Best accuracy (epoch)": list(map(best_and_epoch, rows["best_top1"], rows["best_epoch"])),
        "Training time": rows["training_s"].map(time.show),
    }
    notes = ["Best accuracy: of the target's own epochs."]
    if rows["cost"].notna().any():
        cells["Cost"] = rows["cost"].map(_COST.show)
        notes.append("Cost: in runs of the target, by reference times.")
    if not rows["complete"].all():
        cells["Status"] = [progress_label(row) for _, row in rows.iterrows()]
    found = DataFrame(cells)
    return TextTable("Runs side by side", list(found.columns), found.to_numpy().tolist(), notes, (*settings, "Status"))


def load_curves(folders: Path | Sequence[Path]) -> DataFrame:
    """Return the epochs of a comparison's finished runs, each with its ``arm`` and the ``folder`` of its run.

    Args:
        folders: of the runs, or above them.

    Raises:
        InputError: none of the runs has an arm and is finished, or they differ in data or network.
    """
    runs = load_runs(folders)
    done = runs[(runs["status"] == "done") & runs.get("arm", Series("", runs.index)).fillna("").ne("")]
    if done.empty:
        raise InputError("no finished run of a fair comparison here: `rescaler fair` makes one")
    for key in ("data", "model"):
        if done[key].nunique() > 1:
            raise InputError(f"runs of a comparison must agree in {key}; got {', '.join(done[key].unique())}")
    return load_epochs(runs)[_CURVES].merge(done[["run", "arm", "seed", "data", "model", "folder"]], on="run")


def read_curves(csv: Path) -> DataFrame:
    """Read what ``rescaler fair --csv`` wrote.

    Raises:
        InputError: it cannot be read, or is something else.
    """
    try:
        found = pd.read_csv(csv, dtype=dict.fromkeys(("run", "key", "torch"), str))  # no numbers
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {csv}: {one_line(error)}") from error
    if missing := {*_CURVES, "arm", "seed"} - {*found.columns}:
        raise InputError(f"{csv} must be from `rescaler fair --csv`; it has no {', '.join(sorted(missing))}")
    return found


def final_scores(curves: DataFrame) -> DataFrame:
    """Return what decides: the last epoch of each run of :func:`load_curves` or :func:`read_curves`."""
    return curves.sort_values("epoch").groupby("run", observed=True).tail(1)


def compare(curves: DataFrame, *, margin: float = MARGIN) -> DataFrame:
    """Compare the arms: a row for each, in the order of :data:`ARMS`.

    Args:
        curves: from :func:`load_curves` or :func:`read_curves`.
        margin: accuracy that may be lost to the target in full, as a fraction.

    Returns:
        ``arm``; ``n`` seeds; means of ``cost`` (in runs of the target) and of ``top1`` after the last epoch,
        with ``top1_sd``; ``to_full``, the mean difference to the target in full, and ``ours``, that of kernel rescaling
        to the arm, paired by seed, each with its 95 % interval ``_low`` and ``_high``; ``reach``, the cost at which the
        arm's mean accuracy is the target's at its end less the margin, for good (missing: never).
    """
    scores = final_scores(curves)
    table = scores.pivot_table(index="seed", columns="arm", values="test_top1")
    wanted = table[FULL].mean() - margin if FULL in table else math.nan
    rows = []
    for arm in sorted(table.columns, key=lambda name: (ARMS.index(name) if name in ARMS else len(ARMS), name)):
        own = scores[scores["arm"] == arm]
        rows.append(
            {
                "arm": arm,
                "n": len(own),
                "cost": own["cost"].mean(),
                "top1": own["test_top1"].mean(),
                "top1_sd": own["test_top1"].std(),
                **_paired("to_full", table, arm, FULL),
                **_paired("ours", table, OURS, arm),
                "reach": _reach(mean_curve(curves[curves["arm"] == arm]), wanted),
            }
        )
    return DataFrame(rows)


def _paired(name: str, table: DataFrame, one: str, other: str) -> dict[str, float]:
    """Return the mean difference of two arms by seed, and its interval; missing where there is nothing to pair."""
    mean = half = math.nan
    if one != other and {one, other} <= set(table.columns):
        gaps = (table[one] - table[other]).dropna()
        mean, half = gaps.mean(), half_width(len(gaps), gaps.std())
    return {name: mean, f"{name}_low": mean - half, f"{name}_high": mean + half}


def mean_curve(curves: DataFrame) -> DataFrame:
    """Return the mean of an arm's runs after each epoch: ``cost``, ``top1``, and its ``low`` and ``high`` over them."""
    top1 = "test_top1"
    columns = {"cost": ("cost", "mean"), "top1": (top1, "mean"), "low": (top1, "min"), "high": (top1, "max")}
    return curves.groupby("epoch").agg(**columns).reset_index()


def _reach(curve: DataFrame, top1: float) -> float:
    """Return the cost from which on a curve stays at or above an accuracy."""
    below = curve.index[curve["top1"] < top1]
    first = 0 if below.empty else below[-1] + 1
    return float(curve["cost"].iloc[first]) if first < len(curve) and not math.isnan(top1) else math.nan


def fair_table(rows: DataFrame, *, margin: float = MARGIN) -> TextTable:
    """Return the comparison in words and cells."""
    cells = [
        [
            NAMES.get(row["arm"], row["arm"]),
            _COST.show(row["cost"]),
            ACCURACY.over_runs(row, "top1"),
            POINTS.interval(row, "to_full"),
            POINTS.interval(row, "ours"),
            _COST.show(row["reach"]),
            str(row["n"]),
        ]
        for _, row in rows.iterrows()
    ]
    columns = (
        "Arm", "Cost", "Accuracy", "Against the target in full", "Kernel rescaling against it", "Reaches it at", "n"
    )  # fmt: skip
    notes = [
        "Cost: in runs of the target in full, by reference times. Accuracy: after the last epoch, mean ± sd.",
        "Differences: points, paired by seed, with 95 % intervals.",
        f"Reaches it at: the cost from which on the mean accuracy is the target's less {100 * margin:g} points.",
        *verdicts(rows, margin=margin),
    ]
    return TextTable("Fair comparison", columns, cells, notes, ("Arm",))


def verdicts(rows: DataFrame, *, margin: float = MARGIN) -> list[str]:
    """Return what the intervals say of kernel rescaling, a sentence for each opponent."""
    by_arm: dict[str, Any] = {row["arm"]: row for row in rows.to_dict("records")}
    ours = by_arm.pop(OURS, None)
    if ours is None:
        return []
    found = []
    if not math.isnan(ours["to_full"]):
        said = "may lose more"
        if ours["to_full_low"] > -margin:
            said = "loses less"
        elif ours["to_full_high"] < -margin:
            said = "loses more"
        than = f"than {100 * margin:g} points against the target in full"
        found.append(f"Kernel rescaling, at {ours['cost']:.2f} of the cost, {said} {than}.")
    by_arm.pop(FULL, None)
    for arm, row in by_arm.items():
        said = "beats" if row["ours_low"] > 0 else "loses to" if row["ours_high"] < 0 else "is not told apart from"
        found.append(f"Kernel rescaling {said} {NAMES.get(arm, arm).lower()}.")
    return found
