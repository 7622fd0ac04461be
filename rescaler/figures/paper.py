"""The paper's Figures 4 to 10."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from matplotlib.figure import Figure
from pandas import DataFrame

from rescaler.errors import InputError
from rescaler.figures.accuracy import Over, draw
from rescaler.figures.style import empty_figure
from rescaler.results import is_baseline, paper

PaperFigure = Literal[4, 5, 6, 7, 8, 9, 10]


class _Content(NamedTuple):
    """What a figure shows beside the baselines, and where its runs come from."""

    caption: str
    over: Over
    sweep: str
    resized: tuple[int, ...] = ()
    held: bool = False
    train: bool = False
    residual: bool = False


_FIGURE_6 = (17, 18, 19, 20, 28, 29, 30, 31, 42, 43, 44, 45, 51, 52, 53, 54)
_HELD, _RESIDUAL = paper.resize_epochs(3), paper.resize_epochs(4)

_CONTENT: Mapping[PaperFigure, _Content] = {
    4: _Content("train and test accuracy of the baselines over epochs", "epoch", "table2", train=True),
    5: _Content("train and test accuracy of the baselines over training time", "time", "table2", train=True),
    6: _Content("rescaled at different epochs", "epoch", "figure6", _FIGURE_6),
    7: _Content("learning rule held after the resize, over epochs", "epoch", "table3", _HELD, held=True),
    8: _Content("learning rule held after the resize, over training time", "time", "table3", _HELD, held=True),
    9: _Content("a residual network over epochs", "epoch", "table4", _RESIDUAL, residual=True),
    10: _Content("a residual network over training time", "time", "table4", _RESIDUAL, residual=True),
}
PAPER_FIGURES: Mapping[PaperFigure, str] = {number: f"Figure {number}: {of.caption}" for number, of in _CONTENT.items()}
"""What the paper's figures show, by their number."""


def paper_figure(number: PaperFigure, epochs: DataFrame) -> Figure:
    """Draw what a figure of the paper shows, from our runs.

    Figures 4 to 8 take all networks but those called ``resnet...``, Figures 9 and 10 only those. What the paper has and
    ``epochs`` do not is named under the figure; without any of its runs the figure says how to run them.

    Args:
        number: of the figure.
        epochs: from :func:`rescaler.results.load_epochs`.

    Raises:
        InputError: the paper has no such figure of results.
    """
    if number not in _CONTENT:
        raise InputError(f"number must be one of the paper's figures of results, 4 to 10; got {number}")
    content = _CONTENT[number]
    baseline = is_baseline(epochs["resize_epoch"])
    # With the learning rule held, the runs that keep to the schedule stand beside.
    shown = baseline | (epochs["resize_epoch"].isin(content.resized) & (content.held | ~epochs["hold"]))
    shown &= paper.residual(epochs["model"]) == content.residual
    rows = epochs[shown]
    if content.resized:
        resized = ~is_baseline(rows["resize_epoch"]) & (rows["hold"] | (not content.held))
        rows = rows[resized.groupby(rows["comparison"], observed=True).transform("any").astype(bool)]
    if rows.empty:
        return empty_figure(f"{PAPER_FIGURES[number]}: not run (python -m rescaler.run sweep={content.sweep})")
    missing = {
        str(comparison): _missing(part, content)
        for comparison, part in rows.groupby("comparison", sort=False, observed=True)
    }
    return draw(rows, (content.over,), train=content.train, missing=missing)


def _missing(rows: DataFrame, content: _Content) -> list[str]:
    run = set(zip(rows["resize_epoch"], rows["hold"], strict=True))
    words = []
    for hold in (False, True) if content.held else (False,):
        absent = [str(epoch) for epoch in content.resized if (epoch, hold) not in run]
        words += [f"resized at epoch {', '.join(absent)}{' (held)' * hold}"] if absent else []
    return words
