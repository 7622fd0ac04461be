"""Figures of where the time went: by clock, and with or without sharing the trunk."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Patch
from pandas import DataFrame

from rescaler.figures import style
from rescaler.figures.curves import KIND, counted, kind_labels, unfinished
from rescaler.results import cost, time_unit
from rescaler.results.report import SHARE, time_quantity

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


def clock_figure(epochs: DataFrame) -> Figure:
    """Draw each network's time by clock, stacked: the mean over its seeds, of runs as if each had run alone.

    Of several runs the finished ones count; if none is finished, the one that is furthest.

    Args:
        epochs: from :func:`rescaler.results.load_epochs`.
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
    """Draw what the runs' training cost with each run alone, and with each distinct epoch trained once.

    Args:
        epochs: from :func:`rescaler.results.load_epochs`.
    """
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
