"""This process: its rank among those that train one run together, and signals, put off until it has saved."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
"""Ctrl-C; the end that the system or the user wants; SLURM's warning of a time limit or a preemption, by Submitit."""


def world_size() -> int:
    """Return how many processes train the run together, as torchrun or srun says; 1 is the usual case."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Return this process's number, from 0. The first alone reads and writes the ledger, the run's folder and W&B."""
    return int(os.environ.get("RANK", "0")) if world_size() > 1 else 0


def share() -> slice:
    """Return which images of each batch are this process's."""
    return slice(rank(), None, world_size())


class Interruption:
    """Inside, a signal is held until :meth:`deliver`; a second of the same kind is delivered at once.

    Between :meth:`release` and :meth:`hold` there is nothing to save, and every signal is delivered at once.

    What the signal does then is what it would have done: end the process, or call the handler that was there, such as
    Submitit's, which requeues the job. On leaving, a waiting signal is delivered, but not a warning: then all is done,
    or it has failed, and in either case a requeued job would have nothing to go on with. For the main thread, where
    Python handles signals.
    """

    def __init__(self) -> None:
        self._pending: int | None = None
        self._holds = True
        self._before: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def hold(self) -> None:
        """Hold signals from here on."""
        self._holds = True

    def release(self) -> None:
        """Deliver the waiting signal, and others as they come."""
        self._holds = False
        self.deliver()

    @property
    def pending(self) -> bool:
        """Whether a signal waits."""
        return self._pending is not None

    def __enter__(self) -> Self:
        # Ctrl-C is ignored in what a script starts in the background, and stays so.
        heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._put_off) for number in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._pending == signal.SIGUSR2:
            self._pending = None
        self.deliver()

    def deliver(self) -> None:
        """Let the waiting signal, if there is one, do what it does."""
        number, self._pending = self._pending, None
        if number is None:
            return
        handler = self._before[number]
        if callable(handler):
            handler(number, None)
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _put_off(self, number: int, _: FrameType | None) -> None:
        again = self._pending == number
        self._pending = number
        if again or not self._holds:
            self.deliver()


@contextlib.contextmanager
def following_the_first() -> Iterator[None]:
    """Ignore signals in a process that helps another to train: that one saves, for which it needs the others' part."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_to_parent(*_: object) -> None:
    """In a worker: leave it to the parent process to save, to requeue the job, and to end its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


os.register_at_fork(after_in_child=leave_to_parent)
os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))
