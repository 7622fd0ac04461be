"""A fair comparison: arms at equal cost, paired by seed, judged by the accuracy after the last epoch."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas
from pandas import DataFrame, Series

from rescaler.errors import InputError, one_line
from rescaler.results import load_epochs, load_runs
from rescaler.results.report import ACCURACY, NONE, POINTS, Quantity
from rescaler.results.statistics import half_width
from rescaler.text import TextTable

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
_COLUMNS = [
    "run", "epoch", "stage", "image_px", "images", "learning_rate", "cost", "test_top1", "test_loss", "train_loss",
    "training_s", "key", "device", "torch",
]  # fmt: skip
"""Of an epoch that a comparison shows or keeps."""
_COST = Quantity(1, 2, "")


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
    epochs = load_epochs(runs)
    return epochs[_COLUMNS].merge(done[["run", "arm", "seed", "data", "model", "folder"]], on="run")


def read_curves(csv: Path) -> DataFrame:
    """Read what ``rescaler fair --csv`` wrote.

    Raises:
        InputError: it cannot be read, or is something else.
    """
    try:
        found = pandas.read_csv(csv, dtype=dict.fromkeys(("run", "key", "torch"), str))  # no numbers
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {csv}: {one_line(error)}") from error
    if missing := {*_COLUMNS, "arm", "seed"} - {*found.columns}:
        raise InputError(f"{csv} must be from `rescaler fair --csv`; it has no {', '.join(sorted(missing))}")
    return found


def final_scores(curves: DataFrame) -> DataFrame:
    """Return what decides: the last epoch of each run.

    Args:
        curves: from :func:`load_curves` or :func:`read_curves`.
    """
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
        own, its = scores[scores["arm"] == arm], curves[curves["arm"] == arm]
        rows.append(
            {
                "arm": arm,
                "n": len(own),
                "cost": own["cost"].mean(),
                "top1": own["test_top1"].mean(),
                "top1_sd": own["test_top1"].std(),
                **_paired("to_full", table, arm, FULL),
                **_paired("ours", table, OURS, arm),
                "reach": _reach(mean_curve(its), wanted),
            }
        )
    return DataFrame(rows)


def _paired(name: str, table: DataFrame, one: str, other: str) -> dict[str, float]:
    """Return the mean difference of two arms by seed, and its interval; missing where there is nothing to pair."""
    mean = low = high = math.nan
    if one != other and {one, other} <= set(table.columns):
        gaps = (table[one] - table[other]).dropna()
        mean, half = gaps.mean(), half_width(len(gaps), gaps.std())
        low, high = mean - half, mean + half
    return {name: mean, f"{name}_low": low, f"{name}_high": high}


def mean_curve(curves: DataFrame) -> DataFrame:
    """Return the mean of an arm's runs after each epoch: ``cost``, ``top1``, and its ``low`` and ``high`` over them."""
    by_epoch = curves.groupby("epoch")
    found = by_epoch.agg(
        cost=("cost", "mean"), top1=("test_top1", "mean"), low=("test_top1", "min"), high=("test_top1", "max")
    )
    return found.reset_index()


def _reach(curve: DataFrame, top1: float) -> float:
    """Return the cost from which on a curve stays at or above an accuracy."""
    below = curve.index[curve["top1"] < top1]
    first = 0 if below.empty else below[-1] + 1
    return float(curve["cost"].iloc[first]) if first < len(curve) and not math.isnan(top1) else math.nan


def fair_table(rows: DataFrame, *, margin: float = MARGIN) -> TextTable:
    """Return the comparison in words and cells."""
    cells = []
    for _, row in rows.iterrows():
        cells.append(
            [
                NAMES.get(row["arm"], row["arm"]),
                _COST.show(row["cost"]),
                ACCURACY.over_runs(row, "top1"),
                _interval(row, "to_full"),
                _interval(row, "ours"),
                _COST.show(row["reach"]),
                str(row["n"]),
            ]
        )
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


def _interval(row: "Series[Any]", name: str) -> str:
    if math.isnan(row[name]):
        return NONE
    bounds = "" if math.isinf(row[f"{name}_low"]) else " to ".join(POINTS.show(row[f"{name}_{end}"]) for end in _ENDS)
    return POINTS.show(row[name]) + (f" ({bounds})" if bounds else "")


_ENDS = ("low", "high")


def verdicts(rows: DataFrame, *, margin: float = MARGIN) -> list[str]:
    """Return what the intervals say of kernel rescaling, a sentence for each opponent."""
    by_arm: dict[str, Any] = {row["arm"]: row for row in rows.to_dict("records")}
    ours = by_arm.pop(OURS, None)
    if ours is None:
        return []
    found = []
    if not math.isnan(ours["to_full"]):
        points = f"{100 * margin:g} points"
        said = {
            True: f"loses less than {points}",
            False: f"loses more than {points}" if ours["to_full_high"] < -margin else f"may lose more than {points}",
        }[bool(ours["to_full_low"] > -margin)]
        found.append(f"Kernel rescaling, at {ours['cost']:.2f} of the cost, {said} against the target in full.")
    by_arm.pop(FULL, None)
    for arm, row in by_arm.items():
        if row["ours_low"] > 0:
            said = "beats"
        elif row["ours_high"] < 0:
            said = "loses to"
        else:
            said = "is not told apart from"
        found.append(f"Kernel rescaling {said} {NAMES.get(arm, arm).lower()}.")
    return found
