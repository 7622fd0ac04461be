"""How sure a difference is: paired by seed, with its 95 % interval and a verdict at a stated margin."""

import functools
import math
from typing import Literal

from pandas import DataFrame, Series

Verdict = Literal["preserved", "lost", "not enough runs to tell"]

MARGIN = 0.005
"""Accuracy that may be given up for time and still counts as preserved: half a point."""

GROUP = ["comparison", "resize_epoch", "hold", "distinction"]
"""Runs that differ in their seed alone."""

_MEANS = ("best_top1", "training_s", "saved_fraction", "held_epochs")


def verdict(low: float, high: float, margin: float = MARGIN) -> Verdict:
    """Whether accuracy is preserved, as a test of non-inferiority.

    ``preserved``: the whole interval lies above ``-margin``; ``lost``: the whole interval lies below it; else there
    are ``not enough runs to tell``.

    Args:
        low: lower bound of the difference to the target, as a fraction.
        high: upper bound.
        margin: accuracy that may be lost and still counts as preserved, as a fraction.
    """
    if low > -margin:
        return "preserved"
    return "lost" if high < -margin else "not enough runs to tell"


def half_width(pairs: int, sd: float) -> float:
    """Half of the 95 % interval (Student's t) of a mean difference; infinite with fewer than two pairs."""
    return math.inf if pairs < 2 else _student(pairs) * sd / math.sqrt(pairs)


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
        accuracy against the target of the same seed with its 95 % interval (infinite for a single pair; missing for
        the target itself), over ``pairs`` seeds, and the ``verdict`` at ``margin``, None without pairs; ``estimated``,
        whether a saving rests on an estimate of the target's time.
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
    half = Series(list(map(half_width, rows["pairs"], rows.pop("gap_sd"))), rows.index)
    rows["difference_low"], rows["difference_high"] = rows["difference"] - half, rows["difference"] + half
    bounds = rows[["difference_low", "difference_high"]].to_numpy().tolist()
    verdicts = [verdict(low, high, margin) for low, high in bounds]
    rows["verdict"] = Series(verdicts, rows.index, object).where(rows["pairs"] > 0, None)
    return rows.assign(margin=margin).reset_index()
