"""How far a run is, for whoever watches: a bar in a terminal, a line every few seconds elsewhere."""

import logging
import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from rescaler.record import Record
from rescaler.text import Lines, clock
from rescaler.training.chain import Chain, Epoch
from rescaler.training.pace import epochs_planned, left_s

log = logging.getLogger(__name__)


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
        self._in_lines = enabled and not self._console.is_terminal
        self._task: TaskID = self._bar.add_task("", total=chain.stages[-1].last_epoch, news="")
        self._epochs: list[tuple[Record, bool]] = []
        self._accuracy = ""
        self._lines = Lines()
        self._first: tuple[int, int, float] | None = None
        """Epoch, its batches done and the time when it was first heard of."""

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def batch(self, epoch: Epoch, done: int) -> None:
        """Move on within an epoch."""
        now, rate = time.monotonic(), None
        if self._first is None or self._first[0] != epoch.number:
            self._first = epoch.number, done, now  # what an earlier attempt has done is among it
        else:
            rate = (done - self._first[1]) * epoch.recipe.batch_size / (now - self._first[2])
        self._show(epoch.number - 1 + done / epoch.recipe.batches, epoch.number, rate)

    def epoch(self, record: Record, *, reused: bool) -> None:
        """Count an epoch that is finished."""
        self._epochs.append((record, reused))
        self._accuracy = f"accuracy {record.test_top1:.2%}"
        self._show(record.epoch, record.epoch, record.images / (record.train_s + record.data_s))

    def _show(self, done: float, epoch: int, images_per_s: float | None) -> None:
        total = max(epochs_planned(self._chain, self._epochs), epoch)  # one that is held is known when it is over
        where = f"epoch {epoch}/{total} {self._chain.stage(epoch).name}"
        speed = "" if images_per_s is None else f"{images_per_s:,.0f} images/s"
        seconds = left_s(self._chain, self._epochs, done)
        left = "" if seconds is None else f"{clock(seconds)} left"
        news = "  ".join(filter(None, [speed, self._accuracy, left]))
        self._bar.update(self._task, completed=done, total=total, description=where, news=news)
        self._bar.refresh()
        if self._in_lines and self._lines.due():
            log.info("%s", f"{where}  {news}".rstrip())
