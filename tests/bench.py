"""Runs over a ledger, and who watches them."""

from pathlib import Path
from typing import Any

from rescaler.chain import Epoch
from rescaler.config import Experiment
from rescaler.ledger import Ledger
from rescaler.plan import plan
from rescaler.record import FIELDS, Record
from rescaler.resume import Saver
from rescaler.train import train


class Watcher:
    """Remembers what it is told, and raises after ``stop_after`` epochs of training."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.reused: list[int] = []
        self.computed: list[int] = []
        self._stop_after = stop_after

    def batch(self, epoch: Epoch, done: int) -> None:
        pass

    def epoch(self, record: Record, *, reused: bool) -> None:
        (self.reused if reused else self.computed).append(record.epoch)
        if len(self.computed) == self._stop_after:
            raise KeyboardInterrupt


class Bench:
    """A ledger, and runs over it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ledger = Ledger(folder / "ledger")
        self.watcher = Watcher()

    def train(
        self, experiment: Experiment, stop_after: int | None = None, name: str = "run", saver: Saver | None = None
    ) -> list[Record]:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        self.watcher = Watcher(stop_after)
        return train(plan(experiment), self.ledger, folder, [self.watcher], saver=saver)

    def kept(self, records: list[Record]) -> list[int]:
        return [record.epoch for record in records if self.ledger.state_path(record.key).exists()]


def make_record(key: str, parent: str = "", epoch: int = 1, **changes: Any) -> Record:
    """A record of zeros, but for what is given."""
    zeros = {name: 0.0 for name, kind in FIELDS.items() if kind is float}
    return Record(key, parent, epoch, **{**zeros, **changes})


RESNET = {"_target_": "rescaler.models.resnet_small", "widths": [4, 8], "blocks": 1}
