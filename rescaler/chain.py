"""Training as a chain of epochs, each under a key that says all that made it.

    key[0] = digest(network, its code and initial values, seed, data, numerics version)
    key[e] = digest(key[e - 1], recipe[e])

Two runs share an epoch exactly when they share its key, whatever sweep, machine or day they belong to.
"""

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from rescaler.config import DataSettings, OptimSettings, RescaleSettings, ScheduleSettings, StepSettings, identity
from rescaler.method import ImageSize
from rescaler.record import Record
from rescaler.schedule import Slot, Stretch, next_rule, timetable

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
    """A stretch of epochs with one network at one image size, and its settings."""

    name: str
    image_px: ImageSize
    stretch: Stretch
    optim: OptimSettings
    step: StepSettings
    data: DataSettings
    weight_decay: float
    layers: tuple[Mapping[str, Any], ...] = ()
    """How the network differs from the target network, layer by layer; empty for the target itself."""
    feeding: Mapping[str, Any] = field(default_factory=dict)
    """What its ``data`` has other than the experiment's."""

    @functools.cached_property
    def network(self) -> str:
        """Digest of its network and image size."""
        return digest([self.image_px, self.layers])

    @property
    def test_px(self) -> ImageSize:
        """Size of its test images."""
        return self.data.test_px or self.image_px


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
    device_type: str
    recalibration_batches: int = 0
    """That measure the BatchNorm statistics anew after the epoch."""

    @property
    def optim(self) -> OptimSettings:
        """Of its stage."""
        return self.stage.optim

    @property
    def step(self) -> StepSettings:
        """Of its stage."""
        return self.stage.step

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
    batches_before: int
    """Mini-batches of all epochs before it."""
    images_before: int

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
    device_type: str

    @functools.cached_property
    def slots(self) -> tuple[Slot, ...]:
        """The scheduled epochs."""
        return timetable(self.schedule, [stage.stretch for stage in self.stages])

    @property
    def epochs(self) -> int:
        """Scheduled epochs."""
        return len(self.slots)

    @functools.cached_property
    def ends(self) -> tuple[int, ...]:
        """Number of each stage's last epoch."""
        return tuple(accumulate(stage.stretch.epochs for stage in self.stages))

    @property
    def forks(self) -> tuple[int, ...]:
        """Epochs after which the network is rescaled: where runs of a sweep part from their trunk."""
        return self.ends[:-1]

    @property
    def holds(self) -> bool:
        """Whether the learning rule is held after the last rescale, as long as accuracies say (section 5.2)."""
        return self.schedule.hold_after_resize and bool(self.forks)

    @functools.cached_property
    def run_id(self) -> str:
        """Digest of all that can change a number of the run; the same wherever and whenever it is started."""
        schedule = identity(self.schedule)
        if not self.holds:
            schedule.pop("hold_after_resize", None)
            del schedule["hold_limit"]
        stages = [
            [stage.name, stage.network, end, *self._own(stage)]
            for stage, end in zip(self.stages, self.ends, strict=True)
        ]
        rescale = identity(self.rescale) if self.forks else None
        return digest([self.origin, stages, schedule, rescale, self._constants(self.stages[-1])])[:16]

    def _own(self, stage: Stage) -> list[Any]:
        """What a run id says of a stage beside its name, its network and its end; nothing where it is like the last."""
        last, by_cost = self.stages[-1], self.schedule.budget is not None or self.schedule.clock == "cost"
        differs = (stage.optim, stage.step) != (last.optim, last.step)
        own = [
            stage.stretch if by_cost else None,
            stage.feeding or None,
            self._constants(stage) if differs else None,
            stage.weight_decay if stage.weight_decay != self.schedule.weight_decay else None,
        ]
        return [own] if any(value is not None for value in own) else []

    def _constants(self, stage: Stage, batches: int = 0) -> str:
        """Digest of what is the same in the recipes of a stage's epochs of so many mini-batches; 0: of whole ones."""
        batches = batches or stage.stretch.batches
        known = self._digests.get((stage.name, batches))
        if known is None:
            known = digest([batches, identity(stage.optim), identity(stage.step), self.device_type])
            self._digests[stage.name, batches] = known
        return known

    def next(self, records: Sequence[Record]) -> Epoch | None:
        """Return the epoch after ``records``, all earlier ones in order; None when the run is complete."""
        parent = records[-1].key if records else self.origin
        return self._epoch(parent, [record.test_top1 for record in records])

    @functools.cached_property
    def known_keys(self) -> list[str]:
        """Keys of the epochs that do not depend on accuracies: all, or those up to the last rescale if it holds."""
        last = self.forks[-1] if self.holds else self.epochs
        key, keys = self.origin, list[str]()
        for done in range(last):
            epoch = self._epoch(key, [0.0] * done)  # any accuracies will do
            assert epoch is not None
            key = epoch.key
            keys.append(key)
        return keys

    def stage(self, number: int) -> Stage:
        """Return the stage of an epoch; held epochs, beyond all scheduled ones, belong to the last."""
        return self.stages[self.slots[min(number, self.epochs) - 1].stage]

    def _epoch(self, parent: str, test_top1: Sequence[float]) -> Epoch | None:
        rule = next_rule(self.schedule, self.slots, self.forks[-1] if self.forks else 0, test_top1)
        if rule is None:
            return None
        number, stage = len(test_top1) + 1, self.stages[rule.stage]
        recipe = Recipe(
            stage=stage,
            rescale=self.rescale if number - 1 in self.forks else None,
            learning_rate=rule.learning_rate,
            learning_rate_end=rule.learning_rate_end,
            weight_decay=stage.weight_decay if rule.decays else 0.0,
            batches=rule.batches,
            device_type=self.device_type,
            recalibration_batches=self.schedule.recalibration_batches if number == self.epochs else 0,
        )
        rescale = recipe.rescale and identity(recipe.rescale)
        rates = [recipe.learning_rate, recipe.learning_rate_end, recipe.weight_decay]
        more = [value for value in (stage.feeding, recipe.recalibration_batches) if value]
        key = digest([parent, stage.network, rescale, rates, self._constants(stage, rule.batches), *more])
        return Epoch(number, key, parent, rule.held, recipe, *self._before(number))

    def _before(self, number: int) -> tuple[int, int]:
        """Return the mini-batches and the images before an epoch."""
        batches, images = self._sums[min(number - 1, self.epochs)]
        held = max(0, number - 1 - self.epochs)  # of the target network, as whole as its others
        last = self.stages[-1]
        more = held * last.stretch.batches
        return batches + more, images + more * last.optim.batch_size

    @functools.cached_property
    def _sums(self) -> list[tuple[int, int]]:
        """Mini-batches and images of the first 0, 1, 2 ... scheduled epochs."""
        sums = [(0, 0)]
        for slot in self.slots:
            batches, images = sums[-1]
            sums.append((batches + slot.batches, images + slot.batches * self.stages[slot.stage].optim.batch_size))
        return sums

    @functools.cached_property
    def _digests(self) -> dict[tuple[str, int], str]:
        return {}

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
