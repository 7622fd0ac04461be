"""How sure a difference is: paired by seed, with its 95 % interval and a verdict at a stated margin."""

import functools
import math
from dataclasses import dataclass
from typing import Literal

from pandas import DataFrame, Series

Verdict = Literal["preserved", "lost", "not enough runs to tell"]

MARGIN = 0.005
"""Accuracy that may be given up for time and still counts as preserved: half a point."""

GROUP = ["comparison", "resize_epoch", "hold", "distinction"]
"""Runs that differ in their seed alone."""

_MEANS = ("best_top1", "training_s", "saved_fraction", "held_epochs")


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


def _difference(n: int, mean: float, sd: float) -> Difference:
    half = math.inf if n < 2 else _student(n) * sd / math.sqrt(n)
    return Difference(n, mean, mean - half, mean + half)


@functools.cache
def _student(n: int) -> float:
    """The quantile of Student's t that bounds 95 % for a mean of ``n``."""
    from scipy.special import stdtrit  # scipy.stats has the same, and takes a second to import

    return float(stdtrit(n - 1, 0.975))


def over_seeds(table: DataFrame, *, margin: float = MARGIN) -> DataFrame:
    """Finished runs by what they have in common but the seed, in the order of ``table``.

    Args:
        table: from :func:`rescaler.results.table`.
        margin: accuracy that may be lost and still counts as preserved, as a fraction.

    Returns:
        What the runs share (:data:`GROUP`, ``network``, ``model``); ``n`` finished runs of ``seeds``; means and
        standard deviations (``_sd``; missing for a single run) of ``best_top1``, ``training_s``, ``saved_fraction`` and
        ``held_epochs``; ``best_epoch``, their median; ``difference``, ``difference_low`` and ``difference_high``,
        accuracy against the target of the same seed (:class:`Difference`; missing for the target itself), over
        ``pairs`` seeds, and the ``verdict`` at ``margin``, None without pairs; ``estimated``, whether a saving rests on
        an estimate of the target's time.
    """
    finished = table[table["complete"]]
    targets = finished[finished["resize_epoch"] == 0].groupby(["comparison", "seed"])["best_top1"].mean()
    gap = finished["best_top1"] - finished.join(targets.rename("target_top1"), on=["comparison", "seed"])["target_top1"]
    finished = finished.assign(gap=gap.where(finished["resize_epoch"] != 0))
    means = {key: (key, "mean") for key in _MEANS} | {f"{key}_sd": (key, "std") for key in _MEANS}
    rows = table.groupby(GROUP, sort=False).agg(
        network=("network", "first"), model=("model", "first"), seeds=("run", "size")
    )
    rows = rows.join(
        finished.groupby(GROUP, sort=False).agg(
            n=("run", "size"), best_epoch=("best_epoch", "median"), **means, estimated=("estimated", "any"),
            pairs=("gap", "count"), difference=("gap", "mean"), gap_sd=("gap", "std"),
        )
    )  # fmt: skip
    rows[["n", "pairs"]] = rows[["n", "pairs"]].fillna(0).astype(int)
    rows["estimated"] = rows["estimated"].eq(True)
    found = list(map(_difference, rows["pairs"], rows["difference"], rows.pop("gap_sd")))
    paired_at_all = rows["pairs"] > 0
    for bound in ("low", "high"):
        rows[f"difference_{bound}"] = Series([getattr(one, bound) for one in found], rows.index).where(paired_at_all)
    rows["verdict"] = Series([one.verdict(margin) for one in found], rows.index, object).where(paired_at_all, None)
    return rows.assign(margin=margin).reset_index()
