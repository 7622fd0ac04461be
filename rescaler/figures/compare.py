"""Accuracy of single runs over their cost, or over training time where a cost is not known."""

from matplotlib.figure import Figure
from pandas import DataFrame

from rescaler.errors import InputError
from rescaler.figures.style import FONT_PT, LEGEND, WIDTH_IN, frame, shades
from rescaler.results import time_unit


def compare_figure(rows: DataFrame, epochs: DataFrame) -> Figure:
    """Draw test accuracy over cost where all runs have one, else over training time; a line for each run.

    Args:
        rows: from :func:`rescaler.results.compare.side_by_side`.
        epochs: from :func:`rescaler.results.load_epochs`, of the same runs.

    Raises:
        InputError: no run has finished an epoch.
    """
    if epochs.empty:
        raise InputError("nothing to plot: no run has finished an epoch yet")
    unit, unit_s = time_unit(epochs["time_s"].max())
    by_cost = bool(epochs["cost"].notna().all())
    figure = Figure(figsize=(WIDTH_IN, 4.5), layout="constrained")
    panel = figure.subplots()
    for name, run, colour in zip(rows["name"], rows["run"], shades(len(rows)), strict=True):
        own = epochs[epochs["run"] == run]
        if own.empty:
            continue
        x, top1 = own["cost"] if by_cost else own["time_s"] / unit_s, 100 * own["test_top1"]
        panel.plot(x, top1, color=colour, label=name, linewidth=1.4, marker="." if len(own) == 1 else "")
        panel.plot(x.iloc[-1], top1.iloc[-1], "o", color=colour, markersize=4)
        before = own["rescaled"].shift(-1, fill_value=False).to_numpy()
        panel.plot(x[before], top1[before], "o", color=colour, markerfacecolor="white", markersize=5)
    frame(panel, grid="both")
    panel.set_xlim(left=0)
    panel.set_xlabel("Cost, in runs of the target" if by_cost else f"Training time ({unit})")
    panel.set_ylabel("Test accuracy (%)")
    panel.set_title("circles: the last epoch before a rescale", fontsize=FONT_PT)
    figure.legend(*panel.get_legend_handles_labels(), loc="outside lower center", ncols=min(3, len(rows)), **LEGEND)
    return figure
