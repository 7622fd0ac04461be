"""Hydra launchers ``local`` and ``slurm``, and the sweeper that gives them all jobs of a sweep at once.

Hydra finds and instantiates plugins in the namespace ``hydra_plugins`` alone. All of it is imported whenever Hydra
starts, so the work is done, and torch imported, in ``rescaler.sweep``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from rescaler.config import SlurmSettings


class LocalLauncher(Launcher):
    """Trains the jobs of a sweep on this machine, one after the other."""

    shows_results = True
    """Whether tables and a figure follow."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep the context; the task function is not needed, as the jobs carry their settings."""
        del task_function
        self._context, self._config = hydra_context, config
        HydraConfig.instance().set_config(config)  # what ${hydra:...} in the sweep's folder needs

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Check all jobs, then train them."""
        from rescaler.sweep import local

        show = self.shows_results
        return local.launch(self._context, self._config, job_overrides, initial_job_idx, shows_results=show)


class SlurmLauncher(LocalLauncher):
    """Submits the jobs of a sweep to a cluster and watches them."""

    def __init__(self, **settings: Any) -> None:
        self._settings = SlurmSettings(**settings)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Check all jobs, then submit them."""
        from rescaler.sweep import slurm

        show = self.shows_results
        slurm.launch(self._context, self._config, job_overrides, initial_job_idx, self._settings, shows_results=show)
        return [JobReturn(overrides=one, status=JobStatus.COMPLETED) for one in job_overrides]


class RunSweeper(BasicSweeper):
    """Gives our launchers all jobs at once, whatever ``max_batch_size``; they check each before the first is run."""

    def sweep(self, arguments: list[str]) -> Any:
        """Split the command line into jobs and launch them."""
        if not isinstance(self.launcher, LocalLauncher):
            return super().sweep(arguments)
        from rescaler.compose import split

        assert self.hydra_context is not None
        assert self.config is not None
        return self.launcher.launch(split(self.hydra_context.config_loader, self.config, arguments), 0)


@dataclass
class LocalLauncherConfig:
    """``hydra/launcher=local``."""

    _target_: str = f"{__name__}.LocalLauncher"


@dataclass
class SlurmLauncherConfig(SlurmSettings):
    """``hydra/launcher=slurm``."""

    _target_: str = f"{__name__}.SlurmLauncher"
    _convert_: str = "all"


@dataclass
class RunSweeperConfig(BasicSweeperConf):
    """``hydra/sweeper=runs``."""

    _target_: str = f"{__name__}.RunSweeper"


for _group, _name, _node in (
    ("hydra/launcher", "local", LocalLauncherConfig),
    ("hydra/launcher", "slurm", SlurmLauncherConfig),
    ("hydra/sweeper", "runs", RunSweeperConfig),
):
    ConfigStore.instance().store(group=_group, name=_name, node=_node, provider="rescaler")
