"""Text for people: tables for a terminal, a file, Markdown and LaTeX; numbers in words; status lines and logs."""

import contextlib
import logging
import re
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# The library prints tables with torch alone installed: rich and pandas are imported where they are used.

_LINE_S = 10.0
_ESCAPED = {"\\": r"\textbackslash{}", "^": r"\^{}"}
_LATEX = {"×": r"$\times$", "±": r"$\pm$", "–": "--", "−": "$-$", "~": r"$\sim$"}


@dataclass(frozen=True)
class TextTable:
    """Heading, rows of cells and notes below them; the first cell of a row is its name."""

    heading: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    words: Collection[str] = ()
    """Columns of words beside the first; they are aligned to the left, numbers to the right."""

    @property
    def left(self) -> tuple[bool, ...]:
        """Whether each column is aligned to the left."""
        return tuple(index == 0 or column in self.words for index, column in enumerate(self.columns))

    def __str__(self) -> str:
        cells = [self.columns, *self.rows]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        columns = list(zip(widths, self.left, strict=True))
        lines = [
            "  ".join(
                cell.ljust(width) if left else cell.rjust(width)
                for cell, (width, left) in zip(row, columns, strict=True)
            ).rstrip()
            for row in cells
        ]
        return "\n\n".join([self.heading, "\n".join(lines), *["\n".join(self.notes)] * bool(self.notes)])

    def print(self, console: "Console") -> None:
        """Print; where a terminal is too narrow, cells are broken into lines, but not the names of rows."""
        from rich.text import Text

        if not console.is_terminal:
            console.print(Text(f"{self}\n"), soft_wrap=True)
            return
        console.print(Text(self.heading, "bold"), soft_wrap=True)
        console.print(self.view())
        for note in self.notes:
            console.print(Text(note, "dim"), soft_wrap=True)
        console.print()

    def view(self) -> "Table":
        """The rows for a terminal."""
        from rich.table import Table
        from rich.text import Text

        view = Table(box=None, padding=(0, 2, 0, 0))
        for index, (column, left) in enumerate(zip(self.columns, self.left, strict=True)):
            view.add_column(column, justify="left" if left else "right", no_wrap=index == 0, overflow="fold")
        for row in self.rows:
            view.add_row(*map(Text, row))
        return view

    def markdown(self) -> str:
        """The same in Markdown."""
        ruler = [":---" if left else "---:" for left in self.left]
        lines = (" | ".join(cell.replace("|", "\\|") for cell in row) for row in (self.columns, ruler, *self.rows))
        return "\n\n".join([f"### {self.heading}", "\n".join(f"| {line} |" for line in lines), *self.notes]) + "\n"

    def latex(self) -> str:
        """The same in LaTeX, for the packages booktabs and inputenc (utf8); notes become comments."""
        from pandas import DataFrame

        alignment = "".join("l" if left else "r" for left in self.left)
        styler = DataFrame(self.rows, columns=list(self.columns)).style.hide(axis="index")
        styler = styler.format(escape="latex").format_index(escape="latex", axis=1)
        text: str = styler.to_latex(hrules=True, column_format=alignment, caption=_escape(self.heading))
        for symbol, command in _LATEX.items():
            text = text.replace(symbol, command)
        return "".join(f"% {note}\n" for note in self.notes) + text


def natural(text: str) -> list[int | str]:
    """Return a key to sort texts by, in which 2 comes before 10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", text)]


def clock(seconds: float) -> str:
    """A span of time as ``h:mm:ss`` or ``m:ss``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def percent(share: float, decimals: int = 1) -> str:
    """A share of 0.182 as ``18.2 %``."""
    return f"{100 * share:.{decimals}f} %"


def counted(number: int, thing: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{number:,} {thing}{'s' * (number != 1)}"


def _escape(text: str) -> str:
    return "".join(_ESCAPED.get(letter, f"\\{letter}" if letter in "%_&#${}" else letter) for letter in text)


class Lines:
    """Tells when the next status line is due, counted from its making."""

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
def status_line() -> Iterator[Callable[[str], None]]:
    """Function that shows on stderr what is being done: in place on a terminal, else in a line every few seconds."""
    from rich.console import Console

    console, lines = Console(stderr=True), Lines()
    if console.is_terminal:
        with console.status("") as status:
            yield status.update
        return

    def say(text: str) -> None:
        if lines.due():
            print(text, file=sys.stderr, flush=True)

    yield say


def log_to_stderr() -> None:
    """Log to standard error in Hydra's format, where there is no Hydra to set it up."""
    logging.basicConfig(level=logging.INFO, format="[%(asctime)s][%(name)s][%(levelname)s] - %(message)s")
