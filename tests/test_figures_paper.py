import dataclasses
from pathlib import Path
from typing import get_args

import pytest
from fake_runs import FakeRun, load, paper_like
from figure_reading import labels, points, words

from rescaler.errors import InputError
from rescaler.figures import PAPER_FIGURES, paper_figure
from rescaler.figures.accuracy import PaperFigure

NUMBERS: tuple[PaperFigure, ...] = get_args(PaperFigure)


def residual(run: FakeRun) -> FakeRun:
    return dataclasses.replace(run, model="resnet_small", comparison="deadbeef")


def test_figures_of_results_are_there_and_others_refused(tmp_path: Path) -> None:
    assert list(PAPER_FIGURES) == [4, 5, 6, 7, 8, 9, 10], "1 to 3 explain the method"
    with pytest.raises(InputError, match="number must be one of the paper's figures of results, 4 to 10; got 3"):
        paper_figure(3, load(tmp_path, FakeRun(0, [0.5]))[1])  # type: ignore[arg-type]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("run", [FakeRun(3, [0.5] * 4), FakeRun(17, [])], ids=["another", "without an epoch"])
def test_without_its_runs_a_figure_says_how_to_get_them(tmp_path: Path, number: PaperFigure, run: FakeRun) -> None:
    figure = paper_figure(number, load(tmp_path, run)[1])
    sweep = {4: "table2", 5: "table2", 6: "figure6", 7: "table3", 8: "table3", 9: "table4", 10: "table4"}[number]
    assert f"Figure {number}" in words(figure)
    assert f"not run (python -m rescaler.run sweep={sweep})" in words(figure)
    assert not any(panel.axison for panel in figure.axes)


@pytest.mark.parametrize(("number", "axis"), [(4, "Epoch"), (5, "Training time (s)")])
def test_baselines_have_test_and_train_accuracy(tmp_path: Path, number: PaperFigure, axis: str) -> None:
    runs = [FakeRun("never", [0.5, 0.6]), FakeRun(0, [0.5, 0.7]), FakeRun(1, [0.5, 0.8])]
    figure = paper_figure(number, load(tmp_path, *runs)[1])
    (panel,) = figure.axes
    assert panel.get_xlabel() == axis
    assert panel.get_ylabel() == "Accuracy (%)"
    assert "train accuracy" in labels(figure)
    assert not any("Resized" in label for label in labels(figure))
    # The fake runs train as accurately as they test: two curves each, one dotted.
    curves = [line for line in panel.lines if len(points(line)) == 2 and points(line)[0][1] == 50]
    assert [line.is_dashed() for line in curves] == [False, True] * 2


def test_figure_6_names_what_was_not_run(tmp_path: Path) -> None:
    figure = paper_figure(6, load(tmp_path, *map(paper_like, (0, 17, 18)))[1])
    absent = "19, 20, 28, 29, 30, 31, 42, 43, 44, 45, 51, 52, 53, 54"
    assert f"Not run: Pre-train, resized at epoch {absent}" in words(figure)


@pytest.mark.parametrize("number", [7, 8])
def test_held_runs_stand_beside_those_on_schedule(tmp_path: Path, number: PaperFigure) -> None:
    held = FakeRun(18, [0.5] * 58, hold=True, held=3, epochs_planned=55)
    runs = [held, *(paper_like(k) for k in (0, "never", 17, 18, 29))]
    figure = paper_figure(number, load(tmp_path, *runs)[1])
    assert labels(figure)[2:5] == ["Resized at epoch 18", "Resized at epoch 18 (held)", "Resized at epoch 29"]
    assert "Not run: resized at epoch 43; resized" not in words(figure)
    assert "Not run: resized at epoch 43, resized at epoch 29, 43 (held)" in words(figure)


def test_figures_of_a_residual_network_show_no_other(tmp_path: Path) -> None:
    # 28 and 29 are in Figure 6 as well.
    _, epochs = load(tmp_path, *(paper_like(k) for k in (0, 28, 29)), *(residual(paper_like(k)) for k in (0, 28, 58)))
    assert labels(paper_figure(9, epochs))[:3] == ["Target (28×28)", "Resized at epoch 28", "Resized at epoch 58"]
    assert "resnet_small" in words(paper_figure(10, epochs))
    assert "overfeat_small" not in words(paper_figure(10, epochs))
    assert labels(paper_figure(6, epochs))[:3] == ["Target (28×28)", "Resized at epoch 28", "Resized at epoch 29"]


def test_a_comparison_without_the_figures_runs_is_left_out(tmp_path: Path) -> None:
    other = dataclasses.replace(paper_like(0), comparison="deadbeef")
    figure = paper_figure(6, load(tmp_path, paper_like(0), paper_like(17), other)[1])
    assert len(figure.axes) == 1
