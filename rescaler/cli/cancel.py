"""``rescaler cancel``: end what waits or runs of a sweep."""

import argparse
import contextlib
import os
import signal
import socket

from rescaler.cli.arguments import RUNS
from rescaler.errors import InputError
from rescaler.sweep import scheduler
from rescaler.sweep.status import statuses
from rescaler.sweep.sweep import Sweep, newest
from rescaler.text import counted


def run(arguments: argparse.Namespace) -> None:
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
