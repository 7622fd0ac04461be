"""Sweeps on this machine: every job is checked before the first is trained, and shared trunks are trained once.

Hydra finds and instantiates launchers in the namespace ``hydra_plugins`` alone: this one cannot live in ``rescaler``.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from omegaconf import open_dict
from rich.console import Console

from rescaler.commands.tables import show_results
from rescaler.compose import to_experiment
from rescaler.errors import InputError
from rescaler.files import writing

if TYPE_CHECKING:
    from rescaler.ledger import Ledger
    from rescaler.plan import Run

log = logging.getLogger(__name__)


class LocalLauncher(BasicLauncher):
    """Runs the jobs of a sweep one after the other, then shows what came out."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Check all jobs, run them, show the table and the plot.

        Raises:
            InputError: before anything is trained, if a job cannot run as it is; at the end, if a job failed.
        """
        from rescaler.keeping import Keeper

        jobs = [self._plan(overrides, initial_job_idx + i) for i, overrides in enumerate(job_overrides)]
        for run, ledger, folder in jobs:
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
            Keeper(run, ledger, folder)  # in whatever order they run, each finds its trunk
        results = super().launch(job_overrides, initial_job_idx)
        self._show([folder for _, _, folder in jobs])
        failed = [
            f"{_words(overrides)}: {result._return_value}"
            for overrides, result in zip(job_overrides, results, strict=True)
            if result.status is JobStatus.FAILED
        ]
        if failed:
            raise InputError(f"{len(failed)} of {len(results)} runs failed: {'; '.join(failed)}")
        return results

    def _plan(self, overrides: Sequence[str], number: int) -> "tuple[Run, Ledger, Path]":
        from rescaler.ledger import Ledger
        from rescaler.plan import plan

        assert self.hydra_context is not None
        assert self.config is not None
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        try:
            experiment = to_experiment(config)
            ledger = Ledger(Path(experiment.ledger.folder))
            ledger.check_writable()
            return plan(experiment), ledger, Path(config.hydra.sweep.dir, config.hydra.sweep.subdir)
        except InputError as error:
            raise InputError(f"{_words(overrides)}: {error}") from error

    def _show(self, folders: Sequence[Path]) -> None:
        assert self.config is not None
        try:
            show_results(folders, plot=Path(self.config.hydra.sweep.dir, "accuracy.png"), console=Console())
        except InputError as error:  # no job came as far as an epoch: why, is said next
            log.warning("%s", error)


def _words(overrides: Sequence[str]) -> str:
    return " ".join(filter_overrides(overrides))


@dataclass
class LocalLauncherConfig:
    """``hydra/launcher=local``."""

    _target_: str = f"{__name__}.LocalLauncher"


ConfigStore.instance().store(group="hydra/launcher", name="local", node=LocalLauncherConfig, provider="rescaler")
