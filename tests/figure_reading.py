"""Figures of fake runs, and what can be read off them."""

import itertools
from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D
from matplotlib.text import Text


def points(line: Line2D) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in np.asarray(line.get_xydata()).round(6)]


def circles(panel: Axes) -> list[tuple[float, float]]:
    return [point for line in panel.lines if line.get_marker() == "o" for point in points(line)]


def ticks(panel: Axes) -> list[tuple[float, float]]:
    """Points where curves have a mark for a change of the learning rate."""
    return [point for line in panel.lines if line.get_marker() == "|" for point in points(line)]


def thresholds(panel: Axes) -> list[float]:
    """Heights of the dashed lines over the whole width."""
    lines = [points(line) for line in panel.lines if line.is_dashed()]
    return sorted(line[0][1] for line in lines if [x for x, _ in line] == [0, 1])


def verticals(panel: Axes) -> list[float]:
    """Places where lines run over the full height of the panel."""
    lines = [points(line) for line in panel.lines]
    return sorted(line[0][0] for line in lines if [y for _, y in line] == [0, 1])


def labels(figure: Figure) -> list[str]:
    """What the legends say, those of the figure's parts and those in panels."""
    shared = [text.get_text() for part in _parts(figure) for each in part.legends for text in each.get_texts()]
    return shared + [label for panel in figure.axes for label in legend(panel)]


def legend(panel: Axes) -> list[str]:
    """What the legend in a panel says."""
    own = panel.get_legend()
    return [] if own is None else [text.get_text() for text in own.get_texts()]


def words(figure: Figure) -> str:
    """All that is written in the figure; lines that were folded are one again."""
    return "\n".join(" ".join(text.get_text().split()) for text in figure.findobj(Text))


def overlapping(panel: Axes) -> list[tuple[str, str]]:
    """Texts written over each other in the panel and beside it, as they are drawn."""
    panel.get_figure(root=True).draw_without_rendering()  # type: ignore[union-attr]
    boxes = [(text.get_text(), text.get_window_extent()) for text in panel.texts]
    return [(one, other) for (one, a), (other, b) in itertools.combinations(boxes, 2) if a.overlaps(b)]


def _parts(figure: FigureBase) -> Iterator[FigureBase]:
    yield figure
    for part in figure.subfigs:
        yield from _parts(part)
