"""What worker processes of a DataLoader have in common."""

import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rescaler.errors import InputError, one_line
from rescaler.signals import leave_to_parent

T = TypeVar("T")

_LOOK_S = 1.0
"""Seconds between a worker's looks at whether its parent is still there."""

# More workers than cores are what a slow file system wants. Whether they are too many, a run finds out by waiting.
warnings.filterwarnings("ignore", "This DataLoader will create")


def obey_parent(*_: object) -> None:
    """In a worker: end when the parent says so or is gone, and not when the system tells all of its processes to end.

    The parent saves then, for which it needs what the workers are about to deliver. Where a worker hangs on a pipe that
    nobody reads any more, torch's own watchdog would not end it.
    """
    leave_to_parent()
    if hasattr(signal, "sigtimedwait"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(above: int) -> None:
    """Wait for the end of the process ``above``, which may be a server that forks for the parent, or for the word."""
    parent = multiprocessing.parent_process()
    while os.getppid() == above:
        told = signal.sigtimedwait({signal.SIGTERM}, _LOOK_S)
        if told is not None and told.si_pid == (parent.pid if parent else above):
            break
    os._exit(0)


def workers_alive(loader: Iterable[T]) -> Iterator[T]:
    """What ``loader`` yields; the death of one of its processes becomes one clear line.

    Raises:
        InputError: a worker died; says what may have killed it.
    """
    try:
        yield from loader
    except RuntimeError as error:
        reason = one_line(error)
        if "worker" not in reason:
            raise
        raise InputError(
            "a process that decodes images died: too many data.workers for the memory, or /dev/shm is too small "
            f"({reason})"
        ) from error
