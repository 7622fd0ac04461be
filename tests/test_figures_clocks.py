from pathlib import Path

import pytest
from fake_runs import FakeRun
from figure_reading import labels, load, words
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from rescaler.figures import clock_figure, cost_figure

TARGET = FakeRun(0, [0.5] * 4)
RESIZED = FakeRun(2, [0.5] * 4)


def bars(panel: Axes) -> list[list[float]]:
    """Lengths of the segments, a list a bar from the top."""
    by_place: dict[float, list[float]] = {}
    for patch in panel.patches:
        assert isinstance(patch, Rectangle)
        by_place.setdefault(patch.get_y(), []).append(round(patch.get_width(), 6))
    assert panel.yaxis_inverted()
    return [by_place[place] for place in sorted(by_place)]


def names(panel: Axes) -> list[str]:
    return [label.get_text() for label in panel.get_yticklabels()]


def totals(panel: Axes) -> list[str]:
    return [text.get_text() for text in panel.texts]


def test_bars_are_the_clocks_of_each_network(tmp_path: Path) -> None:
    figure = clock_figure(load(tmp_path, RESIZED, TARGET)[1])
    (panel,) = figure.axes
    assert names(panel) == ["Target (28×28)", "Resized at epoch 2"]
    # A target epoch is 3 s of steps and 1 s of waiting, a pre-train epoch a quarter of it; each is evaluated for 1 s.
    assert bars(panel) == [[12, 4, 0, 4], [7.5, 2.5, 0.5, 4]]
    assert totals(panel) == ["16.00 s", "10.50 s"], "evaluation is no training"
    assert panel.get_xlabel() == "Time (s)"
    assert labels(figure) == ["steps", "waiting for data", "rescale", "evaluation (not training time)"]


def test_compiling_has_a_segment_where_there_is_any(tmp_path: Path) -> None:
    runs, epochs = load(tmp_path, TARGET)
    (panel,) = clock_figure(epochs.assign(compile_s=0.5)).axes
    assert bars(panel) == [[12, 4, 0, 2, 4]]
    assert totals(panel) == ["18.00 s"]


def test_bars_are_means_over_seeds(tmp_path: Path) -> None:
    slower = FakeRun(0, [0.5] * 4, seed=1, target_s=8)
    (panel,) = clock_figure(load(tmp_path, TARGET, slower)[1]).axes
    assert bars(panel) == [[18, 6, 0, 4]]


def test_long_runs_are_in_hours(tmp_path: Path) -> None:
    (panel,) = clock_figure(load(tmp_path, FakeRun(0, [0.5] * 4, target_s=3600))[1]).axes
    assert panel.get_xlabel() == "Time (h)"
    assert totals(panel) == ["4.00 h"]


def test_shared_epochs_are_paid_once(tmp_path: Path) -> None:
    # Resized at 2 and at 3 share two pre-train epochs of 1 s; 8.5 s and 4.5 s are their own.
    figure = cost_figure(load(tmp_path, RESIZED, FakeRun(3, [0.5] * 4))[1])
    (panel,) = figure.axes
    assert names(panel) == ["each run alone", "trunk shared"]
    assert bars(panel) == [[5, 13], [3, 13]]
    assert totals(panel) == ["18.00 s", "16.00 s (11.1 % less)"]
    assert labels(figure) == ["pre-train epochs", "target epochs"]


def test_epochs_of_middle_stages_are_paid_too(tmp_path: Path) -> None:
    _, epochs = load(tmp_path, FakeRun(3, [0.5] * 4))
    epochs["stage"] = ["pretrain", "middle", "middle2", "target"]
    figure = cost_figure(epochs)
    assert bars(figure.axes[0]) == [[1, 2, 4.5], [1, 2, 4.5]]
    assert totals(figure.axes[0])[0] == "7.50 s"
    assert labels(figure) == ["pre-train epochs", "epochs of middle stages", "target epochs"]


def test_the_papers_figure_6_costs_two_fifths_less_with_a_shared_trunk(tmp_path: Path) -> None:
    # The hours of Table 2: with both baselines 2,982 h alone and 1,863 h shared, 37.5 % less. A rescale takes no time
    # there; here its half second counts for nothing beside epochs of hours.
    resized = (17, 18, 19, 20, 28, 29, 30, 31, 42, 43, 44, 45, 51, 52, 53, 54)
    hours = {"pretrain_s": 3600 * 106.8 / 55, "target_s": 3600 * 269.1 / 55}
    runs = [FakeRun(k, [0.5] * 55, epochs_planned=55, **hours) for k in (*resized, 0, "never")]  # type: ignore[arg-type]
    (panel,) = cost_figure(load(tmp_path, *runs)[1]).axes
    alone, shared = map(sum, bars(panel))
    assert (alone, shared) == pytest.approx((2982, 1863), abs=1)
    assert totals(panel)[1].endswith("(37.5 % less)")


def test_unfinished_runs_count_as_far_as_they_are(tmp_path: Path) -> None:
    _, epochs = load(tmp_path, FakeRun(0, [0.5], status="running"))
    assert bars(clock_figure(epochs).axes[0]) == [[3, 1, 0, 1]]
    assert bars(cost_figure(epochs).axes[0]) == [[4], [4]]
    assert "running, 1 of 4 epochs" in words(clock_figure(epochs))


def test_comparisons_are_drawn_apart(tmp_path: Path) -> None:
    _, epochs = load(tmp_path, TARGET, FakeRun(2, [0.5] * 4, comparison="deadbeef"))
    assert len(clock_figure(epochs).axes) == len(cost_figure(epochs).axes) == 2


def test_before_the_first_epoch_there_is_only_a_word(tmp_path: Path) -> None:
    _, epochs = load(tmp_path, FakeRun(2, []))
    for figure in (clock_figure(epochs), cost_figure(epochs)):
        assert "no run has finished an epoch yet" in words(figure)
