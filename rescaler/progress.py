"""How far a run is, for who watches: a bar in a terminal, a line every few seconds elsewhere."""

import logging
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from rescaler.chain import Chain, Epoch
from rescaler.record import Record

log = logging.getLogger(__name__)

_LINE_S = 10.0
"""Seconds between lines where there is no terminal."""


class ProgressBar:
    """Shows epoch, images per second, test accuracy and time left; a context manager."""

    def __init__(self, chain: Chain, costs: dict[str, float], *, enabled: bool) -> None:
        """Watch the run of ``chain``; ``costs``: relative time of an epoch by stage, to foresee stages to come."""
        self._chain = chain
        self._costs = costs
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
        self._task: TaskID = self._bar.add_task("epoch", total=chain.stages[-1].last_epoch, news="")
        self._measured: dict[str, float] = {}
        self._last: Record | None = None
        self._epoch_start = self._line_start = time.monotonic()

    def __enter__(self) -> "ProgressBar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def batch(self, epoch: Epoch, done: int) -> None:
        """Move the bar within an epoch."""
        elapsed = time.monotonic() - self._epoch_start
        rate = done * epoch.recipe.batch_size / elapsed
        self._show(epoch.number - 1 + done / epoch.recipe.batches, epoch.stage.name, rate)

    def epoch(self, record: Record, *, reused: bool) -> None:
        """Count an epoch that is finished."""
        now = time.monotonic()
        self._last = record
        if not reused:
            self._measured[record.stage] = now - self._epoch_start
        self._epoch_start = now
        training_s = record.train_s + record.data_s
        self._show(record.epoch, record.stage, record.images / training_s if training_s else 0.0)
        log.debug("epoch %d %s test top-1 %.4f", record.epoch, record.stage, record.test_top1)
        if self._lines and now - self._line_start > _LINE_S:
            self._line_start = now
            task = self._bar.tasks[self._task]
            log.info("%s %s", task.description, task.fields["news"])

    def _show(self, done: float, stage: str, images_per_s: float) -> None:
        total = self._bar.tasks[self._task].total or 0
        total = max(total, done)
        news = f"{images_per_s:,.0f} images/s"
        if self._last is not None:
            news += f"  accuracy {self._last.test_top1:.2%}"
        left_s = self._left_s(done)
        if left_s is not None:
            news += f"  {_clock(left_s)} left"
        self._bar.update(
            self._task, completed=done, total=total, news=news, description=f"epoch {int(done)}/{total:g} {stage}"
        )
        self._bar.refresh()

    def _left_s(self, done: float) -> float | None:
        if not self._measured:
            return None
        known = list(self._measured)[-1]
        left_s, first = 0.0, 0
        for stage in self._chain.stages:
            epochs = max(0.0, stage.last_epoch - max(first, done))
            foreseen = self._measured[known] * self._costs[stage.name] / self._costs[known]
            left_s += epochs * self._measured.get(stage.name, foreseen)
            first = stage.last_epoch
        return left_s


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
