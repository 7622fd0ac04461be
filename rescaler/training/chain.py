"""Training as a chain of epochs, each under a key that says all that made it.

    key[0] = digest(network, initialisation, seed, data, numerics version)
    key[e] = digest(key[e - 1], recipe[e])

Two runs share an epoch exactly when they share its key, whatever sweep, machine or day they belong to.
"""

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rescaler.record import Record
from rescaler.settings import ScheduleSettings
from rescaler.training.ledger import Ledger
from rescaler.training.schedule import next_rule

NUMERICS = 3
"""Raised whenever a change of code changes the numbers of training: older results are then not taken for new ones."""


def digest(value: Any) -> str:
    """128 bits that stand for ``value``, which JSON can express; independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Stage:
    """A stretch of training with one network at one image size."""

    name: str
    image_px: int
    last_epoch: int
    """Scheduled number of its last epoch; the network is rescaled after it, unless it is the last stage."""
    layers: tuple[dict[str, Any], ...] = ()
    """How the network differs from the target network, layer by layer; empty for the target itself."""


@dataclass(frozen=True)
class Recipe:
    """All that can change the numbers of one epoch, given the state before it."""

    image_px: int
    layers: tuple[dict[str, Any], ...]
    rescale: dict[str, Any] | None
    """How the state was rescaled before this epoch; None where it was not."""
    learning_rate: float
    """Where the epoch begins; it changes along a line."""
    learning_rate_end: float
    weight_decay: float
    momentum: float
    nesterov: bool
    label_smoothing: float
    ema_decay: float | None
    batch_size: int
    micro_batch_size: int | None
    """Images at once, where fewer than the batch's."""
    batches: int
    precision: str
    memory_format: str
    cudnn_benchmark: bool
    optimizer: str
    compile: str | None
    """Mode of ``torch.compile``."""
    device_type: str

    @property
    def mean_learning_rate(self) -> float:
        """Over the epoch, but for a warm-up after a rescale."""
        return (self.learning_rate + self.learning_rate_end) / 2

    def learning_rate_of(self, batch: int) -> float:
        """The learning rate of a mini-batch, counted from 1: that of the middle of its stretch of the line."""
        change = self.learning_rate_end - self.learning_rate
        rate = self.learning_rate + change * (batch - 0.5) / self.batches
        warmup = self.rescale.get("warmup_batches", 0) if self.rescale else 0
        return rate * batch / warmup if batch <= warmup else rate


@dataclass(frozen=True)
class Epoch:
    """One link of the chain, known before it is trained."""

    number: int
    """Counted from 1."""
    key: str
    parent: str
    stage: Stage
    held: bool
    recipe: Recipe


@dataclass(frozen=True)
class Chain:
    """The epochs of one run. Adaptive rules read earlier records, so the next epoch follows from those so far."""

    origin: str
    stages: tuple[Stage, ...]
    schedule: ScheduleSettings
    rescale: dict[str, Any]
    constants: dict[str, Any]
    """Entries of the recipe that are the same in every epoch."""

    @property
    def forks(self) -> tuple[int, ...]:
        """Epochs after which the network is rescaled: where runs of a sweep part from their trunk."""
        return tuple(stage.last_epoch for stage in self.stages[:-1])

    @property
    def holds(self) -> bool:
        """Whether the learning rule is held after the last rescale, as long as accuracies say (section 5.2)."""
        return self.schedule.hold_after_resize and bool(self.forks)

    def next(self, records: Sequence[Record]) -> Epoch | None:
        """The epoch after ``records``, all earlier ones in order; None when the run is complete."""
        parent = records[-1].key if records else self.origin
        return self._epoch(parent, [record.test_top1 for record in records])

    @functools.cached_property
    def known_keys(self) -> list[str]:
        """Keys of the epochs that do not depend on accuracies: all, or those up to the last rescale if it holds."""
        last = self.forks[-1] if self.holds else self.stages[-1].last_epoch
        key, keys = self.origin, list[str]()
        for done in range(last):
            epoch = self._epoch(key, [0.0] * done)  # any accuracies will do
            assert epoch is not None
            key = epoch.key
            keys.append(key)
        return keys

    def stage(self, number: int) -> Stage:
        """The stage of an epoch; held epochs, beyond all scheduled ones, belong to the last."""
        return next((stage for stage in self.stages if number <= stage.last_epoch), self.stages[-1])

    def _epoch(self, parent: str, test_top1: Sequence[float]) -> Epoch | None:
        rule = next_rule(self.schedule, self.forks[-1] if self.forks else 0, test_top1)
        if rule is None:
            return None
        number = len(test_top1) + 1
        stage = self.stage(number)
        recipe = Recipe(
            image_px=stage.image_px,
            layers=stage.layers,
            rescale=self.rescale if number - 1 in self.forks else None,
            learning_rate=rule.learning_rate,
            learning_rate_end=rule.learning_rate_end,
            weight_decay=rule.weight_decay,
            **self.constants,
        )
        return Epoch(number, digest([parent, vars(recipe)]), parent, stage, rule.held, recipe)

    def is_complete(self, ledger: Ledger) -> bool:
        """Whether the ledger has the run's last epoch."""
        if self.holds:
            return self.next(self.recorded(ledger)) is None
        return ledger.record(self.known_keys[-1]) is not None

    def recorded(self, ledger: Ledger, records: Sequence[Record] = ()) -> list[Record]:
        """``records`` and the run's epochs after them that the ledger holds without a gap."""
        found = list(records)
        while (epoch := self.next(found)) is not None and (record := ledger.record(epoch.key)) is not None:
            found.append(record)
        return found
