"""What all figures have in common: colours, frames, notes, curves over seeds, and how figures are written."""

import io
import textwrap
from collections.abc import Mapping, Sequence
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
from rescaler.results import headings, network_label, order
from rescaler.results.tables import GROUP, progress_label

INK, MUTED, FAINT = "#222222", "#767676", "#c8c8c8"
BASELINES: dict[Any, str] = {"never": MUTED, 0: INK}
WIDTH_IN = 9.5
"""Width of a figure: on a printed page, 7 inches wide, its smallest text is still 5.9 points high."""
FONT_PT = 9.0
LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 8, "handlelength": 1.8, "columnspacing": 1.4}

_DATES: dict[str, dict[str, None]] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
"""Formats of figures, and what of their metadata changes from time to time."""
# Ids that are the same each time; letters as shapes in SVG, and in PDF as TrueType, which publishers ask for.
_WRITING: Any = {"svg.hashsalt": "rescaler", "svg.fonttype": "path", "pdf.fonttype": 42}

KIND = [name for name in GROUP if name != "comparison"]
"""Runs of a comparison that agree in these differ in their seed at most."""

_NAMED = 4
_GLIDE = 3
"""Changes of the learning rate in a row that are a warm-up or a smooth schedule, and no steps."""


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


def counted(epochs: DataFrame) -> DataFrame:
    """The epochs of one comparison's runs that a figure shows, in the paper's order.

    Of several runs that differ in their seed alone the finished ones; if none is finished, the one that is furthest.
    """
    rows = epochs.assign(distinction=epochs["distinction"].astype(str), rank=order(epochs["resize_epoch"]))
    runs: list[str] = []
    for _, kind in rows.groupby(KIND, sort=False, observed=True):
        done = kind["run"][kind["status"] == "done"].unique()
        runs += list(done) or [kind.sort_values("epoch")["run"].iloc[-1]]
    return rows[rows["run"].isin(runs)].sort_values(["rank", "hold", "distinction", "seed", "run", "epoch"])


def kind_labels(counted_epochs: DataFrame) -> dict[Any, str]:
    """What the networks are called in legends, by :data:`KIND`."""
    labels = {}
    for kind, rows in counted_epochs.groupby(KIND, sort=False, observed=True):
        last = rows.iloc[-1]
        label = network_label(
            last["resize_epoch"], image_px=last["image_px"], hold=last["hold"], distinction=last["distinction"]
        )
        labels[kind] = label if last["status"] == "done" else f"{label}, {last['status']}"
    return labels


def mean_curves(epochs: DataFrame) -> DataFrame:
    """One curve for the runs of a comparison that differ in their seed alone: their mean; see :func:`counted`.

    A curve ends where the first of its runs does.

    Returns:
        One row an epoch and curve, in the paper's order: ``KIND``, ``label``, ``epoch``, ``runs``; over the runs, the
        mean of ``test`` and ``train`` accuracy (percent) with ``test_low`` and ``test_high``, and of ``time_s``;
        ``rescaled``; ``changed``, whether the learning rate did so at a stroke, in any run; ``held``, in how many runs;
        and of the whole curve ``finished``, and ``best``, the mean of the runs' best test accuracies (percent).
    """
    rows = counted(epochs)
    curves = rows.assign(changed=_changed(rows)).groupby([*KIND, "epoch"], sort=False, observed=True)
    means = curves.agg(
        runs=("run", "nunique"),
        test=("test_top1", "mean"),
        test_low=("test_top1", "min"),
        test_high=("test_top1", "max"),
        train=("train_top1", "mean"),
        time_s=("time_s", "mean"),
        rescaled=("rescaled", "any"),
        changed=("changed", "any"),
        held=("held", "sum"),
    )
    runs = means.groupby(KIND, observed=True)["runs"].transform("max")
    # The mean of the best accuracies, as in the tables: the best of the mean curve is lower.
    bests = rows.groupby([*KIND, "run"], observed=True)["test_top1"].max().groupby(KIND).mean()
    finished = (rows["status"] == "done").groupby([rows[name] for name in KIND]).all()
    means = means[means["runs"] == runs].join(bests.rename("best")).join(finished.rename("finished")).reset_index()
    means[["test", "test_low", "test_high", "train", "best"]] *= 100
    labels = kind_labels(rows)
    means["label"] = [labels[kind] for kind in means[KIND].itertuples(index=False, name=None)]
    if means["runs"].nunique() > 1:
        means["label"] += ", n = " + means["runs"].astype(str)
    return means


def _changed(rows: DataFrame) -> "Series[bool]":
    """Whether the learning rate is another than in the epoch before, and does not just glide from epoch to epoch."""
    changed = rows.groupby("run", observed=True)["learning_rate"].diff().fillna(0) != 0
    streaks = changed.groupby([rows["run"], (~changed).cumsum()], observed=True)
    return changed & (streaks.transform("sum") < _GLIDE)


def absent_baselines(rows: DataFrame) -> list[str]:
    """The names of the baselines that are not among ``rows``."""
    there = set(rows["resize_epoch"])
    return [network_label(baseline) for baseline in (0, "never") if baseline not in there]


def unfinished(epochs: DataFrame) -> list[str]:
    """The runs that are not done, in words; of many, the first few and how many more."""
    words = []
    for _, rows in epochs[epochs["status"] != "done"].groupby("run", sort=False, observed=True):
        run = rows.iloc[0]
        name = network_label(run["resize_epoch"], hold=run["hold"], distinction=run["distinction"])
        standing = {**run, "complete": False, "epochs": len(rows), "held_epochs": rows["held"].sum()}
        words.append(f"{name}, seed {run['seed']}: {progress_label(standing)}")
    return words[:_NAMED] + [f"{len(words) - _NAMED} more"] * (len(words) > _NAMED)


def to_svg(figure: Figure) -> str:
    """The figure as SVG, which looks the same everywhere; equal figures are equal texts."""
    text = io.StringIO()
    _save(figure, text, "svg")
    return text.getvalue()


def figure_format(path: Path) -> str:
    """The format that the suffix of a figure's file names; raises InputError for any other."""
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in _DATES:
        raise InputError(f"the file of a figure must end in .{', .'.join(_DATES)}; got {path}")
    return suffix


def save_figure(figure: Figure, path: Path) -> None:
    """Write ``figure`` to ``path`` in one step, in the format that its suffix names.

    Raises:
        InputError: no such format, or the file cannot be written.
    """
    form = figure_format(path)
    with replacing(path) as temporary:
        _save(figure, temporary, form)


def _save(figure: Figure, target: Path | io.StringIO, form: str) -> None:
    """Save without dates and random ids, so that equal figures are equal files; a $ in a user's name is no formula."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    with mpl.rc_context({**_WRITING, "text.parse_math": False}):
        figure.savefig(target, format=form, dpi=160, metadata=_DATES[form])
