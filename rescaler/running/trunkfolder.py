"""The folder of a trunk, which several runs go on from: how far it is.

trunk.json     status (``running``, ``done`` or ``failed``), epochs, error
"""

import json
from pathlib import Path
from typing import Any

from rescaler.files import write_text
from rescaler.record import TRUNK_FILE
from rescaler.running.trainingfolder import TrainingFolder


class TrunkFolder(TrainingFolder):
    """Watches the training of a trunk, or of one part of it, up to ``last_epoch``.

    Raises:
        InputError: the folder cannot be written.
    """

    def __init__(self, path: Path, last_epoch: int) -> None:
        super().__init__(path)
        self._last_epoch = last_epoch
        self.note("running")

    def write(self, standing: dict[str, Any]) -> None:
        """Write the file."""
        write_text(self.path / TRUNK_FILE, json.dumps({**standing, "epochs_planned": self._last_epoch}, indent=1))
