"""Progress: a bar on a terminal, else a log line every few seconds; the time left; a warning of slow loading."""

import logging
import math
import time
from collections.abc import Sequence
from statistics import median
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from rescaler.chain import Chain, Epoch, Stage
from rescaler.config import DataSettings
from rescaler.data import streams_from_files
from rescaler.measure import how_to_load_faster
from rescaler.method import size_text
from rescaler.record import Record
from rescaler.text import Lines, clock

log = logging.getLogger(__name__)

Epochs = Sequence[tuple[Record, bool]]
"""Records of a run so far, each with whether the run read it from the ledger."""

_RECENT = 5
"""Epochs that the time left follows from: one alone may have waited for a disk or a neighbour."""
_MOST_WAITING = 0.1
"""Share of an epoch's training that may be waiting for images."""


class ProgressBar:
    """Shows stage, epoch, training loss, test accuracy, images per second and time left; a context manager.

    A line for each epoch that is trained; in between a bar on a terminal, else a line every few seconds.
    """

    def __init__(self, chain: Chain, *, enabled: bool) -> None:
        self._chain = chain
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[news]}"),
            console=self._console,
            auto_refresh=False,
            disable=not (enabled and self._console.is_terminal),
        )
        self._in_lines = enabled and not self._console.is_terminal
        self._task: TaskID = self._bar.add_task("", total=chain.epochs, news="")
        self._epochs: list[tuple[Record, bool]] = []
        self._scores = ""
        self._lines = Lines()
        self._first: tuple[int, int, float] | None = None
        """Epoch, its batches done and the time at the first batch seen of it."""

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def batch(self, epoch: Epoch, done: int) -> None:
        """Move within an epoch."""
        now, rate = time.monotonic(), None
        if self._first is None or self._first[0] != epoch.number:
            self._first = epoch.number, done, now  # what an earlier attempt has done is among it
        else:
            rate = (done - self._first[1]) * epoch.recipe.optim.batch_size / (now - self._first[2])
        self._show(epoch.number - 1 + done / epoch.recipe.batches, epoch.number, rate)

    def epoch(self, record: Record, *, reused: bool) -> None:
        """Count a finished epoch."""
        self._epochs.append((record, reused))
        self._scores = f"loss {record.train_loss:.4f}  accuracy {record.test_top1:.2%}"
        seconds = record.train_s + record.data_s
        self._show(record.epoch, record.epoch, record.images / seconds, finished=not reused)

    def _show(self, done: float, epoch: int, images_per_s: float | None, *, finished: bool = False) -> None:
        total = max(epochs_planned(self._chain, self._epochs), epoch)  # one that is held is known when it is over
        where = f"epoch {epoch}/{total} {self._chain.stage(epoch).name}"
        speed = "" if images_per_s is None else f"{images_per_s:,.0f} images/s"
        seconds = left_s(self._chain, self._epochs, done)
        left = "" if seconds is None else f"{clock(seconds)} left"
        news = "  ".join(filter(None, [self._scores, speed, left]))
        self._bar.update(self._task, completed=done, total=total, description=where, news=news)
        self._bar.refresh()
        due, line = self._lines.due(), f"{where}  {news}".rstrip()
        if self._in_lines and (due or finished):
            log.info("%s", line)
        elif finished and not self._bar.disable:
            self._console.print(line, highlight=False, markup=False)  # above the bar


class LoadingWarning:
    """Warns once in a run, after an epoch in which more than a tenth of the training was waiting for image files.

    Args:
        data: what the run trains on; sets in memory have no files to wait for.
    """

    def __init__(self, data: DataSettings) -> None:
        self._data = data
        self._silent = not streams_from_files(data)

    def batch(self, epoch: Epoch, done: int) -> None:
        """Do nothing: epochs are judged."""

    def epoch(self, record: Record, *, reused: bool) -> None:
        """Judge the clocks of an epoch that was trained here."""
        epoch_s = record.train_s + record.data_s
        if reused or self._silent or record.data_s <= _MOST_WAITING * epoch_s:
            return
        self._silent = True
        log.warning(
            "epoch %d waited for images for %.0f %% of its time (%.1f of %.1f s, %s images/s at %s pixels): %s",
            record.epoch,
            100 * record.data_s / epoch_s,
            record.data_s,
            epoch_s,
            f"{record.images / epoch_s:,.0f}",
            size_text(record.image_px),
            how_to_load_faster(self._data),
        )


def epochs_planned(chain: Chain, epochs: Epochs) -> int:
    """Return the epochs that a run will have, those held so far (section 5.2) on top of the scheduled."""
    return chain.epochs + sum(record.held for record, _ in epochs)


def left_s(chain: Chain, epochs: Epochs, done: float) -> float | None:
    """Estimate the seconds to the end of the planned epochs from the median of the last; None before there is one.

    Args:
        chain: the run's.
        epochs: its records; those read from the ledger may have been trained on another machine, and do not count.
        done: epochs done, in fractions.
    """
    records = [record for record, reused in epochs if not reused]
    if not records:
        return None
    measured = chain.stage(records[-1].epoch)
    recent = [record for record in records[-_RECENT:] if chain.stage(record.epoch) == measured]
    epoch_s = median(record.train_s + record.data_s + record.evaluation_s for record in recent)
    total_s = 0.0
    ends = [*chain.forks, epochs_planned(chain, epochs)]
    for stage, end in zip(chain.stages, ends, strict=True):
        total_s += max(0.0, end - done) * epoch_s * _work(stage) / _work(measured)
        done = max(done, end)
    return total_s


def _work(stage: Stage) -> float:
    """Return multiplications relative to the target network's, were all its layers equally wide."""
    if not stage.layers:
        return 1.0
    pretrain, target = (
        sum(math.prod(layer[f"{network}_kernel"]) * math.prod(layer[f"{network}_output"]) for layer in stage.layers)
        for network in ("pretrain", "target")
    )
    return float(pretrain / target)
