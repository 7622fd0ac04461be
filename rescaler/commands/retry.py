"""``rescaler retry``: run again what failed or was lost, and nothing else."""

import argparse
import dataclasses
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from rescaler import logs
from rescaler.commands.parser import RUNS
from rescaler.compose import read_experiment
from rescaler.config import SlurmSettings
from rescaler.errors import InputError
from rescaler.execution import execute
from rescaler.plan import plan
from rescaler.sweeps import slurm
from rescaler.sweeps.layout import Planned
from rescaler.sweeps.outcome import conclude
from rescaler.sweeps.status import statuses
from rescaler.sweeps.sweep import Sweep, SweepRun, newest
from rescaler.sweeps.watching import counts

log = logging.getLogger(__name__)


def run(arguments: argparse.Namespace) -> None:
    """Run what did not finish.

    Raises:
        InputError: there is no such sweep, it is still running here, or a run failed again.
    """
    sweep = Sweep.read(arguments.sweep or newest(RUNS))
    found = statuses(sweep)
    unfinished = [run for run, status in zip(sweep.runs, found, strict=True) if status.is_unfinished]
    if not unfinished:
        print(f"{sweep.folder}: nothing to retry: {counts(found)}")
        return
    _enter(sweep)
    if sweep.launcher is not None:
        _retry_on_cluster(sweep, unfinished, detach=arguments.detach)
    else:
        _retry_here(sweep, unfinished)


def _enter(sweep: Sweep) -> None:
    """Go where relative paths in the runs' settings, such as the ledger's, mean what they meant."""
    sweep.folder = sweep.folder.absolute()
    if Path(sweep.cwd).is_dir():  # else it was moved, or copied from another machine: here is as good a guess as any
        os.chdir(sweep.cwd)


def _retry_here(sweep: Sweep, runs: Sequence[SweepRun]) -> None:
    logs.to_terminal()
    for run in runs:
        run.cancelled = False
    with sweep.running():
        for run in runs:
            folder = sweep.folder_of(run)
            try:
                execute(read_experiment(folder), folder, group=sweep.name)
            except Exception as error:
                is_expected = isinstance(error, InputError)
                log.error("%s: %s", run.name, error, exc_info=not is_expected)
    conclude(sweep.folder)


def _retry_on_cluster(sweep: Sweep, runs: Sequence[SweepRun], *, detach: bool) -> None:
    asked = SlurmSettings(**(sweep.launcher or {}))
    more = {key: value for key, value in asked.additional_parameters.items() if key != "hold"}  # now they are to run
    settings = dataclasses.replace(asked, additional_parameters=more, detach=detach)
    planned = []
    for run in runs:
        folder = sweep.folder_of(run)
        planned.append(Planned(run, plan(read_experiment(folder), elsewhere=settings.device_type), folder))
    slurm.start(sweep, planned, settings)
