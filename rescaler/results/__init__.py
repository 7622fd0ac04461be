"""Read runs back: one row a run, one row an epoch, and the paper's Tables 2-4 computed from both."""

import dataclasses
import json
import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pandas import DataFrame

from rescaler.errors import InputError
from rescaler.record import Record

log = logging.getLogger(__name__)

_SUMMARY: dict[str, type | tuple[type, ...]] = {
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
_METRICS: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(Record)} | {"reused": bool}
_IDENTITY = ["run", "comparison", "name", "model", "data", "seed", "resize_epoch", "hold", "distinction", "status"]


def load_runs(folders: Iterable[Path]) -> DataFrame:
    """Summaries of all runs in and below ``folders``, one row a run.

    A run found twice (a sweep started again in a new folder) counts once: the copy that is furthest, then newest.
    A ``summary.json`` that no run wrote is named in the log and left out.

    Returns:
        The fields of ``summary.json``; ``folder``, the run's own; ``last_epoch``, up to which to read it: all;
        ``distinction``, what tells the run from others of its comparison, resize epoch and seed.

    Raises:
        InputError: a folder has no run.
    """
    rows: list[dict[str, Any]] = []
    for folder in folders:
        found = [row for path in sorted(folder.rglob("summary.json")) if (row := _summary(path)) is not None]
        if not found:
            raise InputError(f"no runs in {folder}: it must be a run's folder (with a summary.json) or one above runs")
        rows += found
    runs = DataFrame(rows).assign(last_epoch=lambda runs: runs["epochs_planned"])
    runs["variant"] = runs["variant"].fillna("") if "variant" in runs else ""
    runs["updated"] = pd.to_datetime(runs["updated"], utc=True, format="ISO8601")
    advance = runs.assign(done=runs["status"] == "done").sort_values(["epochs", "done", "updated"])
    return _distinguished(runs.loc[advance.drop_duplicates("run", keep="last").index.sort_values()])


def _distinguished(runs: DataFrame) -> DataFrame:
    """Add ``distinction``: what tells runs of one resize epoch and seed apart (kernel table, interpolation ...)."""
    alike = ["comparison", "resize_epoch", "hold", "seed"]
    runs = runs.assign(distinction=runs["variant"].where(runs.duplicated(alike, keep=False), ""))
    still_alike = runs.duplicated([*alike, "distinction"], keep=False)
    return runs.assign(distinction=runs["distinction"].mask(still_alike, runs["run"].str[:8])).reset_index(drop=True)


def _summary(path: Path) -> dict[str, Any] | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        wrong = [name for name, kind in _SUMMARY.items() if not isinstance(values[name], kind)]
        if wrong:
            raise ValueError(f"wrong type: {', '.join(wrong)}")
        pd.to_datetime(values["updated"], format="ISO8601")
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("skipped %s, which is not the summary of a run (%s: %s)", path, type(error).__name__, error)
        return None
    return {**values, "folder": path.parent}


def read_at(runs: DataFrame, last_epoch: int) -> DataFrame:
    """The runs as if each had stopped after ``last_epoch`` (the paper trains 65 epochs and reads its tables at 55).

    The results in the summaries stay those of the whole runs; :func:`table` has the earlier ones.

    Raises:
        InputError: ``last_epoch`` is below 1.
    """
    if last_epoch < 1:
        raise InputError(f"--epochs must be at least 1; got {last_epoch}")
    return runs.assign(
        last_epoch=last_epoch,
        epochs=runs["epochs"].clip(upper=last_epoch),
        status=runs["status"].mask(runs["epochs"] >= last_epoch, "done"),
    )


def load_epochs(runs: DataFrame) -> DataFrame:
    """Metrics of the epochs of ``runs``, as :func:`load_runs` or :func:`read_at` gave them, one row an epoch.

    Returns:
        The fields of :class:`rescaler.record.Record`; ``reused``, whether this run read the epoch from the ledger; what
        tells the runs apart (``run``, ``comparison``, ``seed``, ``resize_epoch`` ...); ``epochs_scheduled``, the held
        ones left out; ``training_s`` of the epoch; ``time_s``, training up to and including it, as if run alone.
    """
    frames = [_metrics(run) for _, run in runs.iterrows() if run["epochs"] > 0]
    columns = [*_IDENTITY, *_METRICS, "epochs_scheduled", "training_s", "time_s"]
    return pd.concat(frames, ignore_index=True)[columns] if frames else DataFrame(columns=columns)


def _metrics(run: "pd.Series[Any]") -> DataFrame:
    path = run["folder"] / "metrics.csv"
    try:
        # The summary and the metrics of a live run are two files: what the summary does not count yet is left out.
        rows = pd.read_csv(path, usecols=list(_METRICS), dtype=_METRICS, nrows=run["epochs"])
    except (OSError, ValueError) as error:
        log.warning("skipped %s, which is not the metrics of a run (%s)", path, error)
        rows = DataFrame({name: pd.Series(dtype=kind) for name, kind in _METRICS.items()})
    rows = rows.assign(**{name: run[name] for name in _IDENTITY}, epochs_scheduled=_scheduled(run, rows))
    rows["training_s"] = rows["train_s"] + rows["data_s"] + rows["rescale_s"]
    rows["time_s"] = rows["training_s"].cumsum()
    return rows


def _scheduled(run: "pd.Series[Any]", epochs: DataFrame) -> int:
    """Epochs of the schedule, up to where the run is read; the plan counts the held ones too."""
    return min(int(run["last_epoch"]), int(run["epochs_planned"] - epochs["held"].sum()))


def network_label(resize_epoch: int | Literal["never"], hold: bool, epochs: DataFrame, distinction: str = "") -> str:
    """A run's name in tables and legends, after the paper's; ``epochs`` are its own."""
    if resize_epoch == "never" or resize_epoch == 0:
        name = "Target" if resize_epoch == 0 else "Pre-train"
        label = name if epochs.empty else f"{name} ({epochs['image_px'].iloc[-1]}×{epochs['image_px'].iloc[-1]})"
    else:
        held = int(epochs["held"].sum())
        label = f"Resized at epoch {resize_epoch}" + (f" (held, +{held} epoch{'s' * (held != 1)})" if hold else "")
    return f"{label} [{distinction}]" if distinction else label


def order(resize_epochs: "pd.Series[Any]") -> "pd.Series[int]":
    """Sort key of the paper's tables: pre-train, target, then resized by epoch."""
    return resize_epochs.replace({"never": -1}).astype(int)


def headings(frame: DataFrame) -> dict[str, str]:
    """What each comparison is of: names, model, data, length, devices; ``frame`` is a table, or epochs."""
    titles = {}
    for comparison, rows in frame.groupby("comparison", sort=False):
        names, models, data, devices = (", ".join(rows[key].unique()) for key in ("name", "model", "data", "device"))
        titles[str(comparison)] = f"{names}: {models} on {data}, {rows['epochs_scheduled'].max()} epochs, {devices}"
    if len(titles) == 1:
        return titles
    return {comparison: f"{title} (comparison {comparison[:8]})" for comparison, title in titles.items()}


def table(runs: DataFrame, epochs: DataFrame) -> DataFrame:
    """The paper's Table 2, one row a run, those of one comparison together.

    Time saved is against the target baseline (``resize_epoch=0``) of the same comparison and seed. Where that is not
    finished, its time is estimated as the scheduled epochs times the run's own mean target epoch, see ``estimated``.

    Args:
        runs: as :func:`load_runs` or :func:`read_at` gave them.
        epochs: theirs, from :func:`load_epochs`.

    Returns:
        ``network`` (label), ``best_top1`` (fraction) and ``best_epoch``, ``training_s``, ``saved_s`` and
        ``saved_fraction`` (missing for the target itself and for unfinished runs), ``evaluation_s``, and what
        identifies the run.
    """
    own = dict(iter(epochs.groupby("run")))
    none = epochs.iloc[:0]
    rows = DataFrame([_row(run, own.get(run["run"], none)) for _, run in runs.iterrows()])
    rows = rows.assign(first=pd.factorize(rows["comparison"])[0], rank=order(rows["resize_epoch"]))
    rows = rows.sort_values(["first", "rank", "hold", "seed"])

    measured = rows[rows["complete"] & (rows["resize_epoch"] == 0)].groupby(["comparison", "seed"])["training_s"].mean()
    baseline = rows.join(measured.rename("baseline_s"), on=["comparison", "seed"])["baseline_s"]
    saves = rows["complete"] & (rows["resize_epoch"] != 0)
    target_s = baseline.fillna(rows["target_estimate_s"]).where(saves)
    rows["saved_s"] = target_s - rows["training_s"]
    rows["saved_fraction"] = rows["saved_s"] / target_s
    rows["estimated"] = baseline.isna() & target_s.notna()
    return rows.drop(columns=["first", "rank", "complete", "target_estimate_s"]).reset_index(drop=True)


def _row(run: "pd.Series[Any]", epochs: DataFrame) -> dict[str, Any]:
    nothing = {"test_top1": math.nan, "epoch": math.nan}
    best = epochs.iloc[epochs["test_top1"].argmax()] if len(epochs) else nothing
    target = epochs[epochs["stage"] == "target"]
    scheduled = _scheduled(run, epochs)
    return {
        **run[["comparison", "name", "model", "data", "device", "run", "resize_epoch", "hold", "seed"]],
        "network": network_label(run["resize_epoch"], run["hold"], epochs, run["distinction"]),
        "best_top1": best["test_top1"],
        "best_epoch": best["epoch"],
        "training_s": epochs["training_s"].sum(min_count=1),
        "saved_s": math.nan,
        "saved_fraction": math.nan,
        "estimated": False,
        "evaluation_s": epochs["evaluation_s"].sum(min_count=1),
        "epochs": len(epochs),
        "held_epochs": int(epochs["held"].sum()),
        "epochs_scheduled": scheduled,
        "status": run["status"],
        "error": run.get("error"),
        "folder": run["folder"],
        "complete": run["status"] == "done" and len(epochs) == run["epochs"] > 0,
        # A target run has no rescale to pay for.
        "target_estimate_s": scheduled * (target["train_s"] + target["data_s"]).mean(),
    }


@dataclass(frozen=True)
class Cost:
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


def time_unit(longest_s: float) -> tuple[str, int]:
    """The unit in which times up to ``longest_s`` seconds read best, and its seconds."""
    if longest_s >= 2 * 3600:
        return "h", 3600
    return ("min", 60) if longest_s >= 600 else ("s", 1)
