"""``rescaler retry``: run again what failed or was lost, and nothing else."""

import argparse
import os
import socket
from typing import TYPE_CHECKING

from rescaler.commands.status import add_sweep, find
from rescaler.errors import InputError

if TYPE_CHECKING:
    from rescaler.submission import Planned
    from rescaler.sweep import Sweep


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "retry",
        help="run again the runs of a sweep that failed, were lost or cancelled",
        description="Each goes on from its last save, in its own folder, with the settings that it was started with: "
        "on the cluster, with the same requests, or on this machine.",
    )
    add_sweep(parser)
    parser.add_argument("--detach", action="store_true", help="on a cluster: return when all is submitted")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Run them.

    Raises:
        InputError: there is no such sweep, it is still running here, or a run failed again.
    """
    from rescaler.status import statuses

    sweep = find(arguments.sweep)
    unfinished = [number for number, status in enumerate(statuses(sweep)) if status.is_unfinished]
    if not unfinished:
        print(f"{sweep.folder}: nothing to retry, no run failed or was lost")
        return
    if sweep.launcher is None:
        _retry_here(sweep, unfinished)
    else:
        _retry_on_cluster(sweep, unfinished, detach=arguments.detach)


def _retry_here(sweep: "Sweep", numbers: list[int]) -> None:
    import logging

    from rescaler import launching
    from rescaler.compose import read_experiment
    from rescaler.execution import execute

    if sweep.pid is not None and socket.gethostname() == sweep.host and _runs(sweep):
        raise InputError(f"{sweep.folder} still runs (process {sweep.pid}): wait for it, or cancel it")
    logging.basicConfig(level=logging.INFO, format="[%(asctime)s][%(name)s][%(levelname)s] - %(message)s")
    sweep.host, sweep.pid = socket.gethostname(), os.getpid()
    for number in numbers:
        sweep.runs[number].cancelled = False
    sweep.write()
    for number in numbers:
        folder = sweep.folder_of(sweep.runs[number])
        try:
            execute(read_experiment(folder), folder, group=sweep.name)
        except InputError as error:
            logging.getLogger(__name__).error("%s: %s", sweep.runs[number].name, error)
    launching.close(sweep)
    launching.show(sweep)
    launching.refuse_failures(sweep)


def _runs(sweep: "Sweep") -> bool:
    from rescaler.status import statuses

    return any(not status.is_over for status in statuses(sweep))


def _retry_on_cluster(sweep: "Sweep", numbers: list[int], *, detach: bool) -> None:
    import dataclasses

    from rescaler import slurm
    from rescaler.settings import SlurmSettings

    settings = dataclasses.replace(SlurmSettings(**(sweep.launcher or {})), detach=detach)
    slurm.start(sweep, [_planned(sweep, number, slurm.device_type(settings)) for number in numbers], settings)


def _planned(sweep: "Sweep", number: int, device_type: str) -> "Planned":
    from rescaler.compose import read_experiment
    from rescaler.plan import plan
    from rescaler.submission import Planned

    entry = sweep.runs[number]
    folder = sweep.folder_of(entry)
    return Planned(entry, plan(read_experiment(folder), elsewhere=device_type), folder)
