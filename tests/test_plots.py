from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from fake_runs import FakeRun, paper_like
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pandas import DataFrame

from rescaler.errors import InputError
from rescaler.plots import accuracy_figure, save_figure
from rescaler.results import load_epochs, load_runs

TABLE_2: list[int | Literal["never"]] = ["never", 0, 17, 18, 19, 20]


def load(folder: Path, *runs: FakeRun) -> DataFrame:
    for index, run in enumerate(runs):
        run.write(folder / str(index))
    return load_epochs(load_runs([folder]))


def points(line: Line2D) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in np.asarray(line.get_xydata())]


def circles(panel: Axes) -> list[tuple[float, float]]:
    return [point for line in panel.lines if line.get_marker() == "o" for point in points(line)]


def thresholds(panel: Axes) -> list[float]:
    return sorted(points(line)[0][1] for line in panel.lines if line.is_dashed())


def verticals(panel: Axes) -> list[float]:
    """Where lines run over the full height of the panel."""
    lines = [points(line) for line in panel.lines]
    return sorted(line[0][0] for line in lines if [y for _, y in line] == [0, 1])


def labels(figure: Figure) -> list[str]:
    return [text.get_text() for part in figure.subfigs for legend in part.legends for text in legend.get_texts()]


def test_panels_show_epochs_and_training_time(tmp_path: Path) -> None:
    figure = accuracy_figure(load(tmp_path, FakeRun(2, [0.5, 0.6, 0.4, 0.9])))
    left, right = figure.axes
    assert left.get_xlabel() == "Epoch"
    assert right.get_xlabel() == "Training time (s)"
    assert left.get_ylabel() == "Test accuracy (%)"
    # Epochs of 1, 1, 4.5 (with the rescale) and 4 s; the circle stands where the pre-train network ended.
    assert circles(left) == [(2, 60)]
    assert circles(right) == [(2.0, 60)]
    assert [points(line) for line in right.lines[:2]] == [[(1, 50), (2, 60)], [(2, 60), (6.5, 40), (10.5, 90)]]


def test_best_accuracies_of_the_baselines_are_lines(tmp_path: Path) -> None:
    runs = FakeRun("never", [0.5, 0.75, 0.7, 0.7]), FakeRun(0, [0.5, 0.6, 0.875, 0.8])
    figure = accuracy_figure(load(tmp_path, *runs))
    assert all(thresholds(panel) == [75, 87.5] for panel in figure.axes)
    assert {text.get_text() for text in figure.axes[1].texts} == {"Pre-train\n75.00 %", "Target\n87.50 %"}


def test_baselines_of_several_seeds_are_averaged(tmp_path: Path) -> None:
    figure = accuracy_figure(load(tmp_path, FakeRun(0, [0.5] * 4, seed=0), FakeRun(0, [0.75] * 4, seed=1)))
    assert thresholds(figure.axes[0]) == [62.5]
    assert figure.axes[1].texts[0].get_text() == "Target\n62.50 %\nmean of 2"
    assert labels(figure).count("Target (28×28)") == 1


def test_an_unfinished_baseline_has_no_line(tmp_path: Path) -> None:
    figure = accuracy_figure(load(tmp_path, FakeRun(0, [0.5], status="running")))
    assert thresholds(figure.axes[0]) == []
    assert labels(figure) == ["Target (28×28), running"]


def test_learning_rate_changes_are_marked_at_the_milestones(tmp_path: Path) -> None:
    held = FakeRun(17, [0.5] * 60, hold=True, held=5, milestones=(23, 34, 48, 57))
    left, right = accuracy_figure(load(tmp_path, held, *map(paper_like, TABLE_2))).axes
    assert verticals(left) == [18, 29, 43, 52]
    assert verticals(right) == []


def test_a_run_on_hold_alone_marks_its_own_changes(tmp_path: Path) -> None:
    held = FakeRun(1, [0.5] * 6, hold=True, held=2, milestones=(4,))
    figure = accuracy_figure(load(tmp_path, held))
    assert verticals(figure.axes[0]) == [4]
    assert labels(figure)[-1] == "learning rate changed"


def test_early_epochs_do_not_squeeze_the_late_ones(tmp_path: Path) -> None:
    epochs = load(tmp_path, *map(paper_like, TABLE_2))
    low, high = accuracy_figure(epochs).axes[0].get_ylim()
    best = 100 * epochs.groupby("run")["test_top1"].max()
    assert high > best.max()
    assert low < best.min()
    assert (best.max() - best.min()) / (high - low) > 0.2


def test_legend_follows_the_papers_order(tmp_path: Path) -> None:
    figure = accuracy_figure(load(tmp_path, *map(paper_like, reversed(TABLE_2))))
    assert labels(figure) == [
        "Pre-train (17×17)",
        "Target (28×28)",
        *(f"Resized at epoch {k}" for k in (17, 18, 19, 20)),
        "last epoch before the rescale",
        "learning rate changed",
    ]


def test_comparisons_get_panels_of_their_own(tmp_path: Path) -> None:
    figure = accuracy_figure(load(tmp_path, FakeRun(0, [0.5]), FakeRun(2, [0.5], comparison="deadbeef")))
    assert len(figure.axes) == 4
    assert labels(figure) == ["Target (28×28)", "Resized at epoch 2", "pre-train epochs"]


def test_no_epochs_no_figure(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to plot"):
        accuracy_figure(load(tmp_path, FakeRun(0, [])))


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("PDF", b"%PDF")])
def test_save_figure_goes_by_the_suffix(tmp_path: Path, suffix: str, start: bytes) -> None:
    epochs = load(tmp_path / "runs", FakeRun(2, [0.5, 0.6, 0.4, 0.9]))
    first, second = (tmp_path / f"{name}.{suffix}" for name in ("first", "second"))
    for path in (first, second):
        save_figure(accuracy_figure(epochs), path)
    assert first.read_bytes().startswith(start)
    assert first.read_bytes() == second.read_bytes(), "equal figures are equal files"
    assert {path.name for path in tmp_path.iterdir()} == {"runs", first.name, second.name}


def test_save_figure_lists_the_formats(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--plot must end in \.png, \.svg, \.pdf; got .*plot\.gif"):
        save_figure(Figure(), tmp_path / "plot.gif")
    assert not list(tmp_path.iterdir())


def test_save_figure_says_where_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write .*file"):
        save_figure(Figure(), tmp_path / "file" / "plot.png")
