import csv
import io
import re
from pathlib import Path

import pytest

from rescaler.cli import main, networks
from rescaler.measure import Spread

SMALL = ["model=overfeat_small", "data=synthetic"]


@pytest.fixture
def pretrain_step_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What steps of the pre-train network will take instead of being timed; the target's take 2 s."""
    seconds = [1.0, 1.0, 1.0]

    def measure(networks: list[str], *_: object, **__: object) -> dict[str, list[float]]:
        return {name: [2.0 if name == "target" else s for s in seconds] for name in networks}

    monkeypatch.setattr(networks, "time_steps", measure)
    return seconds


def test_it_prints_the_table_without_data(capsys: pytest.CaptureFixture[str]) -> None:
    main(["describe", "model=overfeat_fast", "data=imagenet", "data.image_px=231", "data.folder=nowhere"])
    out = capsys.readouterr().out
    assert "OverFeat: target 231x231, 2.80 G multiplications" in out
    assert "pre-train 147x147, 734 M" in out
    assert re.search(r"^conv1 +convolution +11x11 -> 7x7 +0 +56x56 -> 36x36", out, flags=re.MULTILINE)


def test_csv_has_every_layer_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    main(["describe", "model=resnet_small", "--csv", "-", "data=synthetic"])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 1 + 3 * 4 + 2 + 1
    assert sum(int(row["target_macs"]) for row in rows) > sum(int(row["pretrain_macs"]) for row in rows)
    assert (rows[0]["target_kernel"], rows[0]["pretrain_kernel"], rows[0]["scale"]) == ("3x3", "2x2", "1.5")


def test_markdown_goes_to_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["describe", *SMALL, "--markdown", str(tmp_path / "d.md")])
    text = (tmp_path / "d.md").read_text()
    assert text.startswith("### OverFeat: target 28x28")
    assert "| conv1 | convolution | 5x5 -> 3x3 |" in text
    assert "conv1  convolution" in capsys.readouterr().out


def test_several_stages_are_several_blocks(capsys: pytest.CaptureFixture[str]) -> None:
    middle = "shrink.middle=[{table: {1: 1, 3: 3, 5: 4}, image_px: 24}]"
    main(["describe", *SMALL, middle, "seed=0,1"])  # a sweep over what changes no network
    headings = re.findall(r"pre-train (\d+)x\d+, ", capsys.readouterr().out)
    assert headings == ["17", "24"]


@pytest.mark.usefixtures("pretrain_step_s")
def test_a_faster_network_is_just_measured(capsys: pytest.CaptureFixture[str]) -> None:
    main(["describe", *SMALL, "--measure", "device=cpu"])
    out = capsys.readouterr().out
    assert "a training step of 16 images" in out, "a CPU takes a small batch unless told otherwise"
    assert re.search(r"^Precision +Memory format +Network +Step +Target's +Times faster +n$", out, flags=re.MULTILINE)
    assert re.search(r"^fp32 +channels_last +pre-train +1,000.00 ms +2,000.00 ms +2.00 \(2.00 to 2.00\) +3$", out, re.M)
    assert "bf16" in out
    assert "not faster" not in out


@pytest.mark.usefixtures("pretrain_step_s")
def test_what_loading_leaves_of_the_saving_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"pre-train": Spread(1.6, 1.6, 1.6), "target": Spread(1, 1, 1)}
    monkeypatch.setattr(networks, "batch_loading_s", lambda *_, **__: found)
    main(["describe", "model=overfeat_small", "data=imagenet", "--measure", "device=cpu"])
    out = capsys.readouterr().out
    assert "Loading: pre-train 1,600.00 ms (1,600.00 to 1,600.00), target 1,000.00 ms" in out
    assert "with it an epoch of the pre-train network is 1.25 times faster than the target's, not 2.00" in out
    found.update(dict.fromkeys(found, Spread(0.5, 0.5, 0.5)))
    main(["describe", "model=overfeat_small", "data=imagenet", "--measure", "device=cpu"])
    assert "Loading sets the pace" not in capsys.readouterr().out


def test_a_slower_network_is_called_that(pretrain_step_s: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    pretrain_step_s[:] = [2.5, 2.5, 1.0]
    main(["describe", *SMALL, "--measure", "device=cpu", "--batch", "5"])
    out = capsys.readouterr().out
    assert "a training step of 5 images" in out
    assert "network is not faster here (fp32 channels_last): its step takes 1.25 times as long as the target's" in out
    pretrain_step_s[:] = [2.5, 1.0, 1.0]
    main(["describe", *SMALL, "--measure", "device=cpu"])
    assert "is not clearly faster here (bf16 contiguous): in some rounds it was slower" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch", "0", "--measure"], "--batch must be at least 1, and is for --measure; got 0"),
        (["--batch", "4"], "--batch must be at least 1, and is for --measure; got 4"),
        (["model._target_=no.such"], "model._target_=no.such cannot be imported"),
        (["data.image_px=6"], "image_px=6 is too small"),
        (["modl=resnet34"], "unknown key modl: did you mean model"),
        (["--csv", "/proc/none/x.csv"], "cannot write"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message) as ended:
        main(["describe", *SMALL, *arguments])
    assert str(ended.value).startswith("error: ")
    assert "\n" not in str(ended.value)


def test_what_is_no_setting_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["tables", "x", "--epochs", "1", "--y=1"])
    assert "unrecognized arguments" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="missing EQUAL"):
        main(["describe", "seed=1", "--all", "b"])
