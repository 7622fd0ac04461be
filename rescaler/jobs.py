"""What a job on a cluster's node does. Pickled when it is submitted: what runs is what was submitted.

Torch is imported when a job runs, so that Submitit's handlers of signals are in place soon after its start.
"""

import logging
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from submitit.core.utils import DelayedSubmission
from submitit.helpers import TorchDistributedEnvironment

from rescaler.errors import InputError
from rescaler.settings import Experiment
from rescaler.sharing import Trunk

_MOST_STANDSTILLS = 2


@dataclass
class Place:
    """Where a job was submitted, and what it may take."""

    host: str
    ledger_id: str | None
    timeout_min: int
    standstills: int = 0
    """Attempts in a row that were told to end before there was anything to save."""


@dataclass
class RunJob:
    """Trains one run."""

    experiment: Experiment
    folder: Path
    group: str
    place: Place

    def __call__(self) -> None:
        """Train it, on the node."""
        from rescaler.execution import execute

        _train(self.place, self.experiment, lambda: execute(self.experiment, self.folder, group=self.group))

    def checkpoint(self) -> DelayedSubmission:
        """What Submitit requeues: the same, as all that is done is in the ledger."""
        _refuse_standstill(self.place)
        return DelayedSubmission(self)


@dataclass
class TrunkJob:
    """Trains what several runs have in common."""

    experiments: list[Experiment]
    """Of the trunk's parts."""
    trunk: Trunk
    folder: Path
    place: Place

    def __call__(self) -> None:
        """Train it, on the node."""
        from rescaler.execution import execute_trunk

        parts = list(zip(self.experiments, self.trunk.parts, strict=True))
        _train(self.place, self.experiments[0], lambda: execute_trunk(parts, self.folder))

    def checkpoint(self) -> DelayedSubmission:
        """What Submitit requeues: the same, as all that is done is in the ledger."""
        _refuse_standstill(self.place)
        return DelayedSubmission(self)


def _train(place: Place, experiment: Experiment, execute: Callable[[], None]) -> None:
    from rescaler.ledger import Ledger

    logging.basicConfig(level=logging.INFO, format="[%(asctime)s][%(name)s][%(levelname)s] - %(message)s", force=True)
    environment = TorchDistributedEnvironment()
    if environment.world_size > 1:
        # SLURM has chosen the node's GPUs; which of them is this process's, the process itself knows.
        environment.export(set_cuda_visible_devices=False, overwrite=True)
        if environment.local_world_size == environment.world_size:
            os.environ["MASTER_ADDR"] = "127.0.0.1"  # on one node they meet without its name, which may not resolve
    ledger = Ledger(Path(experiment.ledger.folder))
    if ledger.id != place.ledger_id:
        raise InputError(
            f"ledger.folder={ledger.folder}: the node {socket.gethostname()} does not see there what {place.host} has "
            "written; it must be on a file system that all nodes share"
        )
    execute()


def _refuse_standstill(place: Place) -> None:
    """Let a job that comes to no save in its time fail, rather than start for ever anew; a preemption may be early."""
    from rescaler.saving import Saver

    place.standstills = 0 if Saver.saves else place.standstills + 1
    if place.standstills == _MOST_STANDSTILLS:
        raise InputError(
            f"hydra.launcher.timeout_min={place.timeout_min} is too short: {_MOST_STANDSTILLS} times in a row the job "
            "was told to end before it came to a save; allowed: enough for the start and one mini-batch"
        )
