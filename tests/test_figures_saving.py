from pathlib import Path

import numpy as np
import pytest
from fake_runs import FakeRun, paper_like
from figure_reading import labels, load, overlapping, points, words
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from rescaler.figures import pareto_front, saving_figure
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
        ([1], [1], [True]),
    ],
)
def test_pareto_front_is_what_nothing_beats(saved: list[float], accuracy: list[float], front: list[bool]) -> None:
    assert pareto_front(saved, accuracy).tolist() == front


def test_what_is_off_the_front_is_beaten_and_nothing_on_it_is() -> None:
    cloud: NDArray[np.float64] = np.random.default_rng(0).normal(size=(40, 2))
    front = pareto_front(cloud[:, 0], cloud[:, 1])
    assert 0 < front.sum() < 40
    for index, point in enumerate(cloud):
        beaten = any((other > point).all() for other in cloud)
        assert beaten != front[index]


def test_points_are_time_saved_and_accuracy_with_the_target_at_zero(tmp_path: Path) -> None:
    figure = drawn(tmp_path, TARGET, RESIZED, PRETRAIN)
    (panel,) = figure.axes
    assert markers(panel) == [(75, 70), (0, 90), (34.375, 88)]
    assert panel.get_xlabel() == "Training time saved against the target (%)"
    assert labels(figure) == [
        "Pre-train (17×17)", "Target (28×28)", "Resized at epoch 2", "Pareto front", "within 0.5 points of the target"
    ]  # fmt: skip


def test_the_front_steps_down_to_what_saves_more(tmp_path: Path) -> None:
    (panel,) = drawn(tmp_path, TARGET, RESIZED, PRETRAIN).axes
    (front,) = [line for line in panel.lines if line.get_drawstyle() == "steps-pre"]
    assert points(front) == [(0, 90), (34.375, 88), (75, 70)]


@pytest.mark.parametrize("margin", [0.005, 0.02])
def test_the_band_reaches_as_far_below_the_target_as_the_margin(tmp_path: Path, margin: float) -> None:
    (panel,) = drawn(tmp_path, TARGET, RESIZED, margin=margin).axes
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


def test_a_held_run_is_a_diamond(tmp_path: Path) -> None:
    held = FakeRun(2, [0.5, 0.6, 0.7, 0.8, 0.9], hold=True, held=1)
    (panel,) = drawn(tmp_path, TARGET, held).axes
    # One target epoch more: 14.5 of 16 s.
    assert markers(panel, "D") == [(9.375, 90)]


def test_without_a_target_points_are_hollow(tmp_path: Path) -> None:
    figure = drawn(tmp_path, RESIZED)
    (line,) = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert line.get_markerfacecolor() == "white"
    assert "Not finished: Target, Pre-train" in words(figure)
    assert "the target's time is estimated" in words(figure)


def test_an_unfinished_sweep_says_what_is_under_way(tmp_path: Path) -> None:
    figure = drawn(tmp_path, FakeRun(2, [0.5], status="running"))
    assert not any(panel.axison for panel in figure.axes)
    assert "No finished run whose time can be compared yet" in words(figure)
    assert "Resized at epoch 2, seed 0: running, 1 of 4 epochs" in words(figure)


def test_before_the_first_epoch_there_is_only_a_word(tmp_path: Path) -> None:
    assert "no run has finished an epoch yet" in words(drawn(tmp_path, FakeRun(2, [])))
