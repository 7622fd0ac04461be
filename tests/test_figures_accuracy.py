from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from fake_runs import FakeRun, load, paper_like
from figure_reading import circles, labels, legend, overlapping, points, thresholds, ticks, verticals, words

from rescaler.errors import InputError
from rescaler.figures import accuracy_figure

TABLE_2: list[int | Literal["never"]] = ["never", 0, 17, 18, 19, 20]
SEEDS = [(0, 0.5), (1, 0.75)]
FIGURE_6 = [*TABLE_2, 28, 29, 30, 31, 42, 43, 44, 45, 51, 52, 53, 54]


def test_panels_show_epochs_and_training_time(tmp_path: Path) -> None:
    figure = accuracy_figure(load(tmp_path, FakeRun(2, [0.5, 0.6, 0.4, 0.9]))[1])
    left, right = figure.axes
    assert left.get_xlabel() == "Epoch"
    assert right.get_xlabel() == "Training time (s)"
    assert left.get_ylabel() == "Test accuracy (%)"
    # Epochs of 1, 1, 4.5 (with the rescale) and 4 s; the circle stands where the pre-train network ended.
    assert circles(left) == [(2, 60)]
    assert circles(right) == [(2.0, 60)]
    assert [points(line) for line in right.lines[:2]] == [[(1, 50), (2, 60)], [(2, 60), (6.5, 40), (10.5, 90)]]


def test_best_accuracies_of_the_finished_baselines_are_lines(tmp_path: Path) -> None:
    runs = FakeRun("never", [0.5, 0.75, 0.7, 0.7]), FakeRun(0, [0.5, 0.6, 0.875, 0.8])
    figure = accuracy_figure(load(tmp_path / "done", *runs)[1])
    assert all(thresholds(panel) == [75, 87.5] for panel in figure.axes)
    assert {text.get_text() for text in figure.axes[1].texts} == {"Pre-train\n75.00 %", "Target\n87.50 %"}
    figure = accuracy_figure(load(tmp_path / "seeds", *(FakeRun(0, [top1] * 4, seed=s) for s, top1 in SEEDS))[1])
    assert thresholds(figure.axes[0]) == [62.5]
    assert figure.axes[1].texts[0].get_text() == "Target (n = 2)\n62.50 %"
    assert labels(figure).count("Target (28×28)") == 1
    figure = accuracy_figure(load(tmp_path / "running", FakeRun(0, [0.5], status="running"))[1])
    assert thresholds(figure.axes[0]) == []
    assert labels(figure) == ["Target (28×28), running"]


@pytest.mark.parametrize("best", [0.5, 0.501])
def test_close_baselines_have_labels_that_can_be_read(tmp_path: Path, best: float) -> None:
    runs = FakeRun("never", [0.5] * 4), FakeRun(0, [best] * 4), FakeRun(2, [0.3, 0.4, 0.5, 0.7])
    right = accuracy_figure(load(tmp_path, *runs)[1]).axes[1]
    assert len(right.texts) == 2
    assert overlapping(right) == []


def test_the_papers_curves_are_marked_named_and_framed(tmp_path: Path) -> None:
    held = FakeRun(17, [0.5] * 60, hold=True, held=5, milestones=(23, 34, 48, 57))
    left, right = accuracy_figure(load(tmp_path / "held", held, *map(paper_like, TABLE_2))[1]).axes
    assert verticals(left) == [18, 29, 43, 52], "the milestones, though a held run has others"
    assert verticals(right) == []
    _, epochs = load(tmp_path / "table2", *map(paper_like, reversed(TABLE_2)))
    figure = accuracy_figure(epochs)
    assert labels(figure) == [
        "Pre-train (17×17)",
        "Target (28×28)",
        *(f"Resized at epoch {k}" for k in (17, 18, 19, 20)),
        "last epoch before the rescale",
        "learning rate changed",
    ]
    low, high = figure.axes[0].get_ylim()
    best = 100 * epochs.groupby("run")["test_top1"].max()
    assert low < best.min()
    assert high > best.max()
    assert (best.max() - best.min()) / (high - low) > 0.2, "early epochs do not squeeze the late ones"


def test_a_learning_rate_that_glides_is_not_marked(tmp_path: Path) -> None:
    _, epochs = load(tmp_path, FakeRun(2, [0.5] * 8, milestones=(6,), epochs_planned=8))
    assert verticals(accuracy_figure(epochs).axes[0]) == [6]
    warm = epochs.assign(learning_rate=epochs["learning_rate"].where(epochs["epoch"] > 4, epochs["epoch"] / 4))
    assert verticals(accuracy_figure(warm).axes[0]) == [6], "only where it drops, not in the warm-up"
    smooth = epochs.assign(learning_rate=1 / epochs["epoch"])
    assert verticals(accuracy_figure(smooth).axes[0]) == []


def test_a_run_on_hold_alone_marks_its_own_changes(tmp_path: Path) -> None:
    held = FakeRun(1, [0.5] * 6, hold=True, held=2, milestones=(4,))
    figure = accuracy_figure(load(tmp_path, held)[1])
    assert verticals(figure.axes[0]) == [4]
    assert labels(figure)[-1] == "learning rate changed"


def test_comparisons_get_panels_of_their_own(tmp_path: Path) -> None:
    figure = accuracy_figure(load(tmp_path, FakeRun(0, [0.5]), FakeRun(2, [0.5], comparison="deadbeef"))[1])
    assert len(figure.axes) == 4
    assert labels(figure) == ["Target (28×28)", "Resized at epoch 2", "pre-train epochs"]


def test_no_epochs_no_figure(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to plot"):
        accuracy_figure(load(tmp_path, FakeRun(0, []))[1])


def test_seeds_are_drawn_as_their_mean(tmp_path: Path) -> None:
    runs = FakeRun(0, [0.5, 0.7], target_s=4), FakeRun(0, [0.6, 0.9], seed=1, target_s=6)
    figure = accuracy_figure(load(tmp_path, *runs)[1])
    left, right = figure.axes
    assert points(left.lines[0]) == [(1, 55), (2, 80)]
    assert points(right.lines[0]) == [(5, 55), (10, 80)]
    # Over the two epochs the runs span 50 to 60 and 70 to 90 percent.
    (band,) = left.collections
    corners = np.asarray(band.get_paths()[0].vertices).round(6).tolist()
    assert {(x, y) for x, y in corners} == {(1, 50), (1, 60), (2, 70), (2, 90)}
    assert "Lines are means over 2 seeds" in words(figure)


def test_unfinished_seeds_are_named_and_drawn_where_none_has_finished(tmp_path: Path) -> None:
    runs = FakeRun(0, [0.5] * 4), FakeRun(0, [0.9], seed=1, status="running")
    figure = accuracy_figure(load(tmp_path / "one", *runs)[1])
    assert points(figure.axes[0].lines[0]) == [(epoch, 50) for epoch in (1, 2, 3, 4)]
    assert "Unfinished: Target, seed 1: running, 1 of 4 epochs" in words(figure)
    runs = FakeRun(0, [0.5], status="failed"), FakeRun(0, [0.7, 0.7], seed=1, status="running")
    figure = accuracy_figure(load(tmp_path / "both", *runs)[1])
    assert points(figure.axes[0].lines[0]) == [(1, 70), (2, 70)], "the furthest"
    assert labels(figure)[0] == "Target (28×28), running"


def test_many_unfinished_runs_are_counted(tmp_path: Path) -> None:
    figure = accuracy_figure(load(tmp_path, *(FakeRun(0, [0.5], seed=seed, status="running") for seed in range(9)))[1])
    assert "seed 3: running" in words(figure)
    assert "Unfinished: 5 more" in words(figure)
    assert "seed 4" not in words(figure)


def test_networks_with_fewer_seeds_say_so(tmp_path: Path) -> None:
    runs = FakeRun(0, [0.5] * 4), FakeRun(0, [0.5] * 4, seed=1), FakeRun("never", [0.5] * 4)
    figure = accuracy_figure(load(tmp_path, *runs)[1])
    assert labels(figure)[:2] == ["Pre-train (17×17), n = 1", "Target (28×28), n = 2"]
    assert "Lines are means over 1 to 2 seeds" in words(figure)


def test_missing_baselines_and_different_devices_are_named(tmp_path: Path) -> None:
    assert "Not run: Target, Pre-train" in words(accuracy_figure(load(tmp_path / "a", FakeRun(2, [0.5] * 4))[1]))
    runs = FakeRun(0, [0.5] * 4), FakeRun(2, [0.5] * 4, device="cpu B")
    assert "times do not compare" in words(accuracy_figure(load(tmp_path / "b", *runs)[1]))


def test_many_resize_epochs_are_spread_over_panels(tmp_path: Path) -> None:
    figure = accuracy_figure(load(tmp_path, *map(paper_like, FIGURE_6))[1])
    right = figure.axes[1::2]
    assert [legend(panel) for panel in right] == [
        [f"Resized at epoch {k}" for k in epochs]
        for epochs in ((17, 18, 19, 20), (28, 29, 30, 31), (42, 43, 44, 45), (51, 52, 53, 54))
    ]
    assert len({panel.get_ylim() for panel in figure.axes}) == 1, "panels compare only with equal axes"
    assert all(thresholds(panel) == thresholds(right[0]) != [] for panel in figure.axes)
    assert labels(figure).count("Target (28×28)") == 1


def test_a_held_run_is_solid_and_its_scheduled_twin_dashed(tmp_path: Path) -> None:
    held = FakeRun(1, [0.5] * 6, hold=True, held=2, milestones=(4,))
    figure = accuracy_figure(load(tmp_path, held, FakeRun(1, [0.5] * 4))[1])
    left = figure.axes[0]
    plain, on_hold = (line for line in left.lines if len(points(line)) > 3)
    assert plain.is_dashed()
    assert not on_hold.is_dashed()
    assert plain.get_color() == on_hold.get_color()
    assert verticals(left) == [2], "the schedule's change"
    assert ticks(left) == [(4, 50)], "the held run's own"
