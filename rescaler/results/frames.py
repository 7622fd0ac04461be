"""Runs and epochs as data frames, read from the folders of runs or from W&B."""

import io
import json
import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from pandas import DataFrame, Series

from rescaler.errors import ArgumentError, InputError, one_line
from rescaler.record import (
    CHAIN_FILE,
    EPOCH_FIELDS,
    METRICS_FILE,
    MODEL_FILE,
    SUMMARY_FILE,
    TRAINING_CLOCKS,
    VARIANT_SEPARATOR,
    Record,
    read_metrics,
    read_sealed,
    size_cell,
    unsealed,
)
from rescaler.results.columns import add_settings
from rescaler.summary import Summary, checked, iso, totals

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from rescaler.loggers.wandb_client import Mirrored

# wandb takes seconds to import, so what needs it is imported where it is used.

log = logging.getLogger(__name__)

_WANDB = "wandb:"
Source = str | Path

_DTYPES = {name: kind for name, kind in EPOCH_FIELDS.items() if isinstance(kind, type)}
"""Of all columns but image_px: numbers, or texts where images are not square."""
IDENTITY = ["run", "comparison", "name", "model", "data", "seed", "resize_epoch", "hold", "distinction", "status"]
"""Columns of a frame of runs that a frame of epochs repeats."""


def epoch_frame(rows: Iterable[Mapping[str, Any]]) -> DataFrame:
    """Epochs as a frame whose columns are those of ``metrics.csv``."""
    rows = list(rows)
    return DataFrame({name: Series([row[name] for row in rows], dtype=_DTYPES.get(name)) for name in EPOCH_FIELDS})


def load_runs(sources: Source | Iterable[Source]) -> DataFrame:
    """All runs of some sources, one row a run.

    A run found twice (a sweep started again in a new folder) counts once: the copy that is furthest, then newest.
    Named in the log and left out: a ``summary.json`` that no run wrote; of several sources, one without runs.

    Args:
        sources: folders, searched with all below them, that hold runs' folders or W&B's offline files;
            ``wandb:ENTITY/PROJECT`` (or ``wandb:PROJECT``) for a project on W&B's server.

    Returns:
        The fields of ``summary.json``; ``folder``, the run's own; ``checkpoint``, its trained network, None without;
        ``source``; ``last_epoch``, up to which to read it; ``distinction`` from others of its comparison, resize epoch
        and seed; of W&B's runs ``mirrored``, their epochs, for a second request would cost minutes; every setting that
        differs among the runs, named as it is typed (``optim.lr_factor``), where their ``config.yaml`` is at hand.

    Raises:
        InputError: no source has runs.
    """
    each, frames = [sources] if isinstance(sources, Source) else list(sources), []
    if not each:
        raise InputError("no source of runs was named: give folders, or wandb:ENTITY/PROJECT")
    for source in each:
        try:
            frames.append(_read_source(source))
        except InputError as error:
            if len(each) == 1:
                raise
            log.warning("left out a source: %s", error)
    if not frames:
        raise InputError(f"none of the sources has runs: {', '.join(map(str, each))}")
    runs = pd.concat(frames, ignore_index=True)
    runs["updated"] = pd.to_datetime(runs["updated"], utc=True, format="ISO8601")
    advance = runs.assign(done=runs["status"] == "done").sort_values(["epochs", "done", "updated"])
    runs = runs.loc[advance.drop_duplicates("run", keep="last").index.sort_values()]
    return add_settings(_distinguished(runs.assign(last_epoch=runs["epochs_planned"])))


def load_epochs(runs: DataFrame) -> DataFrame:
    """Metrics of the epochs of ``runs``, as :func:`load_runs` or :func:`read_at` gave them, one row an epoch.

    Returns:
        The fields of :class:`rescaler.record.Record`; ``reused``, whether this run read the epoch from the ledger; what
        tells the runs apart (``run``, ``comparison``, ``seed``, ``resize_epoch`` ...); ``epochs_scheduled``, the held
        ones left out; ``training_s`` of the epoch; ``time_s``, training up to and including it, as if run alone;
        ``cost``, the same by reference times, in runs of the target.
    """
    parts = [_epochs_of(str(source), part) for source, part in runs.groupby("source", sort=False)]
    rows = pd.concat([part for part in parts if not part.empty] or [epoch_frame(()).assign(folder="")])
    own, each = (pd.Index(frame["folder"].astype(str)) for frame in (runs, rows))
    whose = own.get_indexer(each)  # row of runs, by epoch
    # The summary and the metrics of a live run are two files: what the summary does not count yet is left out.
    counted = rows["epoch"].to_numpy() <= runs["epochs"].to_numpy()[whose]
    rows, whose = rows[counted].reset_index(drop=True), whose[counted]
    for name in IDENTITY:
        # The same few texts again and again: as categories they take a byte or two each.
        kind = runs[name].dtype if name in ("seed", "hold", "resize_epoch") else "category"
        rows[name] = pd.Series(runs[name].to_numpy()[whose], dtype=kind)
    held = rows["held"].groupby(whose).sum().reindex(range(len(runs)), fill_value=0).to_numpy()
    scheduled = (runs["epochs_planned"] - held).clip(upper=runs["last_epoch"])
    rows["epochs_scheduled"] = scheduled.to_numpy()[whose]
    rows["training_s"] = rows[list(TRAINING_CLOCKS)].sum(axis=1, skipna=False)
    rows["time_s"] = rows["training_s"].groupby(whose).cumsum()
    rows["cost"] = (rows["images"] * _image_costs(runs, rows["stage"], whose)).groupby(whose).cumsum()
    return rows[[*IDENTITY, *EPOCH_FIELDS, "epochs_scheduled", "training_s", "time_s", "cost"]]


def _image_costs(runs: DataFrame, stages: "pd.Series[str]", whose: "npt.NDArray[np.intp]") -> list[float]:
    """Cost of training on an image in each epoch, by reference time; not a number where a run has none."""
    costs = runs["image_costs"].to_list() if "image_costs" in runs else [None] * len(runs)
    known = [values if isinstance(values, dict) else {} for values in costs]
    return [known[run].get(stage, math.nan) for run, stage in zip(whose.tolist(), stages, strict=True)]


def read_at(runs: DataFrame, last_epoch: int) -> DataFrame:
    """The runs as if each had stopped after ``last_epoch`` (the paper trains 65 epochs and reads its tables at 55).

    The results in the summaries stay those of the whole runs; :func:`rescaler.results.table` has the earlier ones.

    Raises:
        ArgumentError: ``last_epoch`` is below 1.
    """
    if last_epoch < 1:
        raise ArgumentError("last_epoch", f" must be at least 1; got {last_epoch}")
    return runs.assign(
        last_epoch=last_epoch,
        epochs=runs["epochs"].clip(upper=last_epoch),
        status=runs["status"].mask(runs["epochs"] >= last_epoch, "done"),
    )


def _distinguished(runs: DataFrame) -> DataFrame:
    """Add ``distinction``: what tells runs of one resize epoch apart beside their seed (kernels, interpolation ...)."""
    alike = ["comparison", "resize_epoch", "hold"]
    several = runs.groupby(alike)["variant"].transform("nunique") > 1
    runs = runs.assign(distinction="")
    runs.loc[several, "distinction"] = runs[several].groupby(alike)["variant"].transform(_differing)
    still_alike = runs.duplicated([*alike, "seed", "distinction"], keep=False)
    return runs.assign(distinction=runs["distinction"].mask(still_alike, runs["run"].str[:8])).reset_index(drop=True)


def _differing(variants: "pd.Series[str]") -> "pd.Series[str]":
    """Each variant without the parts that all of them have; whole where they differ in how often they have one."""
    parts = variants.str.split(VARIANT_SEPARATOR)
    shared = set.intersection(*map(set, parts))
    own = parts.map(lambda every: VARIANT_SEPARATOR.join(part for part in every if part not in shared))
    return own if own.nunique() == variants.nunique() else variants


def _read_source(source: Source) -> DataFrame:
    if isinstance(source, str) and source.startswith(_WANDB):
        from rescaler.loggers.wandb_client import read_project

        return _from_wandb(source, read_project(source.removeprefix(_WANDB)))
    folder = Path(source)
    found = _summaries(folder)
    if not found.empty:
        return found.assign(source=str(folder))
    mirrored = []
    if next(folder.rglob("run-*.wandb"), None) is not None:
        from rescaler.loggers.wandb_client import read_offline

        mirrored = read_offline(folder)
    if not mirrored:
        raise InputError(f"no runs in {folder}: it must be a run's folder (with a summary.json) or one above runs")
    return _from_wandb(f"{_WANDB}{folder}", mirrored)


def _from_wandb(source: str, runs: "Sequence[Mirrored]") -> DataFrame:
    rows = DataFrame([{**run.summary, "folder": run.folder} for run in runs])
    return rows.assign(source=source, checkpoint=None, mirrored=pd.Series([run.epochs for run in runs], dtype=object))


def _summaries(folder: Path) -> DataFrame:
    rows = []
    for own in _find(folder):
        if (summary := _summary(own / SUMMARY_FILE)) is not None:
            model = own / MODEL_FILE
            rows.append({**summary, "folder": own, "checkpoint": model if model.exists() else None})
    return DataFrame(rows)


def _find(folder: Path) -> Iterator[Path]:
    """Folders of runs, also where a summary is gone; W&B's own files and hidden folders are no places for runs."""
    for path, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != "wandb" and not name.startswith("."))
        if not path.isascii() and path != path.encode(errors="replace").decode():
            log.warning("skipped %r, whose name is not UTF-8", path)
        elif not {SUMMARY_FILE, CHAIN_FILE, METRICS_FILE}.isdisjoint(files):
            yield Path(path)


def _summary(path: Path) -> Summary | None:
    try:
        return checked(unsealed(json.loads(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        found = _recovered(path, reason)
        if found is None:
            log.warning("skipped %s, which is not the summary of a run (%s)", path, reason)
        return found and found[0]


def _recovered(path: Path, reason: str) -> tuple[Summary, list[tuple[Record, bool]]] | None:
    """Read a run from the ledger, by the keys in its ``chain.json``, in place of a damaged file of its folder."""
    from rescaler.ledger import Ledger  # imports torch

    try:
        chain = read_sealed(path.parent / CHAIN_FILE)
        ledger = Ledger(Path(os.path.normpath(path.parent.absolute() / chain["ledger"])))
        found = [(ledger.record(key), reused) for key, reused in zip(chain["epochs"], chain["reused"], strict=True)]
        epochs = [(record, reused) for record, reused in found if record is not None]
        if len(epochs) < len(found):
            return None
        status = "done" if len(epochs) == chain["summary"].get("epochs_planned") else "failed"
        updated = iso((path.parent / CHAIN_FILE).stat().st_mtime)
        standing = {"status": status, "error": None, "updated": updated}
        summary = checked({**chain["summary"], **standing, **totals(epochs)})
    except (ValueError, KeyError, TypeError, AttributeError):  # damaged, gone, or of an earlier version
        return None
    log.warning("%s is damaged (%s): read from the ledger instead", path, reason)
    return summary, epochs


def _epochs_of(source: str, runs: DataFrame) -> DataFrame:
    """The columns of ``metrics.csv`` and ``folder``, in the order of ``runs``."""
    if source.startswith(_WANDB):
        known = zip(runs["folder"], runs["mirrored"], strict=True)
        frames = [epoch_frame(epochs).assign(folder=str(folder)) for folder, epochs in known]
        return pd.concat(frames, ignore_index=True)
    some = runs[runs["epochs"] > 0]
    frames = [epoch_frame(())]
    for folder, epochs in zip(some["folder"], some["epochs"], strict=True):
        if (rows := _metrics(folder / METRICS_FILE, epochs)) is not None:
            frames.append(rows.assign(folder=str(folder)))
    return pd.concat(frames[len(frames) > 1 :], ignore_index=True)


def _metrics(path: Path, epochs: int) -> DataFrame | None:
    """Read the rows of a run whose summary counts so many epochs."""
    rows = None
    try:
        text = io.StringIO(read_metrics(path))
        converters = {"image_px": size_cell}
        rows = pd.read_csv(text, usecols=list(EPOCH_FIELDS), dtype=_DTYPES, converters=converters)[list(EPOCH_FIELDS)]
        reason = f"it has {len(rows)} of {epochs} epochs" if len(rows) < epochs else ""
    except (OSError, ValueError) as error:
        reason = one_line(error)
    if not reason:
        return rows
    found = _recovered(path, reason)
    if found is not None:
        return epoch_frame({**record.cells(), "reused": reused} for record, reused in found[1])
    if rows is None:
        log.warning("skipped %s, which is not the metrics of a run (%s)", path, reason)
    return rows
