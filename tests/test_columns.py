from pathlib import Path

import pytest
import yaml
from conftest import MakeExperiment
from fake_runs import FakeRun

from rescaler.cli import main
from rescaler.errors import InputError
from rescaler.results import load_runs, select
from rescaler.results.columns import setting_columns


def write(folder: Path, number: int, config: str | None) -> None:
    """A run of its own seed, with these settings."""
    FakeRun(0, [0.5, 0.6, 0.7, 0.8], seed=number).write(folder / str(number))
    if config is not None:
        (folder / str(number) / "config.yaml").write_text(config)


def test_a_setting_that_differs_is_a_column(tmp_path: Path, make_experiment: MakeExperiment) -> None:
    for number, (factor, mode) in enumerate([(0.5, "bilinear"), (1.0, "pinv"), (0.5, "bilinear")]):
        experiment = make_experiment(
            optim__lr_factor=factor, rescale__interpolation=mode, seed=number, data__folder=f"/data/{number}",
            logger__tags=[str(number)], progress=number > 0,
        )  # fmt: skip
        write(tmp_path, number, yaml.safe_dump(experiment.to_dict(), sort_keys=False))
    runs = load_runs(tmp_path)
    assert list(runs["optim.lr_factor"]) == [0.5, 1.0, 0.5]
    assert list(runs["rescale.interpolation"]) == ["bilinear", "pinv", "bilinear"]
    # Not those that all share, that change no number, or that have a column: here the seed.
    assert setting_columns(runs) == ["seed", "rescale.interpolation", "optim.lr_factor"]


def test_a_run_from_before_a_setting_has_the_value_that_means_so(tmp_path: Path) -> None:
    write(tmp_path, 0, "optim: {momentum: 0.9}\n")
    write(tmp_path, 1, "optim: {momentum: 0.9, lr_factor: 0.5}\n")
    write(tmp_path, 2, "optim: {momentum: 0.9, lr_factor: 1.0}\n")
    assert list(load_runs(tmp_path)["optim.lr_factor"]) == [1.0, 0.5, 1.0]


@pytest.mark.parametrize("other", [None, "optim: [", "- 1\n", "7", "\x00"])
def test_a_run_without_readable_settings_has_no_value(
    tmp_path: Path, other: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, 0, "optim: {momentum: 0.9}\n")
    write(tmp_path, 1, other)
    assert setting_columns(load_runs(tmp_path)) == ["seed"], "a single run differs from none"
    assert (f"a run's settings cannot be read: {tmp_path}/1/config.yaml" in caplog.text) == (other is not None)
    write(tmp_path, 2, "optim: {momentum: 0.8}\n")
    assert list(load_runs(tmp_path)["optim.momentum"].fillna(-1)) == [0.9, -1, 0.8]


def test_lists_words_over_lines_and_settings_of_one_network(tmp_path: Path) -> None:
    write(tmp_path, 0, "schedule:\n  milestones:\n  - 1\n  - 2\nstages: {}\n")
    write(tmp_path, 1, "# mine\nschedule: {milestones: [\n1, 3]\n}\nstages:\n  pretrain:\n    data: {flip: true}\n")
    runs = load_runs(tmp_path)
    assert setting_columns(runs) == ["seed", "schedule.milestones", "stages.pretrain.data.flip"]
    assert list(runs["schedule.milestones"]) == ["[1, 2]", "[1, 3]"]
    assert list(runs["stages.pretrain.data.flip"].fillna("")) == ["", True]


@pytest.mark.parametrize(
    ("conditions", "seeds"),
    [
        ([], [0, 1, 2, 3]),
        (["optim.lr_factor=0.5"], [0, 1]),
        (["optim.lr_factor=0.50", "seed=1"], [1]),
        (["optim.nesterov=true"], [1]),
        (["optim.clip_norm=null"], [0, 1, 2]),
        (["data=fashion_mnist"], [0, 1, 2, 3]),
    ],
)
def test_runs_are_selected_by_their_columns(tmp_path: Path, conditions: list[str], seeds: list[int]) -> None:
    for number, own in enumerate(
        ["lr_factor: 0.5", "lr_factor: 0.5, nesterov: true", "lr_factor: 1", "lr_factor: 2, clip_norm: 3"]
    ):
        write(tmp_path, number, f"optim: {{{own}}}\n")
    assert list(select(load_runs(tmp_path), conditions)["seed"]) == seeds


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("seed", "--where must be KEY=VALUE, such as data=cifar10; got 'seed'"),
        ("optim.lr=1", "--where optim.lr=1: the runs have no column 'optim.lr'; there are run, .*, optim.lr_factor$"),
        ("folder=x", "no column 'folder'"),
        ("optim.lr_factor=3", "--where optim.lr_factor=3: no run has this value; optim.lr_factor is 0.5, 1.0$"),
    ],
)
def test_a_selection_of_nothing_names_what_there_is(tmp_path: Path, condition: str, message: str) -> None:
    write(tmp_path, 0, "optim: {lr_factor: 0.5}\n")
    write(tmp_path, 1, "optim: {lr_factor: 1.0}\n")
    with pytest.raises(InputError, match=message):
        select(load_runs(tmp_path), [condition])


def test_tables_and_report_take_a_selection(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        write(tmp_path, number, f"optim: {{lr_factor: {1 if number else 0.5}}}\n")
    main(["tables", str(tmp_path), "--where", "optim.lr_factor=1", "--where", "seed=2", "--csv", "-"])
    assert len(capsys.readouterr().out.splitlines()) == 2, "a heading and a run"
    main(["report", str(tmp_path), "--where", "optim.lr_factor=1", "-o", str(tmp_path / "r.html")])
    assert "Report on 2 runs" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="error: --where seed=9: no run has this value; seed is 0, 1, 2"):
        main(["tables", str(tmp_path), "--where", "seed=9"])
