"""Accuracy over cost: the arms of a fair comparison, and runs side by side."""

from matplotlib.figure import Figure
from pandas import DataFrame

from rescaler.errors import InputError
from rescaler.figures.style import FONT_PT, INK, LEGEND, MUTED, WIDTH_IN, frame, legend, shades
from rescaler.results import time_unit
from rescaler.results.columns import setting_columns, shown
from rescaler.results.compare import FULL, MARGIN, NAMES, OURS, final_scores, mean_curve

_COLOURS = {FULL: INK, "squeezed": MUTED, "input_only": "#d9812e", OURS: "#2a6fb0"}
_OTHERS = ("#5a9e4b", "#8c5fa8", "#b0413e")


def fair_figure(rows: DataFrame, curves: DataFrame, *, margin: float = MARGIN) -> Figure:
    """Draw test accuracy over cost, the mean of each arm with a band over its seeds; right: the last points, closer."""
    figure = Figure(figsize=(WIDTH_IN, 3.9), layout="constrained")
    whole, near = figure.subplots(1, 2)
    others = iter(_OTHERS)
    target = rows.loc[rows["arm"] == FULL, "top1"]
    for arm, seeds in zip(rows["arm"], rows["n"], strict=True):
        curve = mean_curve(curves[curves["arm"] == arm])
        colour = _COLOURS.get(arm) or next(others)
        label = f"{NAMES.get(arm, arm)}, n = {seeds}"
        for panel in (whole, near):
            panel.plot(curve["cost"], 100 * curve["top1"], color=colour, label=label, linewidth=1.6)
            panel.fill_between(curve["cost"], 100 * curve["low"], 100 * curve["high"], color=colour, alpha=0.15, lw=0)
            panel.plot(curve["cost"].iloc[-1], 100 * curve["top1"].iloc[-1], "o", color=colour, markersize=4)
    for panel in (whole, near):
        frame(panel, grid="both")
        panel.set_xlabel("cost, in runs of the target in full")
        if not target.empty:
            panel.axhspan(100 * (target.iloc[0] - margin), 100 * target.iloc[0], color=INK, alpha=0.08, lw=0)
    whole.set_ylabel("test accuracy in %")
    last = 100 * final_scores(curves)["test_top1"]
    low, high = last.min(), last.max()
    near.set_ylim(low - 1.2 * (high - low), high + 0.2 * (high - low))
    near.set_xlim(left=0.5 * rows["cost"].min())
    whole.set_ylim(bottom=max(0.0, low - 8 * (high - low)))
    whole.set_title("all epochs", fontsize=FONT_PT, color=INK)
    near.set_title(f"the end; grey: up to {100 * margin:g} points below the target", fontsize=FONT_PT, color=INK)
    handles, labels = whole.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), **LEGEND)
    return figure


def compare_figure(rows: DataFrame, epochs: DataFrame) -> Figure:
    """Draw test accuracy over cost where all runs of ``rows`` have one, else over training time; a line for each run.

    Raises:
        InputError: no run has finished an epoch.
    """
    if epochs.empty:
        raise InputError("nothing to plot: no run has finished an epoch yet")
    unit, unit_s = time_unit(epochs["time_s"].max())
    by_cost = bool(epochs["cost"].notna().all())
    figure = Figure(figsize=(WIDTH_IN, 4.5), layout="constrained")
    part = figure.subfigures(1, 1, squeeze=False)[0, 0]
    panel = part.subplots()
    labels, lines = _labels(rows), {}
    for name, run, colour in zip(labels, rows["run"], shades(len(rows)), strict=True):
        own = epochs[epochs["run"] == run]
        if own.empty:
            continue
        x, top1 = own["cost"] if by_cost else own["time_s"] / unit_s, 100 * own["test_top1"]
        marker = "." if len(own) == 1 else ""  # a line needs two points to be seen
        (lines[name],) = panel.plot(x, top1, color=colour, label=name, linewidth=1.4, marker=marker)
        panel.plot(x.iloc[-1], top1.iloc[-1], "o", color=colour, markersize=4)
        before = own["rescaled"].shift(-1, fill_value=False).to_numpy()
        panel.plot(x[before], top1[before], "o", color=colour, markerfacecolor="white", markersize=5)
    frame(panel, grid="both")
    panel.set_xlim(left=0)
    panel.set_xlabel("Cost, in runs of the target" if by_cost else f"Training time ({unit})")
    panel.set_ylabel("Test accuracy (%)")
    if epochs["rescaled"].any():
        panel.set_title("white circles: the last epoch before a rescale", fontsize=FONT_PT)
    legend(part, lines)
    return figure


def _labels(rows: DataFrame) -> list[str]:
    settings = setting_columns(rows)
    words = [
        ", ".join(f"{key}={shown(value)}" for key, value in zip(settings, values, strict=True))
        for values in rows[settings].to_numpy(dtype=object).tolist()
    ]
    return [f"{name}: {own}" if own else str(name) for name, own in zip(rows["name"], words, strict=True)]
