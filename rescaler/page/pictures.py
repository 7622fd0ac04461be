"""The figures of one comparison, each within the page and with its content in words."""

import base64
from collections.abc import Iterator
from dataclasses import dataclass

from matplotlib.figure import Figure
from pandas import DataFrame

from rescaler.figures import accuracy_figure, clock_figure, cost_figure, saving_figure, to_svg
from rescaler.text import counted


@dataclass(frozen=True)
class Picture:
    """A figure, as a data URI."""

    source: str
    alternative: str
    caption: str


def pictures(rows: DataFrame, seeds: DataFrame, epochs: DataFrame) -> Iterator[Picture]:
    """Draw what can be drawn; arguments as for :func:`rescaler.figures.saving_figure`, of one comparison."""
    if epochs.empty:
        return
    count = counted(len(rows), "run")
    yield _picture(
        accuracy_figure(epochs),
        f"Line charts of the test accuracy of {count} over epochs and over training time; the tables have the best.",
        "Test accuracy over epochs and over training time; dashed, the best of the baselines.",
    )
    yield _picture(
        saving_figure(rows, seeds, epochs),
        "Chart of best test accuracy against training time saved; the table by network has the numbers.",
        "Best test accuracy against training time saved: means over seeds, one standard deviation, Pareto front.",
    )
    yield _picture(
        clock_figure(epochs),
        "Stacked bars of each network’s time: training steps, waiting for data, rescaling, evaluation.",
        "Where the time goes, each network as if its runs had run alone.",
    )
    if len(rows) > 1:
        yield _picture(
            cost_figure(epochs),
            "Two bars: training time of all runs if each had run alone, and with common epochs trained once; "
            "the notes to the table by network have the numbers.",
            "What all runs together cost, without and with a shared trunk.",
        )


def _picture(figure: Figure, alternative: str, caption: str) -> Picture:
    image = base64.b64encode(to_svg(figure).encode()).decode()
    return Picture(f"data:image/svg+xml;base64,{image}", alternative, caption)
