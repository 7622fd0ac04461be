"""What worker processes of a DataLoader have in common."""

import warnings
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rescaler.errors import InputError, one_line

T = TypeVar("T")

# More workers than cores are what a slow file system wants. Whether they are too many, a run finds out by waiting.
warnings.filterwarnings("ignore", "This DataLoader will create")


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
