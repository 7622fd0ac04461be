"""``rescaler retry``: run again what failed, was lost or cancelled, and nothing else."""

import argparse
import contextlib
import dataclasses
import os
from pathlib import Path

from rescaler.cli.arguments import RUNS
from rescaler.compose import Job, read_experiment
from rescaler.config import Experiment, SlurmSettings
from rescaler.errors import InputError
from rescaler.plan import plan
from rescaler.record import CONFIG_FILE
from rescaler.sweep.local import conclude, train_run
from rescaler.sweep.planner import Planned, settings_digest
from rescaler.sweep.slurm import start
from rescaler.sweep.status import counts, statuses
from rescaler.sweep.sweep import FILE, Sweep, SweepRun, newest
from rescaler.text import log_to_stderr


def run(arguments: argparse.Namespace) -> None:
    """Run what did not finish, as jobs on the cluster or here."""
    sweep = Sweep.read(arguments.sweep or newest(RUNS))
    found = statuses(sweep)
    unfinished = [run for run, status in zip(sweep.runs, found, strict=True) if status.is_unfinished]
    if not unfinished:
        print(f"{sweep.folder}: nothing to retry: {counts(found)}")
        return
    sweep.folder = sweep.folder.absolute()
    if Path(sweep.cwd).is_dir():  # else it was moved, or copied from another machine: here is as good a guess as any
        os.chdir(sweep.cwd)  # where relative paths in the settings, such as the ledger's, mean what they meant
    folders = [sweep.folder_of(one) for one in unfinished]
    if sweep.launcher is not None:
        try:
            asked = SlurmSettings(**sweep.launcher)
        except TypeError as error:
            raise InputError(f"{sweep.folder / FILE} is not what a sweep writes: {error}") from error
        more = {key: value for key, value in asked.additional_parameters.items() if key != "hold"}  # they are to run
        settings = dataclasses.replace(asked, additional_parameters=more, detach=arguments.detach)
        experiments = [_experiment(sweep, one) for one in unfinished]
        runs = [plan(experiment, elsewhere=settings.device_type) for experiment in experiments]
        jobs = [Job((), experiment) for experiment in experiments]
        start(sweep, [Planned(*each) for each in zip(unfinished, runs, folders, jobs, strict=True)], settings)
        return
    log_to_stderr()
    with sweep.owned():
        experiments = [_experiment(sweep, one) for one in unfinished]
        for one in unfinished:
            one.cancelled = False
        sweep.write()
        for one, experiment, folder in zip(unfinished, experiments, folders, strict=True):
            with contextlib.suppress(Exception):  # train_run logs it; the others are tried as well
                train_run(experiment, folder, group=sweep.name, name=one.name)
    conclude(sweep.folder)


def _experiment(sweep: Sweep, run: SweepRun) -> Experiment:
    """Read the settings of a run.

    Raises:
        InputError: they are not those that the sweep was started with.
    """
    folder = sweep.folder_of(run)
    experiment = read_experiment(folder)
    if run.settings not in (None, settings_digest(experiment)):
        raise InputError(
            f"{folder / CONFIG_FILE} was changed after the start of the sweep, in a setting that changes numbers: "
            "restore it, or start another sweep"
        )
    return experiment
