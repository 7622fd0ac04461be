"""Accuracy of single runs over their cost, or over training time where a cost is not known."""

from matplotlib.figure import Figure
from pandas import DataFrame

from rescaler.errors import InputError
from rescaler.figures.style import FONT_PT, WIDTH_IN, frame, legend, shades
from rescaler.results import time_unit
from rescaler.results.columns import setting_columns, shown


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
    """Return each run's name, with the settings that differ."""
    settings = setting_columns(rows)
    words = [
        ", ".join(f"{key}={shown(value)}" for key, value in zip(settings, values, strict=True))
        for values in rows[settings].to_numpy(dtype=object).tolist()
    ]
    return [f"{name}: {own}" if own else str(name) for name, own in zip(rows["name"], words, strict=True)]
