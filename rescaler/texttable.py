"""A table of text under a heading, for a terminal of any width, a file and Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TextTable:
    """Heading, rows of cells and notes below them."""

    heading: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    left: int = 1
    """So many columns are aligned to the left, all others to the right."""

    def __str__(self) -> str:
        cells = [self.columns, *self.rows]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return "\n".join([self.heading, "", *(self._line(row, widths) for row in cells), "", *self.notes])

    def _line(self, row: Sequence[str], widths: Sequence[int]) -> str:
        aligned = (
            f"{cell:<{width}}" if index < self.left else f"{cell:>{width}}"
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join(aligned).rstrip()

    def markdown(self) -> str:
        """The same in Markdown."""
        ruler = [":---" if index < self.left else "---:" for index in range(len(self.columns))]
        cells = (" | ".join(cell.replace("|", "\\|") for cell in row) for row in (self.columns, ruler, *self.rows))
        return "\n\n".join([f"### {self.heading}", "\n".join(f"| {line} |" for line in cells), *self.notes]) + "\n"
