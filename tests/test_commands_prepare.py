import os
from pathlib import Path

import pytest
import torch
from image_tree import plant

from rescaler.cli import main
from rescaler.config import DataSettings
from rescaler.data import load_data
from rescaler.data.prepared import Manifest


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return plant(tmp_path / "tree")


def prepare(tree: Path, *words: str) -> None:
    main(["prepare", "data=imagenet", "data.workers=0", "data.classes=2", f"data.folder={tree}", *words])


def test_prepare(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = tree / "val" / "n01440764" / "n01440764_1.JPEG"
    damaged.write_bytes(b"damaged")
    (tree / "val" / "n01440764" / "animation.gif").touch()
    prepare(tree, "data.image_px=56", "shrink.image_px=35")
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith(
        f"{tree}: 10 + 4 images (train + val) -> {tree / 'prepared'}, shorter sides of 40, 64 pixels: about 0.00 GB; "
    )
    assert told[0].endswith("GB are free for them")
    assert told[1] == "13 images, 0.00 GB; all checksums hold"
    assert told[2].startswith("1 could not be read and are left out")
    assert told[3].startswith("  val/n01440764/n01440764_1.JPEG: no image, or of no known kind")
    assert told[4] == "not taken for images: 1 .gif"
    assert told[5] == f"train on them with data.folder={tree / 'prepared'}"
    settings = DataSettings(
        name="imagenet",
        folder=str(tree / "prepared"),
        image_px=56,
        classes=2,
        channels=3,
        mean=[0.5] * 3,
        std=[1.0] * 3,
    )
    assert load_data(settings, torch.device("cpu")).test_count == 3


def test_names_in_any_encoding_and_links_to_nowhere(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tree / "train" / "n01440764"
    latin = os.fsdecode("Flügel".encode("latin-1"))
    (folder / f"{latin}.JPEG").write_bytes((folder / "n01440764_0.JPEG").read_bytes())
    (folder / f"{latin}_damaged.JPEG").touch()
    (folder / "a_link.JPEG").symlink_to(tree / "nowhere")
    prepare(tree, "data.image_px=56", "shrink.image_px=35")
    told = capsys.readouterr().out.splitlines()
    assert told[1] == "15 images, 0.00 GB; all checksums hold"
    assert "a_link.JPEG: [Errno 2] No such file or directory" in told[4]
    assert told[3].startswith(r"  train/n01440764/Fl\xfcgel_damaged.JPEG: no image, or of no known kind")
    prepare(tree, "data.image_px=56", "shrink.image_px=35")
    assert capsys.readouterr().out.splitlines()[1:] == told[1:], "it is whole"


def test_all_stages_of_all_runs_are_prepared_for(tree: Path, tmp_path: Path) -> None:
    prepare(tree, "--output", str(tmp_path / "out"), "data.image_px=56", "shrink.image_px=35,42")
    assert Manifest.read(tmp_path / "out").shorter_px == [40, 48, 64]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data=fashion_mnist"], r"data must be imagenet, or folder .*, to be prepared: .*; got fashion_mnist"),
        (["data.classes=2,3"], r"data\.folder and data\.classes must be the same in all runs"),
        (["data.classes=1000"], r"/train has 2 classes; data\.classes is 1000"),
        (["data.folder=/nowhere"], r"data\.folder=/nowhere must hold train/<class>"),
    ],
)
def test_wrong_input_is_one_line(tree: Path, words: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message) as raised:
        prepare(tree, *words)
    assert "\n" not in str(raised.value)


def test_a_prepared_set_is_not_prepared(tree: Path) -> None:
    prepare(tree, "data.image_px=56")
    with pytest.raises(SystemExit, match="is a prepared set; it must be the tree that it was made from"):
        prepare(tree / "prepared")
