"""What a job on a cluster's node does. Pickled when it is submitted: what runs is what was submitted.

Torch is imported when a job runs, so that Submitit's handlers of signals are in place soon after its start.
"""

import os
import socket
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path

from submitit.core.utils import DelayedSubmission
from submitit.helpers import TorchDistributedEnvironment

from rescaler import logs
from rescaler.config import Experiment
from rescaler.errors import InputError
from rescaler.training.sharing import Trunk

_MOST_STANDSTILLS = 2


@dataclass(kw_only=True)
class TrainingJob(ABC):
    """Trains on a node, as often as it takes: each attempt goes on from what the last one left."""

    ledger_folder: Path
    ledger_id: str | None
    timeout_min: int
    host: str = field(default_factory=socket.gethostname)
    """Where it was submitted."""
    standstills: int = 0
    """Attempts in a row that were told to end before there was anything to save."""
    has_saved: bool = False
    """Whether this attempt has come to a save."""

    def __call__(self) -> None:
        """Train, on the node.

        Raises:
            InputError: the node does not see the ledger; or as of :func:`rescaler.execution.execute`.
        """
        logs.to_terminal()
        _meet()
        self._check_ledger()
        self.train()

    @abstractmethod
    def train(self) -> None:
        """Train what the ledger lacks."""

    def note_save(self) -> None:
        """Remember that this attempt has come to a save."""
        self.has_saved = True

    def checkpoint(self) -> DelayedSubmission:
        """Return what Submitit requeues: this job again, as all that is done is in the ledger.

        Raises:
            InputError: the job never reaches a save within its limit and would be requeued for ever.
        """
        self.standstills = 0 if self.has_saved else self.standstills + 1
        self.has_saved = False  # of the next attempt
        if self.standstills == _MOST_STANDSTILLS:  # once may be an early preemption
            raise InputError(
                f"hydra.launcher.timeout_min={self.timeout_min} is too short: {_MOST_STANDSTILLS} times in a row the "
                "job was told to end before it came to a save; allowed: enough for the start and one mini-batch"
            )
        return DelayedSubmission(self)

    def _check_ledger(self) -> None:
        from rescaler.ledger import Ledger

        if Ledger(self.ledger_folder).id != self.ledger_id:
            raise InputError(
                f"ledger.folder={self.ledger_folder}: the node {socket.gethostname()} does not see there what "
                f"{self.host} has written; it must be on a file system that all nodes share"
            )


@dataclass(kw_only=True)
class RunJob(TrainingJob):
    """Trains one run."""

    experiment: Experiment
    folder: Path
    group: str

    def train(self) -> None:
        """Train what the ledger lacks of it."""
        from rescaler.execution import execute

        execute(self.experiment, self.folder, group=self.group, on_save=self.note_save)


@dataclass(kw_only=True)
class TrunkJob(TrainingJob):
    """Trains what several runs have in common."""

    experiments: list[Experiment]
    """A run for each of the trunk's parts."""
    trunk: Trunk
    folder: Path

    def train(self) -> None:
        """Train what the ledger lacks of it."""
        from rescaler.execution import execute_trunk

        parts = list(zip(self.experiments, self.trunk.parts, strict=True))
        execute_trunk(parts, self.folder, on_save=self.note_save)


def _meet() -> None:
    """Tell torch about the other processes that train the run, if there are any."""
    environment = TorchDistributedEnvironment()
    if environment.world_size > 1:
        # SLURM has chosen the node's GPUs; which of them is this process's, the process itself knows.
        environment.export(set_cuda_visible_devices=False, overwrite=True)
        if environment.local_world_size == environment.world_size:
            os.environ["MASTER_ADDR"] = "127.0.0.1"  # on one node they meet without its name, which may not resolve
