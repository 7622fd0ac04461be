"""The folder of something that is trained, which says how far it is while it is trained."""

import math
import os
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Literal

from rescaler.record import Record
from rescaler.training.chain import Epoch

Status = Literal["running", "done", "failed"]
_WRITE_S = 15.0
"""Seconds between two writings within an epoch."""


class TrainingFolder(ABC):
    """Watches a training, and writes how it stands after every epoch and now and then within one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = 0.0
        """Epochs behind it, in fractions."""
        self._written = -math.inf

    def batch(self, epoch: Epoch, done: int) -> None:
        """Say now and then how far the epoch is."""
        self.position = epoch.number - 1 + done / epoch.recipe.batches
        if time.monotonic() - self._written > _WRITE_S:
            self.note("running")

    def epoch(self, record: Record, *, reused: bool) -> None:
        """Count an epoch."""
        self.position = record.epoch
        if not reused:
            self.note("running")

    def note(self, status: Status, error: str | None = None) -> None:
        """Write how it stands.

        Raises:
            InputError: the folder cannot be written.
        """
        requeues = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        self.write({"status": status, "error": error, "position": self.position, "requeues": requeues})
        self._written = time.monotonic()

    @abstractmethod
    def write(self, standing: dict[str, Any]) -> None:
        """Write the files, with ``standing`` in them."""
