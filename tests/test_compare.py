import io
import json
from pathlib import Path

import pandas as pd
import pytest
from fake_runs import FakeRun

from rescaler.cli import main

TARGET = FakeRun(0, [0.5, 0.7, 0.8, 0.9])
RESIZED = FakeRun(2, [0.5, 0.95, 0.8834, 0.88])


def write(folder: Path, run: FakeRun, config: str = "", **summary: object) -> Path:
    run.write(folder)
    path = folder / "summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **summary}))
    if config:
        (folder / "config.yaml").write_text(config)
    return folder


def compare(*arguments: str | Path) -> None:
    main(["compare", *map(str, arguments)])


def test_runs_stand_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = write(tmp_path / "a" / "target", TARGET, "optim: {lr_factor: 1.0, momentum: 0.9}\ndata: {flip: true}\n")
    resized = write(tmp_path / "b", RESIZED, "optim: {lr_factor: 0.5, momentum: 0.9}\ndata: {flip: false}\n")
    compare(target, resized, "-o", tmp_path / "f.svg")
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[-1] == f"Accuracy of each run: {tmp_path / 'f.svg'}"
    assert (tmp_path / "f.svg").read_text().lstrip().startswith("<?xml")
    # Epochs of 1 s before the rescale, 4 s after it, 0.5 s for it; the best of a pre-train epoch does not count.
    assert "Run resize_epoch optim.lr_factor data.flip Last accuracy Best accuracy (epoch) Training time" in lines
    assert "a/target 0 1.0 true 90.00 % 90.00 % (4) 16.00 s" in lines
    assert "b 2 0.5 false 88.00 % 88.34 % (3) 10.50 s" in lines


def test_runs_come_in_natural_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [write(tmp_path / name, FakeRun(0, [0.5], seed=seed)) for seed, name in enumerate(("10", "9", "2"))]
    compare(*folders)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line[:2].strip().isdecimal()] == ["2", "9", "10"]


def test_cost_by_reference_is_shown_where_it_is_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # 4 epochs of 1,000 images cost the target 1; a pre-train image costs a quarter of a target image.
    costs = {"pretrain": 1 / 16_000, "target": 1 / 4_000}
    write(tmp_path / "target", TARGET, image_costs=costs)
    write(tmp_path / "resized", RESIZED, image_costs=costs)
    write(tmp_path / "unknown", FakeRun(3, [0.5] * 4), image_costs={})
    compare(tmp_path, "--csv", "-")
    output = capsys.readouterr()
    rows = pd.read_csv(io.StringIO(output.out)).set_index("name")
    assert rows.loc[["target", "resized"], "cost"].tolist() == pytest.approx([1, 0.625])
    assert rows["cost"].isna().to_dict() == {"target": False, "resized": False, "unknown": True}
    assert "Cost: in runs of the target, by reference times." in output.err, "the table is still seen"


@pytest.mark.parametrize("costs", [{}, {"pretrain": 1 / 16_000, "target": 1 / 4_000}])
def test_the_figure_is_over_cost_or_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, costs: dict[str, float], capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = []
    monkeypatch.setattr("rescaler.cli.results.save_figure", lambda figure, _: drawn.append(figure))
    for run in (TARGET, RESIZED, FakeRun(0, [], seed=1, status="failed")):
        write(tmp_path / f"{run.resize_epoch}_{run.seed}", run, image_costs=costs)
    compare(tmp_path, "-o", tmp_path / "f.svg")
    (panel,) = drawn[0].axes
    assert panel.get_xlabel() == ("Cost, in runs of the target" if costs else "Training time (s)")
    ends = {
        line.get_label(): (line.get_xdata()[-1], line.get_ydata()[-1]) for line in panel.lines if len(line.get_xdata())
    }
    assert ends["0_0: resize_epoch=0, seed=0"] == pytest.approx((1.0 if costs else 16.0, 90))
    assert ends["2_0: resize_epoch=2, seed=0"] == pytest.approx((0.625 if costs else 10.5, 88))
    assert "failed, 0 of 4 epochs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("summary", "config", "message"),
    [
        ({"data": "cifar10"}, "", "must agree in data and target network; data is fashion_mnist, cifar10"),
        ({"model": "resnet_small"}, "", "model is overfeat_small, resnet_small"),
        ({}, "model: {widths: [8]}", r"model.widths is \[4\], \[8\]"),
        ({}, "model: {widths: [4]}\ndata: {holdout: 0.1}", "data.holdout is 0.0, 0.1"),
        ({"data": "folder"}, "model: {widths: [4]}\ndata: {mean: [0.4]}", r"data.mean is \[0.5\], \[0.4\]"),
    ],
)
def test_runs_that_do_not_compare_are_refused(
    tmp_path: Path, summary: dict[str, str], config: str, message: str
) -> None:
    data = "\ndata: {mean: [0.5]}" if "mean" in config else ""
    write(tmp_path / "a", TARGET, "model: {widths: [4]}" + data, **({} if "mean" not in config else summary))
    write(tmp_path / "b", RESIZED, config, **summary)
    with pytest.raises(SystemExit, match=f"^error: runs that are compared .*{message}$"):
        compare(tmp_path)


def test_bad_input_is_named(tmp_path: Path) -> None:
    one = str(write(tmp_path / "a", TARGET))
    cases: list[tuple[list[str], str]] = [
        ([one], "error: compare needs at least two runs; got 1"),
        ([one, str(tmp_path / "gone")], "error: no folder .*gone: compare takes folders of runs"),
        ([one, "-o", "f.gif"], r"error: the file of a figure must end in \.png"),
    ]
    for arguments, message in cases:
        with pytest.raises(SystemExit, match=message):
            compare(*arguments)
