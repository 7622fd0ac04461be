"""Read runs back from their folders or from W&B: one row a run, one row an epoch."""

import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from pandas import DataFrame

from rescaler.errors import ArgumentError, InputError
from rescaler.record import EPOCH_FIELDS, METRICS_FILE, SUMMARY_FILE, TRAINING_CLOCKS, VARIANT_SEPARATOR
from rescaler.results.cache import Cache
from rescaler.results.columns import IDENTITY, check_summary, epoch_frame

if TYPE_CHECKING:
    from rescaler.results.from_wandb import Mirrored

log = logging.getLogger(__name__)

_WANDB = "wandb:"
_SETTLED_S = 2.0
"""Clocks of file systems are coarse: a file that is written twice in a moment may look the same."""

Source = str | Path


def load_runs(sources: Source | Iterable[Source]) -> DataFrame:
    """All runs of some sources, one row a run.

    A run found twice (a sweep started again in a new folder) counts once: the copy that is furthest, then newest.
    Named in the log and left out: a ``summary.json`` that no run wrote; of several sources, one without runs.

    Args:
        sources: folders, searched with all below them, that hold runs' folders or W&B's offline files;
            ``wandb:ENTITY/PROJECT`` (or ``wandb:PROJECT``) for a project on W&B's server.

    Returns:
        The fields of ``summary.json``; ``folder``, the run's own; ``source``, where it was found; ``last_epoch``, up to
        which to read it: all; ``distinction``, what tells the run from others of its comparison, resize epoch and seed;
        of W&B's runs ``mirrored``, their epochs, for a second request would cost minutes.

    Raises:
        InputError: no source has runs.
    """
    each = [sources] if isinstance(sources, Source) else list(sources)
    if not each:
        raise InputError("no source of runs was named: give folders, or wandb:ENTITY/PROJECT")
    runs = pd.concat(_read_sources(each), ignore_index=True)
    runs["updated"] = pd.to_datetime(runs["updated"], utc=True, format="ISO8601")
    advance = runs.assign(done=runs["status"] == "done").sort_values(["epochs", "done", "updated"])
    runs = runs.loc[advance.drop_duplicates("run", keep="last").index.sort_values()]
    return _distinguished(runs.assign(last_epoch=runs["epochs_planned"]))


def load_epochs(runs: DataFrame) -> DataFrame:
    """Metrics of the epochs of ``runs``, as :func:`load_runs` or :func:`read_at` gave them, one row an epoch.

    Returns:
        The fields of :class:`rescaler.record.Record`; ``reused``, whether this run read the epoch from the ledger; what
        tells the runs apart (``run``, ``comparison``, ``seed``, ``resize_epoch`` ...); ``epochs_scheduled``, the held
        ones left out; ``training_s`` of the epoch; ``time_s``, training up to and including it, as if run alone.
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
    return rows[[*IDENTITY, *EPOCH_FIELDS, "epochs_scheduled", "training_s", "time_s"]]


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


def _read_sources(sources: Sequence[Source]) -> list[DataFrame]:
    frames = []
    for source in sources:
        try:
            frames.append(_read_source(source))
        except InputError as error:
            if len(sources) == 1:
                raise
            log.warning("left out a source: %s", error)
    if not frames:
        raise InputError(f"none of the sources has runs: {', '.join(map(str, sources))}")
    return frames


def _read_source(source: Source) -> DataFrame:
    if isinstance(source, str) and source.startswith(_WANDB):
        from rescaler.results.from_wandb import read_project

        return _from_wandb(source, read_project(source.removeprefix(_WANDB)))
    folder = Path(source)
    found = _summaries(folder)
    if not found.empty:
        return found.assign(source=str(folder))
    from rescaler.results.from_wandb import read_offline

    mirrored = read_offline(folder)
    if not mirrored:
        raise InputError(f"no runs in {folder}: it must be a run's folder (with a summary.json) or one above runs")
    return _from_wandb(f"{_WANDB}{folder}", mirrored)


def _from_wandb(source: str, runs: "Sequence[Mirrored]") -> DataFrame:
    rows = DataFrame([run.summary for run in runs])
    return rows.assign(source=source, mirrored=pd.Series([run.epochs for run in runs], dtype=object))


def _summaries(folder: Path) -> DataFrame:
    def read(file: str) -> DataFrame | None:
        summary = _summary(folder / file)
        return None if summary is None else DataFrame({"summary": [json.dumps(summary)]})

    texts = Cache(folder, "runs", ["summary"]).read(_stamps(folder, _find(folder)), read)
    if texts.empty:
        return DataFrame()
    rows = DataFrame([json.loads(text) for text in texts["summary"]])
    rows["folder"] = pd.Series([folder / str(file).removesuffix(SUMMARY_FILE) for file in texts["file"]], dtype=object)
    return rows


def _find(folder: Path) -> Iterator[str]:
    """Summaries in and below ``folder``; W&B's own files and hidden folders are no places for runs."""
    for path, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != "wandb" and not name.startswith("."))
        if SUMMARY_FILE in files:
            yield os.path.relpath(os.path.join(path, SUMMARY_FILE), folder)  # noqa: PTH118 - for the speed of it


def _summary(path: Path) -> dict[str, Any] | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        check_summary(values)
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("skipped %s, which is not the summary of a run (%s: %s)", path, type(error).__name__, error)
        return None
    return dict(values)


def _epochs_of(source: str, runs: DataFrame) -> DataFrame:
    """The columns of ``metrics.csv`` and ``folder``, in the order of ``runs``."""
    if source.startswith(_WANDB):
        known = zip(runs["folder"], runs["mirrored"], strict=True)
        frames = [epoch_frame(epochs).assign(folder=str(folder)) for folder, epochs in known]
        return pd.concat(frames, ignore_index=True)
    folders = runs["folder"][runs["epochs"] > 0]
    files = {os.path.relpath(folder / METRICS_FILE, source): str(folder) for folder in folders}
    stamps = _stamps(Path(source), files)
    rows = Cache(Path(source), "epochs", list(EPOCH_FIELDS)).read(stamps, lambda file: _metrics(Path(source, file)))
    if rows.empty:
        return epoch_frame(())
    rows["folder"] = rows["file"].cat.rename_categories(files)
    return rows


def _metrics(path: Path) -> DataFrame | None:
    try:
        return pd.read_csv(path, usecols=list(EPOCH_FIELDS), dtype=EPOCH_FIELDS)[list(EPOCH_FIELDS)]
    except (OSError, ValueError) as error:
        log.warning("skipped %s, which is not the metrics of a run (%s)", path, error)
        return None


def _stamps(folder: Path, files: Iterable[str]) -> dict[str, str]:
    """What changes whenever a file is written, by file; empty for one so young that its next change may not show."""
    stamps = {}
    now = time.time()
    for file in files:
        try:
            stat = os.stat(f"{folder}/{file}")  # noqa: PTH116 - ten thousand of them
        except OSError:
            stamps[file] = ""
            continue
        young = now - stat.st_mtime < _SETTLED_S
        stamps[file] = "" if young else f"{stat.st_ino}-{stat.st_size}-{stat.st_mtime_ns}-{stat.st_ctime_ns}"
    return stamps
