"""Figures of training time: what a resize epoch saves and costs, where the time goes, what a shared trunk saves."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Patch
from matplotlib.transforms import Bbox
from numpy.typing import ArrayLike, NDArray
from pandas import DataFrame, Series

from rescaler.figures import style
from rescaler.figures.style import KIND, absent_baselines, counted, kind_labels, unfinished
from rescaler.results import cost, is_baseline, time_unit
from rescaler.results.report import SHARE, time_quantity

_NAME_PT = 8
_CLOCKS = {
    "train_s": ("steps", "#0b3c5d"),
    "data_s": ("waiting for data", "#e69f00"),
    "rescale_s": ("rescale", "#cc3311"),
    "compile_s": ("compiling", "#8e44ad"),
    "evaluation_s": ("evaluation (not training time)", "#cfd8dc"),
}
"""The five disjoint clocks of an epoch, their names and colours; grey print keeps them apart."""
_STAGES = {
    "pretrain": ("pre-train epochs", style.MUTED),
    "middle": ("epochs of middle stages", style.FAINT),
    "target": ("target epochs", style.INK),
}
_FRAME_IN, _BAR_IN = 1.5, 0.27


def pareto_front(saved: ArrayLike, accuracy: ArrayLike) -> NDArray[np.bool_]:
    """Tell which points no other point beats: none saves as much and is as accurate, and is better in one of both."""
    points = np.column_stack([saved, accuracy])
    as_good = (points[:, None] >= points[None, :]).all(axis=2)
    better = (points[:, None] > points[None, :]).any(axis=2)
    return np.asarray(~(as_good & better).any(axis=0))


def saving_figure(rows: DataFrame, seeds: DataFrame, epochs: DataFrame) -> Figure:
    """Draw best test accuracy against training time saved, a part for each comparison.

    A point is the mean over seeds, its bars one standard deviation, the faint points single runs. The line is the
    Pareto front: the best accuracy of what saves at least as much. The shaded band is what counts as preserved.
    """
    if epochs.empty:
        return style.empty_figure("Accuracy against time saved: no run has finished an epoch yet")
    finished = _target_at_zero(seeds[seeds["n"] > 0])
    drawn = finished[finished["saved_fraction"].notna()]
    each = rows["comparison"].drop_duplicates()
    heights_in = each.isin(drawn["comparison"]).map({True: 4.4, False: 0.8}).tolist()
    figure, parts = style.comparison_parts(_target_at_zero(rows), heights_in)
    for part in parts:
        comparison = part.rows["comparison"].iloc[0]
        points = drawn[drawn["comparison"] == comparison]
        own = epochs[epochs["comparison"] == comparison]
        if points.empty:
            style.say(part.body, "No finished run whose time can be compared yet")
        else:
            _draw(part.body, points, part.rows[part.rows["complete"]], kind_labels(counted(own)))
        part.note([*_notes(points), *(f"Unfinished: {run}" for run in unfinished(own))])
    return figure


def _target_at_zero(frame: DataFrame) -> DataFrame:
    """A copy in which the target saves nothing, as it does by definition."""
    frame = frame.copy()
    frame.loc[frame["resize_epoch"] == 0, frame.filter(like="saved_fraction").columns] = 0.0
    return frame


def _draw(part: SubFigure, points: DataFrame, runs: DataFrame, labels: Mapping[Any, str]) -> None:
    panel = part.subplots()
    style.frame(panel, grid="both")
    panel.set_xlabel("Training time saved against the target (%)")
    panel.set_ylabel("Best test accuracy (%)")
    resized = points.index[~is_baseline(points["resize_epoch"])]
    shade = dict(zip(resized, style.shades(len(resized)), strict=True))
    handles: dict[str, Artist] = {}
    names = []
    for index, point in points.iterrows():
        same = (runs[KIND] == point[KIND]).all(axis=1)
        label = labels[tuple(point[KIND])] + (f", n = {point['n']}" if points["n"].nunique() > 1 else "")
        colour = style.BASELINES.get(point["resize_epoch"]) or shade[index]
        handles[label], name = _point(panel, point, runs[same], colour)
        names.append(name)
    front = points[pareto_front(points["saved_fraction"], points["best_top1"])].sort_values("saved_fraction")
    saved, best = 100 * front["saved_fraction"], 100 * front["best_top1"]
    # Between two points, what was run and saves more.
    (line,) = panel.plot(saved, best, color=style.FAINT, linewidth=1.5, drawstyle="steps-pre", zorder=1)
    handles["Pareto front"] = line
    target = points["best_top1"][points["resize_epoch"] == 0]
    if len(target):
        margin = points["margin"].iloc[0]
        band = panel.axhspan(100 * (target.max() - margin), 100 * target.max(), color="#eeeeee", zorder=0)
        handles[f"within {100 * margin:g} points of the target"] = band
    panel.margins(x=0.08, y=0.12)
    panel.ticklabel_format(useOffset=False)
    _write(panel, names)
    style.legend(part, handles)


class _Name(NamedTuple):
    """A point's name, and where it may stand: above or below all that is drawn of the point."""

    text: str
    x: float
    low: float
    high: float


def _point(panel: Axes, point: "Series[Any]", runs: DataFrame, colour: Any) -> tuple[Artist, _Name]:
    x, y = 100 * point["saved_fraction"], 100 * point["best_top1"]
    face = "white" if point["estimated"] else colour
    (marker,) = panel.plot(
        x, y, "D" if point["hold"] else "o", color=colour, markerfacecolor=face, markersize=6.5, zorder=4
    )
    low = high = y
    if point["n"] > 1:
        spread = {"xerr": 100 * point["saved_fraction_sd"], "yerr": 100 * point["best_top1_sd"]}
        panel.errorbar(x, y, **spread, fmt="none", ecolor=colour, elinewidth=1, capsize=2, zorder=3)
        panel.plot(100 * runs["saved_fraction"], 100 * runs["best_top1"], ".", color=colour, alpha=0.35, zorder=2)
        low = min(y - spread["yerr"], 100 * runs["best_top1"].min())
        high = max(y + spread["yerr"], 100 * runs["best_top1"].max())
    short = {0: "target", "never": "pre-train"}.get(point["resize_epoch"], str(point["resize_epoch"]))
    return marker, _Name(short, x, low, high)


def _write(panel: Axes, names: Iterable[_Name]) -> None:
    """Write each name where it hits no earlier one: above its point or below, or further away."""
    panel.autoscale_view()  # matplotlib would only do so when it draws
    per_px = 72 / panel.figure.dpi
    taken: list[Bbox] = []
    for name in sorted(names, key=lambda name: name.x):
        width_pt = 0.65 * _NAME_PT * len(name.text)
        places = []
        for y, away_pt in ((name.high, 5), (name.low, -5 - _NAME_PT), (name.high, 16), (name.low, -16 - _NAME_PT)):
            x_pt, y_pt = panel.transData.transform((name.x, y)) * per_px
            places.append((y, away_pt, Bbox.from_bounds(x_pt - width_pt / 2, y_pt + away_pt, width_pt, _NAME_PT)))
        y, away_pt, box = next((place for place in places if not place[2].count_overlaps(taken)), places[0])
        taken.append(box)
        panel.annotate(
            name.text, (name.x, y), xytext=(0, away_pt), textcoords="offset points", ha="center", va="bottom",
            fontsize=_NAME_PT, color=style.INK,
        )  # fmt: skip


def _notes(points: DataFrame) -> list[str]:
    absent = absent_baselines(points)
    notes = [f"Not finished: {', '.join(absent)}"] if absent and not points.empty else []
    if points["estimated"].any():
        notes.append("Hollow: the target's time is estimated from the run's own target epochs")
    if (points["n"] > 1).any():
        spread = "bars one standard deviation, faint points single runs"
        notes.append(f"Points are means over {style.seeds(points['n'])}, {spread}")
    return notes


def clock_figure(epochs: DataFrame) -> Figure:
    """Draw each network's time by clock, stacked: the mean over its seeds, of runs as if each had run alone.

    Of several runs the finished ones count; if none is finished, the one that is furthest.
    """
    if epochs.empty:
        return style.empty_figure("Time by clock: no run has finished an epoch yet")
    spent = [_mean_clocks(rows) for _, rows in epochs.groupby("comparison", sort=False, observed=True)]
    figure, parts = style.comparison_parts(epochs, [_FRAME_IN + _BAR_IN * len(rows) for rows in spent])
    for part, rows in zip(parts, spent, strict=True):
        time = time_quantity(rows.sum(axis=1).max())
        training = rows.drop(columns="evaluation_s").sum(axis=1)
        _stack(part.body, rows, _CLOCKS, [time.show(seconds) for seconds in training])
        part.note(["Beside the bars: training time", *(f"Unfinished: {run}" for run in unfinished(part.rows))])
    return figure


def cost_figure(epochs: DataFrame) -> Figure:
    """Draw what the runs' training cost with each run alone, and with each distinct epoch trained once."""
    if epochs.empty:
        return style.empty_figure("Cost of the sweep: no run has finished an epoch yet")
    figure, parts = style.comparison_parts(epochs, [_FRAME_IN + 3 * _BAR_IN] * epochs["comparison"].nunique())
    for part in parts:
        stages = part.rows["stage"].str.rstrip("0123456789")  # there may be a middle2, middle3 ...
        by_stage = {stage: cost(part.rows[stages == stage]) for stage in _STAGES if (stages == stage).any()}
        alone = {stage: spent.alone_s for stage, spent in by_stage.items()}
        shared = {stage: spent.shared_s for stage, spent in by_stage.items()}
        rows = DataFrame([alone, shared], index=["each run alone", "trunk shared"])
        alone_s, shared_s = rows.sum(axis=1)
        time = time_quantity(alone_s)
        less = f" ({SHARE.show(1 - shared_s / alone_s)} less)" if alone_s > 0 else ""
        _stack(part.body, rows, _STAGES, [time.show(alone_s), time.show(shared_s) + less])
        part.note([f"Training of {part.rows['run'].nunique()} runs, as far as they are; evaluation not counted"])
    return figure


def _mean_clocks(epochs: DataFrame) -> DataFrame:
    """Seconds by clock (columns) of each network (index), in the paper's order."""
    rows = counted(epochs)
    by_run = rows.groupby([*KIND, "run"], sort=False, observed=True)[list(_CLOCKS)].sum()
    means = by_run.groupby(KIND, sort=False, observed=True).mean()
    if not means["compile_s"].any():  # nothing was compiled, as a rule
        means = means.drop(columns="compile_s")
    labels = kind_labels(rows)
    return means.loc[list(labels)].set_axis(list(labels.values()))


def _stack(part: SubFigure, rows: DataFrame, segments: Mapping[str, tuple[str, str]], totals: Sequence[str]) -> None:
    """Horizontal bars, the first at the top, in seconds scaled to the unit that reads best."""
    panel: Axes = part.subplots()
    unit, unit_s = time_unit(rows.sum(axis=1).max())
    start = rows.iloc[:, 0] * 0
    places = range(len(rows))
    segments = {name: shown for name, shown in segments.items() if name in rows}
    for name, (_, colour) in segments.items():
        width = rows[name] / unit_s
        panel.barh(places, width, left=start, height=0.7, color=colour, linewidth=0)
        start = start + width
    for place, end, total in zip(places, start, totals, strict=True):
        panel.annotate(
            total, (end, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8, color=style.INK
        )
    style.frame(panel, grid="x")
    panel.set_yticks(places, rows.index, fontsize=8)
    panel.invert_yaxis()
    panel.margins(x=0.14, y=0.02)
    panel.set_xlim(left=0)
    panel.set_xlabel(f"Time ({unit})")
    style.legend(part, {name: Patch(color=colour) for name, colour in segments.values()})
