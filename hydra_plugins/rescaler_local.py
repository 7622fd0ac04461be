"""Sweeps on this machine: every job is checked before the first is trained, and shared trunks are trained once.

Hydra finds and instantiates launchers in the namespace ``hydra_plugins`` alone: this one cannot live in ``rescaler``.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, configure_log

from rescaler import ranks


class LocalLauncher(BasicLauncher):
    """Runs the jobs of a sweep one after the other, then shows what came out."""

    checks_jobs = True

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Check all jobs, run them, show the table and the plot.

        Raises:
            InputError: before anything is trained, if a job cannot run as it is; at the end, if a job failed.
        """
        from rescaler.sweeps.launching import plan_jobs
        from rescaler.sweeps.layout import freeze
        from rescaler.sweeps.sweep import Sweep

        assert self.hydra_context is not None
        assert self.config is not None
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        jobs = plan_jobs(self.hydra_context, self.config, job_overrides, initial_job_idx)
        planned = [one for _, one in jobs]
        sweep = Sweep(Path(self.config.hydra.sweep.dir).absolute(), [one.entry for one in planned])
        # The folder may be named by what the jobs set (model, data), but one sweep has one folder.
        quoted = str(sweep.folder).replace("'", "\\'")
        self.config.hydra.overrides.hydra.append(f"hydra.sweep.dir='{quoted}'")
        if ranks.number() == 0:
            freeze(planned)
        with sweep.running() if ranks.number() == 0 else contextlib.nullcontext():
            results = super().launch([overrides for overrides, _ in jobs], initial_job_idx)
        if ranks.number() == 0:
            from rescaler.sweeps.outcome import conclude  # pandas and matplotlib take a second: training comes first

            conclude(sweep.folder)
        return results


@dataclass
class LocalLauncherConfig:
    """``hydra/launcher=local``."""

    _target_: str = f"{__name__}.LocalLauncher"


ConfigStore.instance().store(group="hydra/launcher", name="local", node=LocalLauncherConfig, provider="rescaler")
