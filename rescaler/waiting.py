"""What a person is told while they wait: in place in a terminal, in lines from time to time elsewhere."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

_LINE_S = 10.0
"""Seconds between lines where there is no terminal."""


class Lines:
    """Says when the next line is due, counted from its making."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether it is time for a line; then the next one is due as much later."""
        now = time.monotonic()
        if now - self._last <= _LINE_S:
            return False
        self._last = now
        return True


@contextlib.contextmanager
def told() -> Iterator[Callable[[str], None]]:
    """A function that says on stderr what is being done."""
    from rich.console import Console  # the library does without

    console, lines = Console(stderr=True), Lines()
    if console.is_terminal:
        with console.status("") as status:
            yield status.update
        return

    def say(text: str) -> None:
        if lines.due():
            print(text, file=sys.stderr, flush=True)

    yield say
