"""Signals that end a process, put off until the training has saved."""

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

_SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
"""Of the system or the user; of SLURM before a time limit or a preemption, as Submitit asks for it."""


class Interruption:
    """While this context is entered, a signal waits for :meth:`deliver`; the second of a kind does not.

    What the signal does then is what it would have done: end the process, or call the handler that was there, such as
    Submitit's, which requeues the job. For the main thread, where Python handles signals.
    """

    def __init__(self) -> None:
        self._pending: int | None = None
        self._before: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    @property
    def pending(self) -> bool:
        """Whether a signal waits."""
        return self._pending is not None

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._put_off) for number in _SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if kind is None and self._pending == signal.SIGUSR2:
            self._pending = None  # a warning: all is done and nothing is left to save
        self.deliver()

    def deliver(self) -> None:
        """Let the waiting signal, if there is one, do what it does."""
        number, self._pending = self._pending, None
        if number is None:
            return
        handler = self._before[number]
        if callable(handler):
            handler(number, None)
        elif handler is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _put_off(self, number: int, _: FrameType | None) -> None:
        again = self._pending == number
        self._pending = number
        if again:
            self.deliver()


def _leave_to_parent() -> None:
    """Keep the handlers of this process, which requeue the job, from its forked children: the loader's workers."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


os.register_at_fork(after_in_child=_leave_to_parent)
