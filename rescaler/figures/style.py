"""What all figures have in common: colours, frames, notes, and how they are written."""

import io
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase, SubFigure
from matplotlib.text import Text
from matplotlib.ticker import ScalarFormatter
from pandas import DataFrame, Series

from rescaler.errors import InputError
from rescaler.files import replacing
from rescaler.results import headings

INK, MUTED, FAINT = "#222222", "#767676", "#c8c8c8"
BASELINES: dict[Any, str] = {"never": MUTED, 0: INK}
"""Colours of the pre-train and of the target baseline."""
WIDTH_IN = 9.5
"""Width of a figure: on a printed page, 7 inches wide, its smallest text is still 5.9 points high."""
FONT_PT = 9.0
LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 8, "handlelength": 1.8, "columnspacing": 1.4}

_FORMATS = ("png", "svg", "pdf")
# Ids that are the same each time; letters as shapes in SVG, and in PDF as TrueType, which publishers ask for.
_WRITING: Any = {"svg.hashsalt": "rescaler", "svg.fonttype": "path", "pdf.fonttype": 42}


def shades(count: int) -> list[tuple[float, ...]]:
    """Colours in an order that grey print keeps, and colour-blind eyes: viridis, without its pale end."""
    return [tuple(colour) for colour in mpl.colormaps["viridis"](np.linspace(0.08, 0.85, count)).tolist()]


def frame(panel: Axes, *, grid: Literal["x", "y", "both"] = "y") -> None:
    """Two spines and a faint grid."""
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(MUTED)
    panel.tick_params(color=MUTED, labelcolor=INK, labelsize=FONT_PT)
    panel.xaxis.label.set_fontsize(FONT_PT)
    panel.yaxis.label.set_fontsize(FONT_PT)
    panel.grid(axis=grid, color="#efefef", linewidth=0.8)
    panel.set_axisbelow(True)
    for formatter in (panel.xaxis.get_major_formatter(), panel.yaxis.get_major_formatter()):
        if isinstance(formatter, ScalarFormatter):
            formatter.set_useOffset(False)  # a run near 100 % would have ticks from -0.04 to 0.1, "+1e2"


class Part(NamedTuple):
    """A comparison's part of a figure."""

    whole: SubFigure
    """The part with its heading; notes go under it."""
    body: SubFigure
    """Within ``whole``, for panels and legend."""
    rows: DataFrame
    """Rows of the comparison."""

    def note(self, sentences: Sequence[str]) -> None:
        """Say something under the figure."""
        if sentences:
            self.whole.supxlabel(textwrap.fill(". ".join(sentences), 130), fontsize=8, color=MUTED)


def legend(part: SubFigure, entries: Mapping[str, Artist]) -> None:
    """Say what ``entries`` look like, below the panels of ``part``: in four columns, or fewer where names are long."""
    for columns in range(4, 0, -1):
        drawn = part.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=columns, **LEGEND)
        if columns == 1 or drawn.get_window_extent().width <= part.bbox.width:
            break
        drawn.remove()


def seeds(counts: "Series[int]") -> str:
    """How many seeds there are of each network."""
    return f"{counts.iloc[0]} seeds" if counts.nunique() == 1 else f"{counts.min()} to {counts.max()} seeds"


def empty_figure(sentence: str) -> Figure:
    """A figure that only says why there is nothing to see."""
    figure = Figure(figsize=(WIDTH_IN, 1.2), layout="constrained")
    say(figure, sentence)
    return figure


def say(part: FigureBase, sentence: str) -> None:
    """Put a sentence in the place of panels."""
    panel = part.subplots()  # a notebook does not show a figure without one
    panel.set_axis_off()
    panel.text(0.5, 0.5, textwrap.fill(sentence, 110), ha="center", va="center", fontsize=FONT_PT, color=MUTED)


def comparison_parts(frame: DataFrame, heights_in: Sequence[float]) -> tuple[Figure, list[Part]]:
    """A figure and its parts, one above the other, each with its heading: the comparisons in ``frame``."""
    figure = Figure(figsize=(WIDTH_IN, sum(heights_in)), layout="constrained")
    places = figure.subfigures(len(heights_in), 1, squeeze=False, height_ratios=heights_in)[:, 0]
    comparisons = [rows for _, rows in frame.groupby("comparison", sort=False, observed=True)]
    for place, title in zip(places, headings(frame).values(), strict=True):
        place.suptitle(textwrap.fill(title, 110), fontsize=FONT_PT + 1, color=INK)
    bodies = [place.subfigures(1, 1, squeeze=False)[0, 0] for place in places]
    return figure, [Part(*part) for part in zip(places, bodies, comparisons, strict=True)]


def _writing(figure: Figure) -> AbstractContextManager[None]:
    """Settings to write a figure with, whose texts have names of the user's: a $ in them is no formula."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    return mpl.rc_context({**_WRITING, "text.parse_math": False})


def to_svg(figure: Figure) -> str:
    """The figure as SVG, which looks the same everywhere; equal figures are equal texts."""
    text = io.StringIO()
    with _writing(figure):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def figure_format(path: Path) -> str:
    """The format that the suffix of a figure's file names.

    Raises:
        InputError: no such format.
    """
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in _FORMATS:
        raise InputError(f"the file of a figure must end in .{', .'.join(_FORMATS)}; got {path}")
    return suffix


def save_figure(figure: Figure, path: Path) -> None:
    """Write ``figure`` to ``path`` in one step, in the format that its suffix names.

    Raises:
        InputError: no such format, or the file cannot be written.
    """
    suffix = figure_format(path)
    # Without dates and random ids, equal figures are equal files.
    dates: dict[str, None] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(suffix, {})
    with replacing(path) as temporary, _writing(figure):
        figure.savefig(temporary, format=suffix, dpi=160, metadata=dates)
