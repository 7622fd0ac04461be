"""Commands on sweeps: ``rescaler plan``, ``status``, ``retry`` and ``cancel``."""

import argparse
import contextlib
import dataclasses
import os
import signal
import socket
from pathlib import Path

from rich.console import Console

from rescaler.cli.arguments import RUNS
from rescaler.config import Experiment, SlurmSettings
from rescaler.errors import InputError
from rescaler.record import CONFIG_FILE
from rescaler.sweep import FILE, Sweep, SweepRun, newest, scheduler
from rescaler.sweep.status import counts, status_table, statuses, sweep_at, watch
from rescaler.text import counted, log_to_stderr

# torch and Hydra take seconds to import, so what needs them is imported where it is used.


def plan(arguments: argparse.Namespace) -> None:
    """Print what runs will take, from a short probe or from given hours per epoch."""
    from rescaler.compose import jobs
    from rescaler.sweep.planner import plan_runs, plan_table

    # Settings may follow the hours: argparse takes them for some.
    hours = None if arguments.hours is None else [word for word in arguments.hours if "=" not in word]
    settings = [*arguments.overrides, *(word for word in arguments.hours or () if "=" in word)]
    found = jobs(settings, arguments.config_dir, arguments.config_path, arguments.config_name)
    planned = plan_runs(found, RUNS, elsewhere=None if hours is None else "cuda", load=False)
    print(plan_table(planned, hours))


def status(arguments: argparse.Namespace) -> None:
    """Print how the runs stand, once or until all are over."""
    folder, console = arguments.sweep or newest(RUNS, single=True), Console()
    if arguments.watch:
        watch(folder, console)
    else:
        sweep = sweep_at(folder)
        status_table(sweep, statuses(sweep)).print(console)


def cancel(arguments: argparse.Namespace) -> None:
    """Cancel SLURM's jobs, or end the process that trains the runs here."""
    sweep = Sweep.read(arguments.sweep or newest(RUNS))
    alive = [one for one, status in zip(sweep.runs, statuses(sweep), strict=True) if not status.is_over]
    if not alive:
        print(f"{sweep.folder}: nothing to cancel, no run waits or runs")
        return
    owner = sweep.owner
    if owner is not None and owner.host != socket.gethostname():
        raise InputError(f"{sweep.folder} runs on {owner.host}: cancel it there")
    if sweep.launcher is not None:
        scheduler.cancel([*(one.job for one in alive if one.job), *sweep.trunk_jobs.values()])
    for one in alive:
        one.cancelled = True
    sweep.write()
    if sweep.launcher is None and owner is not None:
        with contextlib.suppress(ProcessLookupError):  # it ended just now
            os.kill(owner.pid, signal.SIGTERM)  # it saves first
    print(f"{sweep.folder}: {counted(len(alive), 'run')} cancelled; `{sweep.command('retry')}` continues from there")


def retry(arguments: argparse.Namespace) -> None:
    """Run what failed, was lost or cancelled, as jobs on the cluster or here."""
    from rescaler.sweep.local import conclude, train_run

    sweep = Sweep.read(arguments.sweep or newest(RUNS))
    found = statuses(sweep)
    unfinished = [run for run, status in zip(sweep.runs, found, strict=True) if status.is_unfinished]
    if not unfinished:
        print(f"{sweep.folder}: nothing to retry: {counts(found)}")
        return
    sweep.folder = sweep.folder.absolute()
    if Path(sweep.cwd).is_dir():  # else it was moved, or copied from another machine: here is as good a guess as any
        os.chdir(sweep.cwd)  # where relative paths in the settings, such as the ledger's, mean what they meant
    if sweep.launcher is not None:
        _submit(sweep, unfinished, detach=arguments.detach)
        return
    log_to_stderr()
    with sweep.owned():
        experiments = [_experiment(sweep, one) for one in unfinished]
        for one in unfinished:
            one.cancelled = False
        sweep.write()
        for one, experiment in zip(unfinished, experiments, strict=True):
            with contextlib.suppress(Exception):  # train_run logs it; the others are tried as well
                train_run(experiment, sweep.folder_of(one), group=sweep.name, name=one.name)
    conclude(sweep.folder)


def _submit(sweep: Sweep, unfinished: list[SweepRun], *, detach: bool) -> None:
    from rescaler.compose import Job
    from rescaler.plan import plan
    from rescaler.sweep.planner import Planned
    from rescaler.sweep.slurm import start

    try:
        asked = SlurmSettings(**(sweep.launcher or {}))
    except TypeError as error:
        raise InputError(f"{sweep.folder / FILE} is not what a sweep writes: {error}") from error
    more = {key: value for key, value in asked.additional_parameters.items() if key != "hold"}  # they are to run
    settings = dataclasses.replace(asked, additional_parameters=more, detach=detach)
    experiments = [_experiment(sweep, one) for one in unfinished]
    planned = [
        Planned(one, plan(experiment, elsewhere=settings.device_type), sweep.folder_of(one), Job((), experiment))
        for one, experiment in zip(unfinished, experiments, strict=True)
    ]
    start(sweep, planned, settings)


def _experiment(sweep: Sweep, run: SweepRun) -> Experiment:
    """Read the settings of a run; raise InputError if they are not those that the sweep was started with."""
    from rescaler.compose import read_experiment
    from rescaler.sweep.planner import settings_digest

    folder = sweep.folder_of(run)
    experiment = read_experiment(folder)
    if run.settings not in (None, settings_digest(experiment)):
        raise InputError(
            f"{folder / CONFIG_FILE} was changed after the start of the sweep, in a setting that changes numbers: "
            "restore it, or start another sweep"
        )
    return experiment
