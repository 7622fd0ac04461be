"""The folder of a trunk, which several runs go on from: how far it is.

trunk.json     status (``running``, ``done`` or ``failed``), epochs, error
"""

import json
import os
import time
from pathlib import Path

from rescaler.chain import Epoch
from rescaler.files import write_text
from rescaler.record import TRUNK_FILE, Record
from rescaler.runfolder import WRITE_S, Status


class TrunkFolder:
    """Watches the training of a trunk, or of one part of it, up to ``last_epoch``.

    Raises:
        InputError: the folder cannot be written.
    """

    def __init__(self, path: Path, last_epoch: int) -> None:
        self._path, self._last_epoch = path, last_epoch
        self._position = 0.0
        self.close("running")

    def batch(self, epoch: Epoch, done: int) -> None:
        """Say now and then how far the epoch is."""
        self._position = epoch.number - 1 + done / epoch.recipe.batches
        if time.monotonic() - self._written > WRITE_S:
            self.close("running")

    def epoch(self, record: Record, *, reused: bool) -> None:
        """Count an epoch."""
        self._position = record.epoch
        if not reused:
            self.close("running")

    def close(self, status: Status, error: str | None = None) -> None:
        """Write how it stands."""
        summary = {
            "status": status,
            "error": error,
            "position": self._position,
            "epochs_planned": self._last_epoch,
            "requeues": int(os.environ.get("SLURM_RESTART_COUNT", "0")),
        }
        write_text(self._path / TRUNK_FILE, json.dumps(summary, indent=1))
        self._written = time.monotonic()
