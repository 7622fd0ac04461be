"""Training as a chain of epochs, each under a key that says all that made it.

    key[0] = digest(network, its code and initial values, seed, data, numerics version)
    key[e] = digest(key[e - 1], recipe[e])

Two runs share an epoch exactly when they share its key, whatever sweep, machine or day they belong to.
"""

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rescaler.config import OptimSettings, RescaleSettings, ScheduleSettings, StepSettings, identity
from rescaler.record import Record
from rescaler.schedule import next_rule

if TYPE_CHECKING:
    from rescaler.ledger import Ledger

NUMERICS = 4
"""Raised whenever a change of code changes the numbers of training: older results are then not taken for new ones."""


def digest(value: Any) -> str:
    """Hash ``value``, which JSON can express, to 128 bits; independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, default=dict)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Stage:
    """A stretch of epochs with one network at one image size."""

    name: str
    image_px: int
    last_epoch: int
    """Scheduled number of its last epoch; the network is rescaled after it, unless it is the last stage."""
    layers: tuple[Mapping[str, Any], ...] = ()
    """How the network differs from the target network, layer by layer; empty for the target itself."""

    @functools.cached_property
    def network(self) -> str:
        """Digest of its network and image size."""
        return digest([self.image_px, self.layers])


@dataclass(frozen=True)
class Recipe:
    """All that can change the numbers of one epoch, given the state before it."""

    stage: Stage
    rescale: RescaleSettings | None
    """How the state is rescaled before this epoch; None where it is not."""
    learning_rate: float
    """Where the epoch begins; it changes along a line."""
    learning_rate_end: float
    weight_decay: float
    batches: int
    optim: OptimSettings
    step: StepSettings
    device_type: str

    @property
    def mean_learning_rate(self) -> float:
        """Over the epoch, but for a warm-up after a rescale."""
        return (self.learning_rate + self.learning_rate_end) / 2

    def learning_rate_of(self, batch: int) -> float:
        """Return the learning rate of a mini-batch, counted from 1: that of the middle of its stretch of the line."""
        change = self.learning_rate_end - self.learning_rate
        rate = self.learning_rate + change * (batch - 0.5) / self.batches
        warmup = self.rescale.warmup_batches if self.rescale else 0
        return rate * batch / warmup if batch <= warmup else rate


@dataclass(frozen=True)
class Epoch:
    """One link of the chain, known before it is trained."""

    number: int
    """Counted from 1."""
    key: str
    parent: str
    held: bool
    recipe: Recipe

    @property
    def stage(self) -> Stage:
        """Its network."""
        return self.recipe.stage


@dataclass(frozen=True)
class Chain:
    """The epochs of one run. Adaptive rules read earlier records, so the next epoch follows from those so far."""

    origin: str
    stages: tuple[Stage, ...]
    schedule: ScheduleSettings
    rescale: RescaleSettings
    optim: OptimSettings
    step: StepSettings
    batches: int
    device_type: str

    @property
    def forks(self) -> tuple[int, ...]:
        """Epochs after which the network is rescaled: where runs of a sweep part from their trunk."""
        return tuple(stage.last_epoch for stage in self.stages[:-1])

    @property
    def holds(self) -> bool:
        """Whether the learning rule is held after the last rescale, as long as accuracies say (section 5.2)."""
        return self.schedule.hold_after_resize and bool(self.forks)

    @functools.cached_property
    def _constants(self) -> str:
        """Digest of what is the same in the recipes of all epochs."""
        return digest([self.batches, identity(self.optim), identity(self.step), self.device_type])

    @functools.cached_property
    def run_id(self) -> str:
        """Digest of all that can change a number of the run; the same wherever and whenever it is started."""
        schedule = identity(self.schedule)
        if not self.holds:
            schedule.pop("hold_after_resize", None)
            del schedule["hold_limit"]
        stages = [[stage.name, stage.network, stage.last_epoch] for stage in self.stages]
        rescale = identity(self.rescale) if self.forks else None
        return digest([self.origin, stages, schedule, rescale, self._constants])[:16]

    def next(self, records: Sequence[Record]) -> Epoch | None:
        """Return the epoch after ``records``, all earlier ones in order; None when the run is complete."""
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
        """Return the stage of an epoch; held epochs, beyond all scheduled ones, belong to the last."""
        return next((stage for stage in self.stages if number <= stage.last_epoch), self.stages[-1])

    def _epoch(self, parent: str, test_top1: Sequence[float]) -> Epoch | None:
        rule = next_rule(self.schedule, self.forks[-1] if self.forks else 0, test_top1)
        if rule is None:
            return None
        number = len(test_top1) + 1
        recipe = Recipe(
            stage=self.stage(number),
            rescale=self.rescale if number - 1 in self.forks else None,
            learning_rate=rule.learning_rate,
            learning_rate_end=rule.learning_rate_end,
            weight_decay=rule.weight_decay,
            batches=self.batches,
            optim=self.optim,
            step=self.step,
            device_type=self.device_type,
        )
        rescale = recipe.rescale and identity(recipe.rescale)
        rates = [recipe.learning_rate, recipe.learning_rate_end, recipe.weight_decay]
        key = digest([parent, recipe.stage.network, rescale, rates, self._constants])
        return Epoch(number, key, parent, rule.held, recipe)

    def is_complete(self, ledger: "Ledger") -> bool:
        """Return whether the ledger has the run's last epoch."""
        if self.holds:
            return self.next(self.recorded(ledger)) is None
        return ledger.record(self.known_keys[-1]) is not None

    def recorded(self, ledger: "Ledger", records: Sequence[Record] = ()) -> list[Record]:
        """Return ``records`` and the epochs after them that the ledger holds without a gap."""
        found = list(records)
        while (epoch := self.next(found)) is not None and (record := ledger.record(epoch.key)) is not None:
            found.append(record)
        return found
