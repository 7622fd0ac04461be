from pathlib import Path

import numpy as np
import pytest
from fake_runs import FakeRun, load, paper_like
from figure_reading import labels, overlapping, points, words
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from rescaler.figures import clock_figure, cost_figure, pareto_front, saving_figure
from rescaler.results import MARGIN, over_seeds, table

# Four epochs: the target takes 16 s, the pre-train network 4 s, resized at 2 it takes 2 + 0.5 + 8 = 10.5 s.
TARGET = FakeRun(0, [0.5, 0.7, 0.8, 0.9])
RESIZED = FakeRun(2, [0.5, 0.6, 0.55, 0.88])
PRETRAIN = FakeRun("never", [0.5, 0.6, 0.7, 0.7])


def drawn(folder: Path, *runs: FakeRun, margin: float = MARGIN) -> Figure:
    found, epochs = load(folder, *runs)
    rows = table(found, epochs)
    return saving_figure(rows, over_seeds(rows, margin=margin), epochs)


def markers(panel: Axes, symbol: str = "o") -> list[tuple[float, float]]:
    return [point for line in panel.lines if line.get_marker() == symbol for point in points(line)]


@pytest.mark.parametrize(
    ("saved", "accuracy", "front"),
    [
        ([0, 1, 2], [3, 2, 1], [True, True, True]),  # each gives up one for the other
        ([0, 1, 2], [3, 1, 2], [True, False, True]),  # the last saves more and is better than the second
        ([0, 1], [2, 2], [False, True]),  # as accurate, and sooner
        ([1, 1], [2, 2], [True, True]),  # neither beats its equal
    ],
)
def test_pareto_front_is_what_nothing_beats(saved: list[float], accuracy: list[float], front: list[bool]) -> None:
    assert pareto_front(saved, accuracy).tolist() == front


def test_what_is_off_the_front_is_beaten_and_nothing_on_it_is() -> None:
    cloud: NDArray[np.float64] = np.random.default_rng(0).normal(size=(40, 2))
    front = pareto_front(cloud[:, 0], cloud[:, 1])
    assert 0 < front.sum() < 40
    for index, point in enumerate(cloud):
        assert any((other > point).all() for other in cloud) != front[index]


@pytest.mark.parametrize("margin", [0.005, 0.02])
def test_points_are_time_saved_and_accuracy_with_the_target_at_zero(tmp_path: Path, margin: float) -> None:
    figure = drawn(tmp_path, TARGET, RESIZED, PRETRAIN, margin=margin)
    (panel,) = figure.axes
    assert markers(panel) == [(75, 70), (0, 90), (34.375, 88)]
    assert panel.get_xlabel() == "Training time saved against the target (%)"
    assert labels(figure) == [
        "Pre-train (17×17)", "Target (28×28)", "Resized at epoch 2", "Pareto front",
        f"within {100 * margin:g} points of the target",
    ]  # fmt: skip
    (front,) = [line for line in panel.lines if line.get_drawstyle() == "steps-pre"]
    assert points(front) == [(0, 90), (34.375, 88), (75, 70)], "down to what saves more"
    (band,) = [patch for patch in panel.patches if isinstance(patch, Rectangle)]
    assert (band.get_y(), band.get_height()) == pytest.approx((90 - 100 * margin, 100 * margin))


def test_seeds_are_a_mean_with_their_spread(tmp_path: Path) -> None:
    runs = [FakeRun(0, [0.8] * 4, seed=seed) for seed in (0, 1)]
    runs += [FakeRun(2, [0.7 + 0.02 * seed] * 4, seed=seed) for seed in (0, 1)]
    figure = drawn(tmp_path, *runs)
    (panel,) = figure.axes
    assert markers(panel) == [(0, 80), (34.375, 71)]
    vertical = [segment for bars in panel.collections for segment in bars.get_segments()][-1]  # type: ignore[attr-defined]
    # 70 and 72 have a standard deviation of the square root of two.
    assert vertical[:, 1] == pytest.approx([71 - 2**0.5, 71 + 2**0.5])
    assert "Points are means over 2 seeds, bars one standard deviation" in words(figure)


def test_names_of_neighbours_stand_apart(tmp_path: Path) -> None:
    (panel,) = drawn(tmp_path, *(paper_like(k) for k in ("never", 0, *range(48, 55)))).axes
    assert sorted(text.get_text() for text in panel.texts) == [*map(str, range(48, 55)), "pre-train", "target"]
    assert overlapping(panel) == []


def test_a_held_run_is_a_diamond_and_without_a_target_points_are_hollow(tmp_path: Path) -> None:
    held = FakeRun(2, [0.5, 0.6, 0.7, 0.8, 0.9], hold=True, held=1)
    (panel,) = drawn(tmp_path / "held", TARGET, held).axes
    assert markers(panel, "D") == [(9.375, 90)], "one target epoch more: 14.5 of 16 s"
    figure = drawn(tmp_path / "alone", RESIZED)
    (line,) = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert line.get_markerfacecolor() == "white"
    assert "Not finished: Target, Pre-train" in words(figure)
    assert "the target's time is estimated" in words(figure)


def test_an_unfinished_sweep_says_what_is_under_way(tmp_path: Path) -> None:
    figure = drawn(tmp_path, FakeRun(2, [0.5], status="running"))
    assert not any(panel.axison for panel in figure.axes)
    assert "No finished run whose time can be compared yet" in words(figure)
    assert "Resized at epoch 2, seed 0: running, 1 of 4 epochs" in words(figure)


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
    _, epochs = load(tmp_path, RESIZED, TARGET)
    figure = clock_figure(epochs)
    (panel,) = figure.axes
    assert names(panel) == ["Target (28×28)", "Resized at epoch 2"]
    # A target epoch is 3 s of steps and 1 s of waiting, a pre-train epoch a quarter of it; each is evaluated for 1 s.
    assert bars(panel) == [[12, 4, 0, 4], [7.5, 2.5, 0.5, 4]]
    assert totals(panel) == ["16.00 s", "10.50 s"], "evaluation is no training"
    assert panel.get_xlabel() == "Time (s)"
    assert labels(figure) == ["steps", "waiting for data", "rescale", "evaluation (not training time)"]
    (compiled,) = clock_figure(epochs.assign(compile_s=0.5)).axes
    assert bars(compiled)[0] == [12, 4, 0, 2, 4]
    assert totals(compiled)[0] == "18.00 s"


def test_bars_are_means_over_seeds_in_the_unit_that_reads_best(tmp_path: Path) -> None:
    (panel,) = clock_figure(load(tmp_path / "s", TARGET, FakeRun(0, [0.5] * 4, seed=1, target_s=8))[1]).axes
    assert bars(panel) == [[18, 6, 0, 4]]
    (panel,) = clock_figure(load(tmp_path / "h", FakeRun(0, [0.5] * 4, target_s=3600))[1]).axes
    assert (panel.get_xlabel(), totals(panel)) == ("Time (h)", ["4.00 h"])


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


def test_unfinished_runs_count_as_far_as_they_are_and_comparisons_apart(tmp_path: Path) -> None:
    runs = FakeRun(0, [0.5], status="running"), FakeRun(2, [0.5] * 4, comparison="deadbeef")
    _, epochs = load(tmp_path, *runs)
    clocks, costs = clock_figure(epochs), cost_figure(epochs)
    assert len(clocks.axes) == len(costs.axes) == 2
    assert bars(clocks.axes[0]) == [[3, 1, 0, 1]]
    assert bars(costs.axes[0]) == [[4], [4]]
    assert "running, 1 of 4 epochs" in words(clocks)


def test_before_the_first_epoch_there_is_only_a_word(tmp_path: Path) -> None:
    _, epochs = load(tmp_path / "a", FakeRun(2, []))
    for figure in (clock_figure(epochs), cost_figure(epochs), drawn(tmp_path / "b", FakeRun(2, []))):
        assert "no run has finished an epoch yet" in words(figure)
