"""How far a run is, for who watches: a bar in a terminal, a line every few seconds elsewhere."""

import logging
import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from rescaler.chain import Chain, Epoch
from rescaler.pace import left_s
from rescaler.record import Record
from rescaler.texttable import clock

log = logging.getLogger(__name__)

_LINE_S = 10.0
"""Seconds between lines where there is no terminal."""


class ProgressBar:
    """Shows epoch, images per second, test accuracy and time left; a context manager."""

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
        self._lines = enabled and not self._console.is_terminal
        self._task: TaskID = self._bar.add_task("", total=chain.stages[-1].last_epoch, news="")
        self._trained: list[Record] = []
        self._accuracy = ""
        self._epoch_start = self._line_start = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def batch(self, epoch: Epoch, done: int) -> None:
        """Move on within an epoch."""
        rate = done * epoch.recipe.batch_size / (time.monotonic() - self._epoch_start)
        self._show(epoch.number - 1 + done / epoch.recipe.batches, epoch.number, rate)

    def epoch(self, record: Record, *, reused: bool) -> None:
        """Count an epoch that is finished."""
        if not reused:  # that may have been on another machine
            self._trained.append(record)
        self._epoch_start = time.monotonic()
        self._accuracy = f"  accuracy {record.test_top1:.2%}"
        self._show(record.epoch, record.epoch, record.images / (record.train_s + record.data_s))

    def _show(self, done: float, epoch: int, images_per_s: float) -> None:
        total = max(self._chain.stages[-1].last_epoch, epoch)
        where = f"epoch {epoch}/{total} {self._chain.stage(epoch).name}"
        news = f"{images_per_s:,.0f} images/s{self._accuracy}"
        if (seconds := left_s(self._chain, self._trained, done)) is not None:
            news += f"  {clock(seconds)} left"
        self._bar.update(self._task, completed=done, total=total, description=where, news=news)
        self._bar.refresh()
        if self._lines and time.monotonic() - self._line_start > _LINE_S:
            self._line_start = time.monotonic()
            log.info("%s  %s", where, news)
