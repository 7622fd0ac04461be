"""The paper's Figures 4-6: test accuracy over epochs and over training time."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from pandas import DataFrame

from rescaler.errors import InputError
from rescaler.files import replacing
from rescaler.results import headings, network_label, order, time_unit

_FORMATS = ("png", "svg", "pdf")
_INK, _MUTED, _FAINT = "#222222", "#8a8a8a", "#c8c8c8"
_BASELINES: dict[Any, str] = {"never": _MUTED, 0: _INK}
_CIRCLE: dict[str, Any] = {
    "marker": "o", "linestyle": "", "markerfacecolor": "white", "markersize": 5.5, "markeredgewidth": 1.4
}  # fmt: skip
_KIND = ["resize_epoch", "hold", "distinction"]
"""Runs that agree in these differ in their seed at most, and share a colour."""
_CUT = 0.15
"""Share of the points, mostly of early epochs, that may lie below the frame, so that differences late on are seen."""


def accuracy_figure(epochs: DataFrame) -> Figure:
    """Draw test accuracy over epochs (left) and over training time (right), a pair of panels for each comparison.

    Horizontal lines are the best accuracies of the baselines (as in the paper's Figure 6), circles the last epoch
    before a rescale, vertical lines changes of the learning rate. Resized runs take their colours from viridis, in the
    order of their resize epochs: it stays readable to colour-blind eyes and in grey print. Seeds share a colour.

    Args:
        epochs: from :func:`rescaler.results.load_epochs`.

    Raises:
        InputError: there is no epoch to draw.
    """
    if epochs.empty:
        raise InputError("nothing to plot: no run has finished an epoch yet")
    comparisons = [rows for _, rows in epochs.groupby("comparison", sort=False)]
    heights = [4.7 + 0.05 * rows["run"].nunique() for rows in comparisons]
    figure = Figure(figsize=(11, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(comparisons), 1, squeeze=False, height_ratios=heights)[:, 0]
    titles = headings(epochs).values()
    for part, rows, title in zip(parts, comparisons, titles, strict=True):
        part.suptitle(title, fontsize=10, color=_INK)
        _draw(part, rows)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write ``figure`` to ``path`` in one step, in the format that its suffix names.

    Raises:
        InputError: no such format, or the file cannot be written.
    """
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in _FORMATS:
        raise InputError(f"--plot must end in .{', .'.join(_FORMATS)}; got {path}")
    # Without dates and random ids, equal figures are equal files.
    dates: dict[str, None] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(suffix, {})
    with replacing(path) as temporary, mpl.rc_context({"svg.hashsalt": "rescaler"}):
        figure.savefig(temporary, format=suffix, dpi=160, metadata=dates)


def _draw(part: SubFigure, epochs: DataFrame) -> None:
    left, right = part.subplots(1, 2, sharey=True)
    unit, unit_s = time_unit(epochs["time_s"].max())
    epochs = epochs.assign(
        accuracy=100 * epochs["test_top1"], time=epochs["time_s"] / unit_s, rank=order(epochs["resize_epoch"])
    ).sort_values(["rank", "hold", "seed", "run", "epoch"])
    colours = _colours(epochs)
    handles: dict[str, Line2D] = {}
    for _, rows in epochs.groupby("run", sort=False):
        colour = colours[tuple(rows[_KIND].iloc[0])]
        for panel, x in ((left, "epoch"), (right, "time")):
            _curve(panel, rows, x, colour)
        handles.setdefault(_legend(rows), Line2D([], [], color=colour, linewidth=1.6))
    _mark_baselines(left, right, epochs[epochs["status"] == "done"])
    handles |= _mark_changes(left, epochs)
    _frame(left, right, epochs, unit)
    columns = 5 if max(map(len, handles)) <= 30 else 3
    part.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=columns, frameon=False,
        fontsize=8.5, handlelength=1.6, columnspacing=1.6,
    )  # fmt: skip


def _colours(epochs: DataFrame) -> dict[Any, Any]:
    kinds = list(dict.fromkeys(epochs[_KIND].itertuples(index=False, name=None)))
    resized = [kind for kind in kinds if kind[0] not in _BASELINES]
    shades = mpl.colormaps["viridis"](np.linspace(0.12, 0.9, len(resized)))
    return {kind: _BASELINES.get(kind[0]) for kind in kinds} | dict(zip(resized, shades, strict=True))


def _legend(rows: DataFrame) -> str:
    first = rows.iloc[0]
    label = network_label(
        first["resize_epoch"],
        image_px=rows["image_px"].iloc[-1],
        hold=first["hold"],
        held_epochs=int(rows["held"].sum()),
        distinction=first["distinction"],
    )
    return label if first["status"] == "done" else f"{label}, {first['status']}"


def _curve(panel: Axes, rows: DataFrame, x: str, colour: Any) -> None:
    baseline = rows["resize_epoch"].iloc[0] in _BASELINES
    before = rows["rescaled"].shift(-1, fill_value=False).to_numpy()
    # Up to the rescale a run is a pre-train network, often in the very epochs of other runs: its colour starts there.
    start = len(rows) if not before.any() else int(before.argmax())
    trunk, own = (rows.iloc[:0], rows) if baseline else (rows.iloc[: start + 1], rows.iloc[start:])
    for stretch, shade, zorder in ((trunk, _BASELINES["never"], 2.5), (own, colour, 4 if baseline else 3)):
        marker = "." if len(stretch) == 1 else ""  # a line needs two points to be seen
        panel.plot(stretch[x], stretch["accuracy"], marker=marker, color=shade, linewidth=1.5, zorder=zorder)
    panel.plot(rows[x][before], rows["accuracy"][before], **_CIRCLE, color=colour, zorder=5)


def _mark_baselines(left: Axes, right: Axes, epochs: DataFrame) -> None:
    bests = epochs.groupby([*_KIND, "run"])["accuracy"].max()
    kinds = [kind for kind in dict.fromkeys(kind[:-1] for kind in bests.index) if kind[0] in _BASELINES]
    heights = {kind: bests[kind].mean() for kind in kinds}
    for kind, height in heights.items():
        colour = _BASELINES[kind[0]]
        for panel in (left, right):
            panel.axhline(height, color=colour, linewidth=0.9, linestyle=(0, (5, 3)), zorder=2)
        name = network_label(kind[0], distinction=kind[2])
        seeds = len(bests[kind])
        right.annotate(
            f"{name}\n{height:.2f} %" + (f"\nmean of {seeds}" if seeds > 1 else ""),
            (1, height), xycoords=("axes fraction", "data"), xytext=(5, 0), textcoords="offset points",
            # The labels point away from each other, however close the lines are.
            va="bottom" if height == max(heights.values()) else "top",
            color=colour, fontsize=8.5, annotation_clip=False,
        )  # fmt: skip


def _mark_changes(left: Axes, epochs: DataFrame) -> dict[str, Line2D]:
    """Mark where the network or the learning rate changes; returns what the legend says of it."""
    handles = {}
    if epochs["rescaled"].any():
        handles["last epoch before the rescale"] = Line2D([], [], **_CIRCLE, color=_MUTED)
    kinds = set(epochs["resize_epoch"])
    if kinds - {0} and "never" not in kinds:
        handles["pre-train epochs"] = Line2D([], [], color=_BASELINES["never"], linewidth=1.6)
    # Held epochs move the later changes: read them off runs that have none, where there are such.
    held = epochs.groupby("run")["held"].transform("any")
    scheduled = epochs if held.all() else epochs[~held]
    changes = scheduled["epoch"][scheduled.groupby("run")["learning_rate"].diff().fillna(0) != 0].unique() - 1
    for epoch in changes:
        line = left.axvline(epoch, color=_FAINT, linewidth=0.9, zorder=1)
        handles["learning rate changed"] = line
    return handles


def _frame(left: Axes, right: Axes, epochs: DataFrame, unit: str) -> None:
    low, high = epochs["accuracy"].quantile(_CUT), epochs["accuracy"].max()
    margin = max(0.04 * (high - low), 0.05)
    left.set_ylim(low - margin, high + 2 * margin)
    left.set_xlim(0, epochs["epoch"].max() * 1.02)
    right.set_xlim(0, epochs["time"].max() * 1.02)
    left.set_xlabel("Epoch")
    right.set_xlabel(f"Training time ({unit})")
    left.set_ylabel("Test accuracy (%)")
    left.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    for panel in (left, right):
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color(_MUTED)
        panel.tick_params(color=_MUTED, labelcolor=_INK, labelsize=9, labelleft=True)
        panel.grid(axis="y", color="#efefef", linewidth=0.8)
        panel.set_axisbelow(True)
