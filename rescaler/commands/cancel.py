"""``rescaler cancel``: end what still runs of a sweep."""

import argparse
import contextlib
import os
import signal
import socket

from rescaler.commands.parser import RUNS
from rescaler.errors import InputError
from rescaler.sweeps import scheduler
from rescaler.sweeps.status import statuses
from rescaler.sweeps.sweep import Sweep, newest
from rescaler.texttable import counted


def run(arguments: argparse.Namespace) -> None:
    """Cancel what waits or runs.

    Raises:
        InputError: there is no such sweep, or it runs on another machine, or the cluster refuses.
    """
    sweep = Sweep.read(arguments.sweep or newest(RUNS))
    alive = [one for one, status in zip(sweep.runs, statuses(sweep), strict=True) if not status.is_over]
    if not alive:
        print(f"{sweep.folder}: nothing to cancel, no run waits or runs")
        return
    if sweep.launcher is None and sweep.host != socket.gethostname():
        raise InputError(f"{sweep.folder} runs on {sweep.host}: cancel it there")
    if sweep.launcher is not None:
        scheduler.cancel([*(one.job for one in alive if one.job), *sweep.trunk_jobs.values()])
    for one in alive:
        one.cancelled = True
    sweep.write()
    if sweep.launcher is None and sweep.runs_here and sweep.pid is not None:
        with contextlib.suppress(ProcessLookupError):  # it ended just now
            os.kill(sweep.pid, signal.SIGTERM)  # it saves first
    print(f"{sweep.folder}: {counted(len(alive), 'run')} cancelled; `rescaler retry` goes on from there")
