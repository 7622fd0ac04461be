"""CSV logger: the run's epochs in one plain file, for a spreadsheet or a script."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rescaler.files import write_text
from rescaler.loggers.wandb import AXES, History
from rescaler.record import Record

FILE = "log.csv"


class Csv:
    """Writes ``log.csv`` in the run's folder, a row an epoch, columns named as W&B's charts."""

    def __init__(self, folder: Path) -> None:
        self._path, self._text, self._history = folder / FILE, io.StringIO(), History()
        self._writer = csv.DictWriter(self._text, AXES, extrasaction="ignore", lineterminator="\n")
        self._writer.writeheader()

    def start(self, summary: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        """Do nothing: the first epoch begins the file."""

    def epoch(self, record: Record, *, reused: bool) -> None:
        """Add a row, and write the whole file: a run that is started again comes by its first epochs again."""
        self._writer.writerow(self._history.row(record, reused=reused))
        write_text(self._path, self._text.getvalue())

    def finish(self, summary: Mapping[str, Any], *, failed: bool) -> None:
        """Do nothing: every epoch is written."""
