"""Sweeps on a SLURM cluster: trunks first, then arrays of the runs that go on from them.

Hydra finds and instantiates launchers in the namespace ``hydra_plugins`` alone: this one cannot live in ``rescaler``.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus, configure_log
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from rescaler.config import SlurmSettings


class SlurmLauncher(Launcher):
    """Submits the runs of a sweep as jobs, watches them, then shows what came out."""

    checks_jobs = True

    def __init__(self, **settings: Any) -> None:
        self._settings = SlurmSettings(**settings)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's side of the launcher; the jobs need no task function, they carry their settings."""
        del task_function
        self._context, self._config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Check all jobs, submit them, and watch until they are over unless ``detach`` is set.

        Raises:
            InputError: before anything is submitted, if a job cannot run as it is; at the end, if a job failed.
        """
        from rescaler.sweeps import cluster, slurm
        from rescaler.sweeps.launching import plan_jobs
        from rescaler.sweeps.sweep import Sweep

        settings, config = self._settings, self._config
        configure_log(config.hydra.hydra_logging, config.hydra.verbose)
        cluster.check(settings)
        jobs = plan_jobs(self._context, config, job_overrides, initial_job_idx, elsewhere=settings.device_type)
        planned = [one for _, one in jobs]
        launcher = dataclasses.asdict(settings)
        sweep = Sweep(Path(config.hydra.sweep.dir).absolute(), [one.entry for one in planned], launcher, pid=None)
        if settings.dry_run:
            slurm.show_plan(sweep, planned, settings)
        else:
            slurm.start(sweep, planned, settings)
        return [JobReturn(overrides=one, status=JobStatus.COMPLETED) for one, _ in jobs]


@dataclass
class SlurmLauncherConfig(SlurmSettings):
    """``hydra/launcher=slurm``."""

    _target_: str = f"{__name__}.SlurmLauncher"
    _convert_: str = "all"


ConfigStore.instance().store(group="hydra/launcher", name="slurm", node=SlurmLauncherConfig, provider="rescaler")
