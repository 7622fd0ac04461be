import re
from pathlib import Path
from typing import Any

import pytest

from rescaler import measure
from rescaler.chain import Recipe
from rescaler.cli import main
from rescaler.measure import Spread


def test_table_2_from_the_papers_hours(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", "sweep=table2_imagenet", "--hours", str(106.8 / 55), str(269.1 / 55)])
    out = capsys.readouterr().out
    assert "imagenet_overfeat_fast: 6 runs of 55 epochs" in out
    rows = {line.split("  ")[0]: line.split()[-6:] for line in out.splitlines() if " h " in line}
    assert rows["Pre-train"] == ["106.8", "h", "162.3", "h", "(60.3", "%)"]
    assert rows["Resized at epoch 17"] == ["218.9", "h", "50.2", "h", "(18.6", "%)"]
    assert re.search(r"^Target +0 \+ 55 +269.1 h +–$", out, flags=re.MULTILINE)
    assert "All runs, each alone: 1,233.9 h" in out


def test_figure_6_says_what_its_trunk_saves(capsys: pytest.CaptureFixture[str]) -> None:
    hours = [str(106.8 / 55), str(269.1 / 55)]
    main(["plan", "sweep=figure6_imagenet", "schedule.epochs=55", "--hours", *hours])
    out = capsys.readouterr().out
    assert "All runs, each alone: 2,981.8 h; epochs in common trained once: 1,863.3 h (37.5 % less)" in out
    assert "The resized runs, each alone: 2,605.9 h; beside the baselines: 1,487.4 h (42.9 % less)" in out


def test_one_run_is_one_row_and_settings_may_come_last(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", "--hours", "1", "3", "resize_epoch=5"])
    out = capsys.readouterr().out
    assert re.search(r"^Resized at epoch 5 +5 \+ 50 +155.0 h +10.0 h \(6.1 %\)$", out, flags=re.MULTILINE)
    assert "alone" not in out


def test_rows_name_what_else_is_swept(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", "-m", "resize_epoch=0,3", "seed=1,2", "--hours", "1", "3"])
    assert "Resized at epoch 3 [seed=2]" in capsys.readouterr().out
    main(["plan", "-m", "seed=1,2", "--hours", "1.1", "3.3"])
    assert re.search(r"each alone: (.*); epochs in common trained once: \1$", capsys.readouterr().out, re.MULTILINE)
    main(["plan", "-m", "resize_epoch=0,17", "--hours", "0.0021", "0.0055"])
    assert "beside the baselines" not in capsys.readouterr().out, "the target shares nothing with the resized"


def test_held_runs_are_counted_without_their_extra_epochs(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", "sweep=table3", "--hours", "1", "3"])
    out = capsys.readouterr().out
    assert "Resized at epoch 18 (held)" in out
    assert "Held runs (section 5.2) take some epochs more" in out


def test_stages_want_an_hour_each(capsys: pytest.CaptureFixture[str]) -> None:
    middle = "shrink.middle=[{table: {1: 1, 3: 3, 5: 4}, image_px: 24}]"
    main(["plan", middle, "resize_epoch=[9,17]", "--hours", "1", "2", "4"])
    out = capsys.readouterr().out
    assert re.search(r"^Resized at epoch 17 +9 \+ 8 \+ 38 +177.0 h ", out, flags=re.MULTILINE)
    assert "Given: pre-train 1 1 h, pre-train 2 2 h, target 4 h an epoch." in out
    with pytest.raises(
        SystemExit, match="--hours must be 3 positive numbers .pre-train 1, pre-train 2, target.; got 1 2$"
    ):
        main(["plan", middle, "resize_epoch=[9,17]", "--hours", "1", "2"])


def test_the_probe_takes_the_true_shapes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[Any] = []

    def time_steps(networks: Any, recipe: Recipe, *, device: Any, **_: Any) -> dict[str, list[float]]:
        step = recipe.step
        how = (step.precision, step.memory_format, recipe.optim.batch_size, step.micro_batch_size)
        asked.append(([network.image_px for network in networks.values()], how, str(device)))
        return {"pre-train": [0.6] * 3, "target": [3.0] * 3}

    monkeypatch.setattr(measure, "time_steps", time_steps)
    arguments = ["resize_epoch=0,17", "device=cpu", "step.memory_format=contiguous", "schedule.batches_per_epoch=null"]
    arguments.append("step.micro_batch_size=16")
    main(["plan", *arguments])
    assert asked == [([17, 28], ("fp32", "contiguous", 64, 16), "cpu")], "measured once for both runs"
    out = capsys.readouterr().out
    # 60,000 images are 937 batches of 64: 55 * 937 * 3 s, and 17 epochs at 0.6 s instead.
    assert "937 steps an epoch" in out
    assert re.search(r"^Target +0 \+ 55 +42.9 h ", out, flags=re.MULTILINE)
    assert re.search(r"^Resized at epoch 17 +17 \+ 38 +32.3 h +10.6 h ", out, flags=re.MULTILINE)
    assert "evaluation and the rescale are not counted" in out
    assert "oading" not in out, "the set is in memory"


def test_what_loading_eats_is_not_promised(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    steps = {"pre-train": [1.0] * 3, "target": [3.0] * 3}
    monkeypatch.setattr(measure, "time_steps", lambda *_, **__: steps)
    found = {"pre-train": Spread(2, 2, 2), "target": Spread(2.5, 2.5, 2.5)}
    monkeypatch.setattr(measure, "batch_loading_s", lambda *_, **__: found)
    resnet = ["experiment=imagenet_resnet", "device=cpu", "schedule.batches_per_epoch=1200"]
    main(["plan", *resnet, "resize_epoch=30", "data.workers=5"])
    out = capsys.readouterr().out
    # 90 epochs of 1,200 steps of 3 s are 90 h; of the pre-train network, 2 s and not 1 s for each of 30: 10 h saved.
    assert re.search(r"^Resized at epoch 30 +30 \+ 60 +80.0 h +10.0 h ", out, flags=re.MULTILINE)
    assert "Loading: pre-train 2,000.00 ms" in out
    assert "with data.workers=5" in out
    assert "Loading sets the pace of pre-train: prepare the images once" in out


def test_without_image_files_loading_is_said_to_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measure, "time_steps", lambda networks, *_, **__: {name: [1.0] * 3 for name in networks})
    main(["plan", "experiment=imagenet_resnet", "device=cpu", f"data.folder={tmp_path}"])
    assert f"Loading is not in it, and may eat what is saved: data.folder={tmp_path} holds" in capsys.readouterr().out


def test_a_real_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(measure, "_ROUND_S", 0.02)
    main(["plan", "data=synthetic", "optim.batch_size=4", "device=cpu"])
    assert "steps an epoch" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [], "nothing is written"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hours", "1"], "--hours must be 2 positive numbers .pre-train, target.; got 1$"),
        (["--hours", "1", "0"], "--hours must be 2 positive numbers .pre-train, target.; got 1 0$"),
        (["--hours", "1", "nan"], "--hours must be 2 positive numbers"),
        (["--hours", "1", "x"], "--hours must be 2 positive numbers"),
        (["--hours", "1", "2", "optim.batch_size=8,16"], "different times where optim.batch_size is swept"),
        (["data=synthetic", "schedule.batches_per_epoch=null", "optim.batch_size=2001"], "optim.batch_size must be at"),
        (["--config-dir", "nowhere", "seed=1"], "--config-dir must be a folder of configs; got nowhere$"),
        (["--hours", "1", "2", "resize_epoch=3,70"], "resize_epoch=70: resize_epoch must be between 0 and"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message) as ended:
        main(["plan", *arguments])
    assert str(ended.value).startswith("error: ")
    assert "\n" not in str(ended.value)


def test_a_folder_of_own_configs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nname: mine\nresize_epoch: 5\n")
    main(["plan", "--config-dir", str(tmp_path), "experiment=mine", "seed=1,2", "--hours", "1", "3"])
    out = capsys.readouterr().out
    assert "mine: 2 runs of 55 epochs" in out
    assert "Resized at epoch 5 [seed=2]" in out
