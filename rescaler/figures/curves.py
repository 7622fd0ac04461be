"""What the figures draw of several seeds: one curve, one bar for all of them."""

from typing import Any

from pandas import DataFrame, Series

from rescaler.results import network_label, order
from rescaler.results.tables import GROUP, progress_label

KIND = [name for name in GROUP if name != "comparison"]
"""Runs of a comparison that agree in these differ in their seed at most."""

_NAMED = 4
_GLIDE = 3
"""Changes of the learning rate in a row that are a warm-up or a smooth schedule, and no steps."""


def counted(epochs: DataFrame) -> DataFrame:
    """The epochs of the runs that a figure shows, in the paper's order.

    Of several runs that differ in their seed alone the finished ones; if none is finished, the one that is furthest.

    Args:
        epochs: those of one comparison, from :func:`rescaler.results.load_epochs`.
    """
    rows = epochs.assign(distinction=epochs["distinction"].astype(str), rank=order(epochs["resize_epoch"]))
    runs: list[str] = []
    for _, kind in rows.groupby(KIND, sort=False, observed=True):
        done = kind["run"][kind["status"] == "done"].unique()
        runs += list(done) or [kind.sort_values("epoch")["run"].iloc[-1]]
    return rows[rows["run"].isin(runs)].sort_values(["rank", "hold", "distinction", "seed", "run", "epoch"])


def kind_labels(counted_epochs: DataFrame) -> dict[Any, str]:
    """What the networks are called in legends, by :data:`KIND`."""
    labels = {}
    for kind, rows in counted_epochs.groupby(KIND, sort=False, observed=True):
        last = rows.iloc[-1]
        label = network_label(
            last["resize_epoch"], image_px=last["image_px"], hold=last["hold"], distinction=last["distinction"]
        )
        labels[kind] = label if last["status"] == "done" else f"{label}, {last['status']}"
    return labels


def mean_curves(epochs: DataFrame) -> DataFrame:
    """One curve for the runs of a comparison that differ in their seed alone: their mean; see :func:`counted`.

    A curve ends where the first of its runs does.

    Args:
        epochs: those of one comparison, from :func:`rescaler.results.load_epochs`.

    Returns:
        One row an epoch and curve, in the paper's order: ``KIND``, ``label``, ``epoch``, ``runs``; over the runs, the
        mean of ``test`` and ``train`` accuracy (percent) with ``test_low`` and ``test_high``, and of ``time_s``;
        ``rescaled``; ``changed``, whether the learning rate did so at a stroke, in any run; ``held``, in how many runs;
        and of the whole curve ``finished``, and ``best``, the mean of the runs' best test accuracies (percent).
    """
    rows = counted(epochs)
    curves = rows.assign(changed=_changed(rows)).groupby([*KIND, "epoch"], sort=False, observed=True)
    means = curves.agg(
        runs=("run", "nunique"),
        test=("test_top1", "mean"),
        test_low=("test_top1", "min"),
        test_high=("test_top1", "max"),
        train=("train_top1", "mean"),
        time_s=("time_s", "mean"),
        rescaled=("rescaled", "any"),
        changed=("changed", "any"),
        held=("held", "sum"),
    )
    runs = means.groupby(KIND, observed=True)["runs"].transform("max")
    # The mean of the best accuracies, as in the tables: the best of the mean curve is lower.
    bests = rows.groupby([*KIND, "run"], observed=True)["test_top1"].max().groupby(KIND).mean()
    finished = (rows["status"] == "done").groupby([rows[name] for name in KIND]).all()
    means = means[means["runs"] == runs].join(bests.rename("best")).join(finished.rename("finished")).reset_index()
    means[["test", "test_low", "test_high", "train", "best"]] *= 100
    labels = kind_labels(rows)
    means["label"] = [labels[kind] for kind in means[KIND].itertuples(index=False, name=None)]
    if means["runs"].nunique() > 1:
        means["label"] += ", n = " + means["runs"].astype(str)
    return means


def _changed(rows: DataFrame) -> "Series[bool]":
    """Whether the learning rate is another than in the epoch before, and does not just glide from epoch to epoch."""
    changed = rows.groupby("run", observed=True)["learning_rate"].diff().fillna(0) != 0
    streaks = changed.groupby([rows["run"], (~changed).cumsum()], observed=True)
    return changed & (streaks.transform("sum") < _GLIDE)


def absent_baselines(rows: DataFrame) -> list[str]:
    """The names of the baselines that are not among ``rows``."""
    there = set(rows["resize_epoch"])
    return [network_label(baseline) for baseline in (0, "never") if baseline not in there]


def unfinished(epochs: DataFrame) -> list[str]:
    """The runs that are not done, in words; of many, the first few and how many more."""
    words = []
    for _, rows in epochs[epochs["status"] != "done"].groupby("run", sort=False, observed=True):
        run = rows.iloc[0]
        name = network_label(run["resize_epoch"], hold=run["hold"], distinction=run["distinction"])
        standing = {**run, "complete": False, "epochs": len(rows), "held_epochs": rows["held"].sum()}
        words.append(f"{name}, seed {run['seed']}: {progress_label(standing)}")
    return words[:_NAMED] + [f"{len(words) - _NAMED} more"] * (len(words) > _NAMED)
