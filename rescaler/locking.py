"""One process at a time: a locked file, which the system unlocks when that process ends, however it ends."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_held: list[BinaryIO] = []


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file, which is made if it is not there.

    Raises:
        BlockingIOError: another process holds it.
        OSError: there are no locks on its file system, or it cannot be written.
    """
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _held.append(file)
        try:
            yield
        finally:
            _held.remove(file)


def is_locked(path: Path) -> bool:
    """Whether a process of this machine holds the lock of a file."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # there is no such file, or no locks on its file system
        pass
    return False


def _let_go() -> None:
    """In a forked worker, which may outlive its parent: the lock is the parent's alone."""
    for file in _held:
        file.close()


os.register_at_fork(after_in_child=_let_go)
