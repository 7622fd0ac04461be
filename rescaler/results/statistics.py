"""How sure a difference is: paired by seed, with its 95 % interval and a verdict at a stated margin."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
from pandas import DataFrame

Verdict = Literal["preserved", "lost", "not enough runs to tell"]

MARGIN = 0.005
"""Accuracy that may be given up for time and still counts as preserved: half a point."""

GROUP = ["comparison", "resize_epoch", "hold", "distinction"]
"""Runs that differ in their seed alone."""


@dataclass(frozen=True)
class Difference:
    """A mean difference over pairs of runs of the same seed, with its 95 % interval (Student's t); fractions.

    With fewer than two pairs there is no interval: its bounds are infinite.
    """

    n: int
    mean: float
    low: float
    high: float

    def verdict(self, margin: float = MARGIN) -> Verdict:
        """Whether accuracy is preserved, as a test of non-inferiority.

        ``preserved``: the whole interval lies above ``-margin``; ``lost``: the whole interval lies below it; else there
        are ``not enough runs to tell``.
        """
        if self.low > -margin:
            return "preserved"
        return "lost" if self.high < -margin else "not enough runs to tell"


def paired(values: "pd.Series[float]", baseline: "pd.Series[float]") -> Difference | None:
    """``values - baseline``, both by seed; None where they have no seed in common."""
    differences = (values - baseline).dropna()
    n, mean = len(differences), float(differences.mean())
    if n == 0:
        return None
    if n == 1:
        return Difference(n, mean, -math.inf, math.inf)
    if differences.nunique() == 1:
        return Difference(n, mean, mean, mean)
    from scipy.stats import ttest_rel

    interval = ttest_rel(values[differences.index], baseline[differences.index]).confidence_interval(0.95)
    return Difference(n, mean, float(interval.low), float(interval.high))


def over_seeds(table: DataFrame, *, margin: float = MARGIN) -> DataFrame:
    """Finished runs by what they have in common but the seed, in the order of ``table``.

    Args:
        table: from :func:`rescaler.results.table`.
        margin: accuracy that may be lost and still counts as preserved, as a fraction.

    Returns:
        What the runs share (:data:`GROUP`, ``network``); ``n`` finished runs of ``seeds``; means and standard
        deviations (``_sd``; missing for a single run) of ``best_top1``, ``training_s``, ``saved_fraction`` and
        ``held_epochs``; ``best_epoch``, their median; ``difference``, ``difference_low`` and ``difference_high``,
        accuracy against the target of the same seed (:class:`Difference`; missing for the target itself), over
        ``pairs`` seeds, and the ``verdict``; ``estimated``, whether a saving rests on an estimated target.
    """
    if table.empty:
        return DataFrame(columns=[*GROUP, "network", "n", "seeds"])
    finished = table[table["complete"]]
    targets = finished[finished["resize_epoch"] == 0].groupby(["comparison", "seed"])["best_top1"].mean()
    rows = [_row(runs, targets, margin) for _, runs in table.groupby(GROUP, sort=False)]
    return DataFrame(rows)


def _row(runs: DataFrame, targets: "pd.Series[float]", margin: float) -> dict[str, Any]:
    first, finished = runs.iloc[0], runs[runs["complete"]]
    row: dict[str, Any] = {key: first[key] for key in [*GROUP, "network"]}
    row |= {"n": len(finished), "seeds": len(runs), "best_epoch": finished["best_epoch"].median()}
    for key in ("best_top1", "training_s", "saved_fraction", "held_epochs"):
        row |= {key: finished[key].mean(), f"{key}_sd": finished[key].std()}
    row["estimated"] = bool(finished["estimated"].any())
    difference = None
    if first["resize_epoch"] != 0 and first["comparison"] in targets.index.get_level_values("comparison"):
        difference = paired(finished.set_index("seed")["best_top1"], targets[first["comparison"]])
    if difference is None:
        nothing = dict.fromkeys(("difference", "difference_low", "difference_high"), math.nan)
        return row | {"pairs": 0, **nothing, "verdict": None}
    return row | {
        "pairs": difference.n,
        "difference": difference.mean,
        "difference_low": difference.low,
        "difference_high": difference.high,
        "verdict": difference.verdict(margin),
    }
