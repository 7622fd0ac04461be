"""TensorBoard logger: ``tensorboard --logdir runs`` shows all runs."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rescaler.loggers.wandb import AXES, History
from rescaler.record import Record

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"


class TensorBoard:
    """Writes events below ``tensorboard/`` in the run's folder, the epoch their step, named as W&B's charts."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._history = folder / FOLDER, History()
        self._writer: SummaryWriter | None = None

    def start(self, summary: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        """Begin anew: a run that is started again comes by its first epochs again."""
        from torch.utils.tensorboard import SummaryWriter

        shutil.rmtree(self._folder, ignore_errors=True)
        self._writer = SummaryWriter(str(self._folder))
        settings = yaml.safe_dump(dict(config), sort_keys=False).replace("\n", "\n    ")
        self._writer.add_text("settings", f"    {settings}")

    def epoch(self, record: Record, *, reused: bool) -> None:
        """Add the numbers of an epoch."""
        assert self._writer is not None
        for name, value in self._history.row(record, reused=reused).items():
            if name in AXES and isinstance(value, int | float):
                self._writer.add_scalar(name, value, record.epoch)
        self._writer.flush()

    def finish(self, summary: Mapping[str, Any], *, failed: bool) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
