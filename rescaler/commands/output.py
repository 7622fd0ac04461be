"""What commands have in common: where output goes, and what is being done while a person waits."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rescaler.files import write_text

STDOUT = "-"
_LINE_S = 10.0
"""Seconds between lines where there is no terminal."""


def write(target: str, text: str) -> None:
    """Write to a file, or to standard output where ``target`` is ``-``.

    Raises:
        InputError: the file cannot be written.
    """
    if target == STDOUT:
        sys.stdout.write(text)
    else:
        write_text(Path(target), text)


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """A function that says on stderr what is being done: always in a terminal, every few seconds elsewhere."""
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        with console.status("") as status:
            yield status.update
        return
    said = time.monotonic()

    def say(text: str) -> None:
        nonlocal said
        if time.monotonic() - said > _LINE_S:
            said = time.monotonic()
            print(text, file=sys.stderr, flush=True)

    yield say
