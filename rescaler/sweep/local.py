"""Train the runs of a sweep on this machine, one after the other."""

import contextlib
import logging
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.utils import JobReturn, configure_log, run_job
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console

from rescaler import process
from rescaler.compose import compose_jobs, stay
from rescaler.config import Experiment
from rescaler.errors import InputError, listed
from rescaler.execution import execute
from rescaler.files import removed_on_failure
from rescaler.sweep import Sweep
from rescaler.sweep.planner import Planned, freeze, plan_runs
from rescaler.sweep.status import refuse_if_alive, statuses
from rescaler.text import TextTable

if TYPE_CHECKING:
    from pandas import DataFrame

# Results and figures are imported where they are used: pandas and matplotlib take a second, and training comes first.

log = logging.getLogger(__name__)


def launch(
    context: HydraContext,
    config: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    first: int,
    *,
    shows_results: bool = True,
) -> Sequence[JobReturn]:
    """Check all jobs of a Hydra sweep, train them, show the table and the figure."""
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    folder = Path(config.hydra.sweep.dir).absolute()
    planned = plan_runs(compose_jobs(context.config_loader, config, job_overrides, first), folder)
    if process.rank() > 0:
        return [_run(context, config, folder, one) for one in planned]
    sweep = Sweep(folder, [one.entry for one in planned])
    with contextlib.ExitStack() as stack:
        with removed_on_failure(folder):
            stack.enter_context(sweep.owned())
            refuse_if_alive(folder)
            freeze(planned)
            if first > 0:  # a sweeper of the user's, which launches one batch after the other
                sweep.runs = [*Sweep.read(folder).runs, *sweep.runs]
            sweep.write()
            OmegaConf.save(config, folder / "multirun.yaml")
        stay(config)
        log.info("Launching %d jobs locally", len(planned))
        results = [_run(context, config, folder, one) for one in planned]
    conclude(folder, shows_results=shows_results)
    return results


def _run(context: HydraContext, config: DictConfig, sweep: Path, one: Planned) -> JobReturn:
    """Train a run as a job of Hydra, with its log and its folder ``.hydra``."""
    log.info("\t#%d : %s", one.job.number, one.entry.name)
    job = context.config_loader.load_sweep_config(config, list(one.job.overrides))
    with open_dict(job):
        job.hydra.job.id = job.hydra.job.num = one.job.number
        job.hydra.job.chdir = False
        # The folder may be named by what the jobs set (model, data), but one sweep has one folder.
        job.hydra.sweep.dir, job.hydra.sweep.subdir = str(sweep), one.entry.folder

    def task(_: DictConfig) -> float | None:
        return train_run(one.run.experiment, one.folder, group=sweep.name, name=one.entry.name)

    try:
        return run_job(task, job, "hydra.sweep.dir", "hydra.sweep.subdir", context)
    finally:
        configure_log(config.hydra.hydra_logging, config.hydra.verbose)


def train_run(experiment: Experiment, folder: Path, *, group: str, name: str) -> float | None:
    """Train a run of a sweep and return its ``objective``; a failure goes to the log as well."""
    try:
        return execute(experiment, folder, group=group)
    except Exception as error:
        log.error("%s: %s", name, error, exc_info=not isinstance(error, InputError))
        raise


def conclude(folder: Path, *, shows_results: bool = True) -> None:
    """Print the table of the sweep in ``folder``, draw its figure; raise if runs failed."""
    try:
        if shows_results:
            show_results([folder], plot=folder / "accuracy.png", console=Console())
    except InputError as error:  # no run finished an epoch; the reasons follow
        log.warning("%s", error)
    sweep = Sweep.read(folder)
    found = statuses(sweep)
    failed = [run for run in found if run.is_unfinished]
    if failed:
        why = listed((f"{run.name}: {run.detail or run.state}" for run in failed), most=10)
        again = f"run them again with: {sweep.command('retry')}"
        raise InputError(f"{len(failed)} of {len(found)} runs failed: {why}; {again}")


def show_results(folders: Sequence[Path], *, plot: Path | None, console: Console) -> None:
    """Print the tables of all runs in and below ``folders``; draw the figure to ``plot``."""
    from rescaler.results import load_epochs, load_runs, over_seeds, table
    from rescaler.results.report import reports

    runs = load_runs(folders)
    epochs = load_epochs(runs)
    rows = table(runs, epochs)
    show(reports(rows, over_seeds(rows), epochs), epochs, plot, console)
    models = rows.assign(checkpoint=rows["run"].map(runs.set_index("run")["checkpoint"]))
    models = models.dropna(subset=["checkpoint", "final_top1"])
    if not models.empty:
        best = models.sort_values("final_top1", kind="stable", ascending=False).iloc[0]
        which = "Model" if len(models) == 1 else f"Most accurate of {len(models)} models ({best['network']})"
        folder, path = (os.path.relpath(best[key]) for key in ("folder", "checkpoint"))
        text = f"{which}: {path}; test it: python -m rescaler evaluate {shlex.quote(folder)}"
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def show(found: Sequence[TextTable], epochs: "DataFrame", plot: Path | None, console: Console) -> None:
    """Print tables; draw the figure of ``epochs`` to ``plot`` and print its path."""
    from rescaler.figures import accuracy_figure, save_figure

    for report in found:
        report.print(console)
    if plot is not None:
        save_figure(accuracy_figure(epochs), plot)
        console.print(f"Accuracy over epochs and over time: {plot}", markup=False, highlight=False, soft_wrap=True)
