"""Accuracy, training time and time saved by run; over seeds with intervals and verdicts."""

import functools
import math
import pkgutil
from collections.abc import Collection, Mapping
from typing import Any, Literal, NamedTuple

import pandas as pd
from pandas import DataFrame, Series

from rescaler.errors import InputError, one_line
from rescaler.text import counted

Verdict = Literal["preserved", "lost", "not enough runs to tell"]

MARGIN = 0.005
"""Accuracy that may be given up for time and still counts as preserved: half a point."""

GROUP = ["comparison", "resize_epoch", "hold", "distinction"]
"""Runs that differ in their seed alone."""

_MEANS = ("best_top1", "training_s", "saved_fraction", "held_epochs")


def network_label(
    resize_epoch: int | Literal["never"],
    *,
    image_px: float | str | None = None,
    hold: bool = False,
    held_epochs: int | None = None,
    distinction: str = "",
) -> str:
    """A run's name, after the paper's: ``resize_epoch`` counts completed pre-train epochs, 0 is the target baseline.

    Args:
        resize_epoch: ``never``: the pre-train baseline.
        image_px: side of a baseline's images, or a text such as ``128x96``, where known.
        hold: the learning rule is held after the resize (section 5.2).
        held_epochs: how many epochs so far, where known.
        distinction: what tells the run from others of the same resize epoch.
    """
    if resize_epoch in ("never", 0):
        label = "Target" if resize_epoch == 0 else "Pre-train"
        if image_px is not None and not pd.isna(image_px):
            size = image_px if isinstance(image_px, str) else f"{image_px:.0f}x{image_px:.0f}"
            label += f" ({size.replace('x', '×')})"
    else:
        label = f"Resized at epoch {resize_epoch}"
        if hold:
            label += " (held)" if held_epochs is None else f" (held, +{counted(held_epochs, 'epoch')})"
    return f"{label} [{distinction}]" if distinction else label


def progress_label(row: "Mapping[str, Any] | Series[Any]") -> str:
    """How far a run is, a row of :func:`table`: ``done``, or its status and its recorded epochs."""
    if row["complete"]:
        return "done"
    planned = row["epochs_scheduled"] + row["held_epochs"]
    where = " in its metrics" if row["status"] == "done" else ""
    return f"{row['status']}, {row['epochs']} of {planned} epochs{where}"


def is_baseline(resize_epochs: "pd.Series[Any]") -> "pd.Series[bool]":
    """Whether each is the target's or the pre-train baseline's."""
    return resize_epochs.isin([0, "never"])


def order(resize_epochs: "pd.Series[Any]") -> "pd.Series[int]":
    """Sort key of the paper's tables: pre-train, target, then resized by epoch."""
    return resize_epochs.map(lambda value: -1 if value == "never" else int(value)).astype(int)


def headings(frame: DataFrame) -> dict[str, str]:
    """What each comparison is of: name if one was given, model, data, epochs, devices; ``frame``: table or epochs."""
    titles = {}
    for comparison, rows in frame.groupby("comparison", sort=False, observed=True):
        names, models, data, devices = (", ".join(rows[key].unique()) for key in ("name", "model", "data", "device"))
        title = f"{models} on {data}, {rows['epochs_scheduled'].max()} epochs, {devices}"
        titles[str(comparison)] = title if names == f"{data}_{models}" else f"{names}: {title}"
    if len(titles) == 1:
        return titles
    return {comparison: f"{title} (comparison {comparison[:8]})" for comparison, title in titles.items()}


def time_unit(longest_s: float) -> tuple[str, int]:
    """The unit in which times up to ``longest_s`` seconds read best, and its seconds."""
    if longest_s >= 2 * 3600:
        return "h", 3600
    return ("min", 60) if longest_s >= 600 else ("s", 1)


_RUN = ["comparison", "name", "model", "data", "device", "run", "resize_epoch", "hold", "seed", "distinction", "status"]


def table(runs: DataFrame, epochs: DataFrame) -> DataFrame:
    """The paper's Table 2, one row a run, those of one comparison together.

    Time saved is against the target baseline (``resize_epoch=0``) of the same comparison, seed and device. Where that
    is not finished, its time is estimated as the scheduled epochs times the run's own mean target epoch, and what
    compiling the target took it: see ``estimated``.

    Args:
        runs: as :func:`rescaler.results.load_runs` or :func:`rescaler.results.read_at` gave them.
        epochs: theirs, from :func:`rescaler.results.load_epochs`.

    Returns:
        ``network`` (label), ``final_top1`` (fraction) of the last epoch, ``best_top1`` and ``best_epoch`` of the epochs
        with the network that the run is about: the target, unless it is the pre-train baseline; ``training_s``,
        ``saved_s`` and ``saved_fraction`` (missing for the target itself and for unfinished runs), ``evaluation_s``,
        ``complete``, and what identifies the run.
    """
    pretrain = set(runs["run"][runs["resize_epoch"] == "never"])
    rows = runs[_RUN].join(_by_run(epochs, pretrain), on="run")
    rows[["error", "folder"]] = runs[["error", "folder"]]
    for name in ("epochs", "held_epochs"):
        rows[name] = rows[name].fillna(0).astype(int)
    rows["epochs_scheduled"] = (runs["epochs_planned"] - rows["held_epochs"]).clip(upper=runs["last_epoch"])
    rows["complete"] = (rows["status"] == "done") & (rows["epochs"] == runs["epochs"]) & (rows["epochs"] > 0)
    told = ["resize_epoch", "image_px", "hold", "held_epochs", "distinction"]
    rows["network"] = [
        network_label(resize_epoch, image_px=px, hold=hold, held_epochs=held, distinction=distinction)
        for resize_epoch, px, hold, held, distinction in rows[told].to_numpy().tolist()
    ]
    rows = rows.assign(first=pd.factorize(rows["comparison"])[0], rank=order(rows["resize_epoch"]))
    rows = rows.sort_values(["first", "rank", "hold", "distinction", "seed"])
    helping = ["first", "rank", "image_px", "target_epoch_s", "target_compile_s"]
    return _saved(rows).drop(columns=helping).reset_index(drop=True)


def add_column(rows: DataFrame, epochs: DataFrame, path: str) -> str:
    """Add a custom column to ``rows`` of :func:`table` and return its name, the function's.

    Args:
        rows: from :func:`table`.
        epochs: from :func:`rescaler.results.load_epochs`.
        path: import path of a function that takes the epochs of one run and returns a value.

    Raises:
        InputError: there is no such function, or it fails.
    """
    try:
        function = pkgutil.resolve_name(path)
        found = {str(run): function(own) for run, own in epochs.groupby("run", sort=False, observed=True)}
        for value in found.values():
            if not pd.api.types.is_scalar(value):
                raise TypeError(f"it must give a number or a text; got a {type(value).__name__}")
    except Exception as error:  # whatever the user's function raises
        raise InputError(f"--column {path}: {type(error).__name__}: {one_line(error)}") from error
    name: str = function.__name__
    rows[name] = rows["run"].astype(str).map(found)
    return name


def _by_run(epochs: DataFrame, pretrain: Collection[str]) -> DataFrame:
    """Numbers of each run; ``pretrain``: the runs whose network is a pre-train network."""
    by_run = epochs.groupby("run", observed=True)
    own = epochs[(epochs["stage"] == "target") | epochs["run"].isin(pretrain)]
    measured = own.dropna(subset="test_top1").groupby("run", observed=True)
    best = epochs.loc[measured["test_top1"].idxmax(), ["run", "test_top1", "epoch"]].set_index("run")
    # A target run has no rescale to pay for.
    target = epochs[epochs["stage"] == "target"]
    target_s = (target["train_s"] + target["data_s"]).groupby(target["run"], observed=True).mean()
    columns = {
        "final_top1": measured["test_top1"].last(),
        "best_top1": best["test_top1"],
        "best_epoch": best["epoch"],
        "training_s": by_run["training_s"].sum(),
        "evaluation_s": by_run["evaluation_s"].sum(),
        "epochs": by_run.size(),
        "held_epochs": by_run["held"].sum(),
        "image_px": by_run["image_px"].last(),
        "target_epoch_s": target_s,
        "target_compile_s": target["compile_s"].groupby(target["run"], observed=True).sum(),
    }
    return DataFrame({name: values.rename_axis("run") for name, values in columns.items()})


def _saved(rows: DataFrame) -> DataFrame:
    alike = ["comparison", "seed", "device"]
    measured = rows[rows["complete"] & (rows["resize_epoch"] == 0)].groupby(alike)["training_s"].mean()
    baseline = rows.join(measured.rename("baseline_s"), on=alike)["baseline_s"]
    saves = rows["complete"] & (rows["resize_epoch"] != 0)
    estimate_s = rows["target_epoch_s"] * rows["epochs_scheduled"] + rows["target_compile_s"]
    target_s = baseline.fillna(estimate_s).where(saves)
    saved_s = target_s - rows["training_s"]
    estimated = baseline.isna() & target_s.notna()
    return rows.assign(saved_s=saved_s, saved_fraction=saved_s / target_s, estimated=estimated)


class Cost(NamedTuple):
    """Seconds that runs took together."""

    alone_s: float
    """Training, had every run trained all its epochs itself."""
    shared_s: float
    """Training, each distinct epoch once."""
    evaluation_s: float
    """Evaluation, each distinct epoch once."""


def cost(epochs: DataFrame) -> Cost:
    """What the runs of ``epochs`` cost with and without a shared trunk."""
    distinct = epochs.drop_duplicates("key")
    return Cost(epochs["training_s"].sum(), distinct["training_s"].sum(), distinct["evaluation_s"].sum())


def time_saved(runs: DataFrame, epochs: DataFrame) -> dict[str, dict[str, Any]]:
    """What the summaries in W&B say of the time saved, by run; nothing of those that tell nothing yet.

    Returns:
        By run: ``saved_s``, ``saved_fraction``, and ``saved_estimated``, whether the target baseline of the same
        comparison and seed was missing, so that its time is an estimate from the run's own target epochs.
    """
    rows = table(runs, epochs).dropna(subset=["saved_s"])
    columns = rows[["run", "saved_s", "saved_fraction", "estimated"]].itertuples(index=False)
    return {
        str(run): {"saved_s": float(s), "saved_fraction": float(fraction), "saved_estimated": bool(estimated)}
        for run, s, fraction, estimated in columns
    }


def verdict(low: float, high: float, margin: float = MARGIN) -> Verdict:
    """Whether accuracy is preserved, as a test of non-inferiority on the interval of the difference to the target.

    ``preserved``: the whole interval, in fractions, lies above ``-margin``; ``lost``: the whole of it lies below; else
    there are ``not enough runs to tell``.
    """
    if low > -margin:
        return "preserved"
    return "lost" if high < -margin else "not enough runs to tell"


@functools.cache
def _student(n: int) -> float:
    """The quantile of Student's t that bounds 95 % for a mean of ``n``."""
    from scipy.special import stdtrit  # scipy.stats has the same, and takes a second to import

    return float(stdtrit(n - 1, 0.975))


def half_width(pairs: int, sd: float) -> float:
    """Half of the 95 % interval (Student's t) of a mean difference; infinite with fewer than two pairs."""
    return math.inf if pairs < 2 else _student(pairs) * sd / math.sqrt(pairs)


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
