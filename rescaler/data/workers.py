"""Worker processes that read images: how they start, and how they end with the process that trains."""

import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from torch.utils.data import DataLoader, Dataset

from rescaler.errors import InputError, one_line
from rescaler.process import leave_to_parent

T = TypeVar("T")
_LOOK_S = 1.0
"""Seconds between a worker's checks that its parent is alive."""


def worker_loader(dataset: Dataset[T], requests: Iterable[Any], *, workers: int, **options: Any) -> "DataLoader[T]":
    """Return a loader of what ``dataset`` gives for each request, in order; without workers this process reads."""
    with warnings.catch_warnings():  # a slow file system wants more workers than cores
        warnings.filterwarnings("ignore", "This DataLoader will create")
        return DataLoader(
            dataset, batch_size=None, sampler=requests, num_workers=workers, worker_init_fn=obey_parent, **options
        )


def obey_parent(*_: object) -> None:
    """End this worker by its parent's signal or end alone, not when the system ends all processes of a job.

    The parent saves then, for which it needs the workers' next batches. torch's own watchdog does not end a worker that
    hangs on a full pipe.
    """
    leave_to_parent()
    if hasattr(signal, "sigtimedwait"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(above: int) -> None:
    parent = multiprocessing.parent_process()  # not `above`, if that is a server that forks for it
    while os.getppid() == above:
        received = signal.sigtimedwait({signal.SIGTERM}, _LOOK_S)
        if received is not None and received.si_pid == (parent.pid if parent else above):
            break
    os._exit(0)


def workers_alive(loader: Iterable[T]) -> Iterator[T]:
    """Yield from a loader; raise :class:`InputError` if a worker dies."""
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
