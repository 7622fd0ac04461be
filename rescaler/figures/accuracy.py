"""Accuracy over epochs and over training time: the paper's Figures 4 to 10."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from pandas import DataFrame

from rescaler.errors import InputError
from rescaler.figures import style
from rescaler.figures.style import KIND, absent_baselines, empty_figure, mean_curves, unfinished
from rescaler.results import is_baseline, network_label, paper, time_unit

Over = Literal["epoch", "time"]

_CIRCLE: dict[str, Any] = {
    "marker": "o", "linestyle": "", "markerfacecolor": "white", "markersize": 5, "markeredgewidth": 1.3
}  # fmt: skip
_TICK: dict[str, Any] = {"marker": "|", "linestyle": "", "markersize": 8, "markeredgewidth": 1.2}
_TRAIN, _PLAIN = (0, (1, 1.3)), (0, (4, 1.2))
_CUT = 0.15
"""Share of the points, mostly of early epochs, that may lie below the frame, so that late differences can be seen."""
_TOGETHER = 6
"""Resized networks that can be told apart in one panel."""
_APART_EPOCHS = 3
"""Resize epochs further apart than this may go to different panels."""


def accuracy_figure(epochs: DataFrame) -> Figure:
    """Draw test accuracy over epochs (left) and over training time (right), a part for each comparison.

    Seeds are drawn as their mean, with a band over all of them. Horizontal lines are the best accuracies of the
    baselines (as in the paper's Figure 6), circles the last epoch before a rescale, vertical lines and ticks changes of
    the learning rate. Many resize epochs are spread over several pairs of panels with the same axes.

    Raises:
        InputError: there is no epoch to draw.
    """
    if epochs.empty:
        raise InputError("nothing to plot: no run has finished an epoch yet")
    return draw(epochs, ("epoch", "time"))


def draw(
    epochs: DataFrame,
    over: Sequence[Over],
    *,
    train: bool = False,
    missing: Callable[[DataFrame], list[str]] = lambda _: [],
) -> Figure:
    """The figure of each comparison's curves, a column for each of ``over``; ``missing``: what was not run, of one."""
    comparisons = [rows for _, rows in epochs.groupby("comparison", sort=False, observed=True)]
    curves = [mean_curves(rows) for rows in comparisons]
    facets = [_facets(each) for each in curves]
    columns = 2 if len(over) == 1 else 1  # of facets
    heights_in = [0.5 + 3.6 * -(-len(each) // columns) for each in facets]
    figure, parts = style.comparison_parts(epochs, heights_in)
    for part, curve, facet in zip(parts, curves, facets, strict=True):
        part.note(_notes(part.rows, curve, missing(part.rows)))
        across = min(columns, len(facet))
        places = part.body.subfigures(-(-len(facet) // across), across, squeeze=False).ravel()
        limits = _limits(curve, train)
        handles: dict[str, Line2D] = {}
        for place, kinds in zip(places, facet, strict=False):
            handles |= _facet(place, kinds, over, train, limits, alone=len(facet) == 1)
        style.legend(part.body, handles)
    return figure


def _facets(curves: DataFrame) -> list[DataFrame]:
    """The curves by panel: all baselines in each, and as many neighbouring resize epochs as can be told apart."""
    baseline = is_baseline(curves["resize_epoch"])
    kinds = list(dict.fromkeys(curves[~baseline][KIND].itertuples(index=False, name=None)))
    groups: list[list[Any]] = [[]]
    for kind in kinds:
        group = groups[-1]
        apart = len(group) >= 3 and kind[0] - group[-1][0] > _APART_EPOCHS
        if len(kinds) > _TOGETHER and (apart or len(group) >= _TOGETHER):
            groups.append([])
        groups[-1].append(kind)
    key = curves[KIND].apply(tuple, axis=1)
    return [curves[baseline | key.isin(group)] for group in groups]


def _limits(curves: DataFrame, train: bool) -> tuple[float, float]:
    values = curves["test"]
    low, high = values.quantile(_CUT), curves["test_high"].max()
    if train:
        low, high = min(low, curves["train"].quantile(_CUT)), max(high, curves["train"].max())
    margin = max(0.04 * (high - low), 0.05)
    return low - margin, high + 2 * margin


def _facet(
    part: SubFigure, curves: DataFrame, over: Sequence[Over], train: bool, limits: tuple[float, float], *, alone: bool
) -> dict[str, Line2D]:
    """Draw curves over each of ``over``; returns what a legend for all facets says of them."""
    panels = part.subplots(1, len(over), sharey=True, squeeze=False)[0]
    unit, unit_s = time_unit(curves["time_s"].max())
    curves = curves.assign(time=curves["time_s"] / unit_s)
    colours = _colours(curves)
    resized = curves[~is_baseline(curves["resize_epoch"])]
    twins = set(resized["resize_epoch"][resized["hold"]])
    own: dict[str, Line2D] = {}
    shared: dict[str, Line2D] = {}
    for kind, curve in curves.groupby(KIND, sort=False, observed=True):
        plain = kind[0] in twins and not kind[1]
        for panel, x in zip(panels, over, strict=True):
            _draw(panel, curve, x, colours[kind], plain=plain, train=train)
        dashes: Any = _PLAIN if plain else "-"
        handles = shared if alone or kind[0] in style.BASELINES else own
        handles[curve["label"].iloc[0]] = Line2D([], [], color=colours[kind], linewidth=1.6, linestyle=dashes)
    shared |= _marks(curves, panels, over, train)
    _mark_baselines(panels, curves)
    for panel, x in zip(panels, over, strict=True):
        style.frame(panel)
        panel.set_xlim(0, curves[x].max() * 1.02)
        panel.set_xlabel("Epoch" if x == "epoch" else f"Training time ({unit})")
        panel.tick_params(labelleft=True)
        if x == "epoch":
            panel.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    panels[0].set_ylim(*limits)
    panels[0].set_ylabel("Accuracy (%)" if train else "Test accuracy (%)")
    if own:
        # Accuracy rises: its corner at the lower right is empty, but for the lines where the learning rate changes.
        look = style.LEGEND | {"frameon": True, "framealpha": 0.9, "edgecolor": "none"}
        panels[-1].legend(list(own.values()), list(own), loc="lower right", **look)
    return shared


def _colours(curves: DataFrame) -> dict[Any, Any]:
    kinds = list(dict.fromkeys(curves[KIND].itertuples(index=False, name=None)))
    networks = list(dict.fromkeys((kind[0], kind[2]) for kind in kinds if kind[0] not in style.BASELINES))
    shade = dict(zip(networks, style.shades(len(networks)), strict=True))
    return {kind: style.BASELINES.get(kind[0]) or shade[kind[0], kind[2]] for kind in kinds}


def _draw(panel: Axes, curve: DataFrame, x: Over, colour: Any, *, plain: bool, train: bool) -> None:
    before = curve["rescaled"].shift(-1, fill_value=False).to_numpy()
    # Up to the rescale a run is a pre-train network, often in the very epochs of other runs: its colour starts there.
    start = len(curve) if not before.any() else int(before.argmax())
    if curve["resize_epoch"].iloc[0] in style.BASELINES:
        trunk, own, above = curve.iloc[:0], curve, 4
    else:
        trunk, own, above = curve.iloc[: start + 1], curve.iloc[start:], 3
    for stretch, shade, zorder in ((trunk, style.BASELINES["never"], 2.5), (own, colour, above)):
        if stretch.empty:
            continue
        marker = "." if len(stretch) == 1 else ""  # a line needs two points to be seen
        dashes: Any = _PLAIN if plain and stretch is own else "-"
        panel.plot(stretch[x], stretch["test"], marker=marker, color=shade, linewidth=1.4, ls=dashes, zorder=zorder)
        if train:
            panel.plot(stretch[x], stretch["train"], color=shade, linewidth=1.2, ls=_TRAIN, zorder=zorder)
        if stretch is own and (own["runs"] > 1).any():
            low, high = stretch["test_low"], stretch["test_high"]
            panel.fill_between(stretch[x], low, high, color=shade, alpha=0.12, linewidth=0, zorder=1.5)
    panel.plot(curve[x][before], curve["test"][before], **_CIRCLE, color=colour, zorder=5)
    if x == "time" or curve["held"].any():
        changes = own[own["changed"].shift(-1, fill_value=False)]
        panel.plot(changes[x], changes["test"], **_TICK, color=colour, zorder=4.5)


def _mark_baselines(panels: Sequence[Axes], curves: DataFrame) -> None:
    baselines = curves[is_baseline(curves["resize_epoch"]) & curves["finished"]]
    bests = baselines.groupby(KIND, sort=False, observed=True)[["best", "runs"]].first()
    bests = bests.sort_values("best", ascending=False, kind="stable")
    for place, ((resize_epoch, _, distinction), (best, runs)) in enumerate(
        zip(bests.index, bests.to_numpy(), strict=True)
    ):
        colour = style.BASELINES[resize_epoch]
        for panel in panels:
            panel.axhline(best, color=colour, linewidth=0.9, linestyle=(0, (5, 3)), zorder=2)
        name = network_label(resize_epoch, distinction=distinction) + (f" (n = {runs:.0f})" if runs > 1 else "")
        # The labels point away from each other, however close the lines are.
        va, away_pt = ("bottom", 1) if place == 0 else ("top", -1)
        panels[-1].annotate(
            f"{name}\n{best:.2f} %",
            (1, best), xycoords=("axes fraction", "data"), xytext=(4, away_pt), textcoords="offset points",
            va=va, color=colour, fontsize=8, annotation_clip=False,
        )  # fmt: skip


def _marks(curves: DataFrame, panels: Sequence[Axes], over: Sequence[Over], train: bool) -> dict[str, Line2D]:
    """Mark where the learning rate changes; returns what the legend says of this and of other marks."""
    handles = {}
    if train:
        handles["train accuracy"] = Line2D([], [], color=style.MUTED, linewidth=1.2, linestyle=_TRAIN)
    if curves["rescaled"].any():
        handles["last epoch before the rescale"] = Line2D([], [], **_CIRCLE, color=style.MUTED)
    kinds = set(curves["resize_epoch"])
    if kinds - {0} and "never" not in kinds:
        handles["pre-train epochs"] = Line2D([], [], color=style.BASELINES["never"], linewidth=1.6)
    if curves["changed"].any():
        handles["learning rate changed"] = Line2D([], [], **_TICK, color=style.MUTED)
    # Held epochs move the later changes: read them off curves that have none, where there are such.
    held = curves.groupby(KIND, observed=True)["held"].transform("any")
    scheduled = curves if held.all() else curves[~held]
    for panel, x in zip(panels, over, strict=True):
        if x == "epoch":
            for epoch in scheduled["epoch"][scheduled["changed"]].unique() - 1:
                panel.axvline(epoch, color=style.FAINT, linewidth=0.9, zorder=1)
    return handles


def _notes(epochs: DataFrame, curves: DataFrame, missing: Sequence[str]) -> list[str]:
    absent = [*absent_baselines(epochs), *missing]
    notes = [f"Not run: {', '.join(absent)}"] if absent else []
    notes += [f"Unfinished: {each}" for each in unfinished(epochs)]
    if (curves["runs"] > 1).any():
        notes.append(f"Lines are means over {style.seeds(curves['runs'])}, bands span all of them")
    if epochs["device"].nunique() > 1:
        notes.append("Epochs ran on different devices, so their times do not compare")
    return notes


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


def paper_figure(number: PaperFigure, epochs: DataFrame) -> Figure:
    """Draw what a figure of the paper shows, from our runs.

    Figures 4 to 8 take all networks but those called ``resnet...``, Figures 9 and 10 only those. What the paper has and
    ``epochs`` do not is named under the figure; without any of its runs the figure says how to run them.

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
    return draw(rows, (content.over,), train=content.train, missing=lambda part: _missing(part, content))


def _missing(rows: DataFrame, content: _Content) -> list[str]:
    run = set(zip(rows["resize_epoch"], rows["hold"], strict=True))
    words = []
    for hold in (False, True) if content.held else (False,):
        absent = [str(epoch) for epoch in content.resized if (epoch, hold) not in run]
        words += [f"resized at epoch {', '.join(absent)}{' (held)' * hold}"] if absent else []
    return words
