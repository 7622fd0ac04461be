"""Stretches of the real training loop, timed, for the benchmarks."""

import dataclasses

from rescaler.clocks import Clocks
from rescaler.config import Experiment
from rescaler.plan import plan
from rescaler.state import State
from rescaler.train import train_epoch


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
        train_epoch(self.run, dataclasses.replace(self._epoch, recipe=recipe), self._state, clocks)
        self._epoch = dataclasses.replace(self._epoch, number=self._epoch.number + 1)  # other images next time
        return dict(clocks.seconds)
