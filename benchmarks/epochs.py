"""Stretches of the real training loop, timed, for the benchmarks."""

import dataclasses

from rescaler.chain import Epoch
from rescaler.clocks import Clocks
from rescaler.config import Experiment
from rescaler.plan import plan
from rescaler.record import Record
from rescaler.state import State
from rescaler.train import train_epoch


class Nobody:
    """Watches without looking."""

    def batch(self, epoch: Epoch, done: int) -> None:
        """Ignore."""

    def epoch(self, record: Record, *, reused: bool) -> None:
        """Ignore."""


class Trainer:
    """Trains the first network of an experiment, as many batches at a time as are asked for."""

    def __init__(self, experiment: Experiment) -> None:
        self.run = plan(experiment)
        epoch = self.run.chain.next([])
        assert epoch is not None
        self.first = epoch
        self._epoch = epoch
        self._state = State(self.run.network(epoch.stage))

    def train(self, batches: int) -> dict[str, float]:
        """Train as an epoch of this number of batches.

        Returns:
            Seconds by clock.
        """
        recipe = dataclasses.replace(self._epoch.recipe, batches=batches)
        clocks = Clocks(self.run.device)
        train_epoch(self._state, dataclasses.replace(self._epoch, recipe=recipe), self.run, clocks, Nobody())
        self._epoch = dataclasses.replace(self._epoch, number=self._epoch.number + 1)  # other images next time
        return dict(clocks.seconds)
