"""Stretches of the real training loop, timed, for the benchmarks."""

import copy
import dataclasses

from rescaler.clocks import Clocks
from rescaler.config import Experiment
from rescaler.networks import Networks, networks_of
from rescaler.plan import plan
from rescaler.precision import MEMORY_FORMATS
from rescaler.state import State
from rescaler.train import train_epoch


class Trainer:
    """Trains the first network of an experiment, as many batches at a time as are asked for.

    Args:
        experiment: checked settings.
        networks: of experiments before, to which this one's are added: to shrink a large network takes seconds.
    """

    def __init__(self, experiment: Experiment, networks: dict[str, Networks] | None = None) -> None:
        networks = {} if networks is None else networks
        self.run = plan(experiment, networks=networks)
        epoch = self.run.chain.next([])
        assert epoch is not None
        self.first = epoch
        self._epoch = epoch
        found = networks_of(experiment, networks)
        network = copy.deepcopy(found.pretrain[0].network if epoch.stage.layers else found.target)
        memory_format = MEMORY_FORMATS[experiment.step.memory_format]
        self._state = State(network.to(self.run.device).to(memory_format=memory_format))

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
