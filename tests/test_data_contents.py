"""What is found in a folder of pictures, and the settings that follow."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from image_tree import plant
from PIL import Image
from test_configs import composed

from rescaler.cli import main
from rescaler.compose import read_experiment, to_experiment
from rescaler.config import DataSettings, Experiment
from rescaler.data import load_data, published_size
from rescaler.data.contents import look
from rescaler.data.decoding import preprocess
from rescaler.data.folder import read_tree
from rescaler.data.preparation import Preparation
from rescaler.errors import InputError

CPU = torch.device("cpu")
BLACK_AND_WHITE = [round(math.sqrt(0.25), 4)] * 3


def picture(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    """One tree of two classes: ten black pictures, and ten white ones."""
    for name, level in (("black", 0), ("white", 255)):
        for number in range(10):
            picture(tmp_path / "alone" / name / f"{number}.png", (level,) * 3)
    return tmp_path / "alone"


def experiment(folder: Path, *overrides: str) -> Experiment:
    return to_experiment(composed("data=folder", f"data.folder={folder}", *overrides))


def test_small_squares_alone_are_found_whole_and_in_memory_but_given_values_stay(alone: Path) -> None:
    made = experiment(alone, "data.holdout=0.1")
    data = made.data
    assert (data.classes, data.image_px, data.in_memory) == (2, 8, True)
    assert (data.mean, data.std) == ([0.5] * 3, BLACK_AND_WHITE)  # half of the pixels are 0, half are 1
    assert made.model["image_px"] == 8, "settings that refer to what is found"
    given = ("data.image_px=12", "data.in_memory=false", "data.mean=[0.1,0.2,0.3]")
    data = experiment(alone, "data.holdout=0.1", *given).data
    assert (data.image_px, data.in_memory, data.mean, data.std) == (12, False, [0.1, 0.2, 0.3], BLACK_AND_WHITE)


def test_other_pictures_are_found_at_224_px_and_stay_in_their_files(tmp_path: Path) -> None:
    data = experiment(plant(tmp_path)).data
    assert (data.classes, data.image_px, data.in_memory) == (2, 224, False)


def test_each_picture_weighs_the_same_whatever_its_size(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "a" / "1.png", (255, 0, 255), (100, 10))
    picture(tmp_path / "train" / "b" / "1.png", (0, 255, 255), (10, 10))
    picture(tmp_path / "val" / "a" / "1.png", (255, 255, 255))
    picture(tmp_path / "val" / "b" / "1.png", (255, 255, 255))
    found = look(DataSettings(name="folder", folder=str(tmp_path), classes=2, channels=3)).found
    assert (found["mean"], found["std"]) == ([0.5, 0.5, 1.0], [0.5, 0.5, 0.0])


def test_a_hold_out_is_the_test_set_of_a_tree_alone(alone: Path) -> None:
    data = experiment(alone, "data.holdout=0.2").data
    images = load_data(data, CPU)
    assert (images.train_count, images.test_count, images.class_names) == (16, 4, ["black", "white"])
    assert published_size(data) == 16
    ((pixels, labels),) = images.test_batches(image_px=8, batch_size=8)
    assert labels.tolist() == [0, 0, 1, 1]
    assert [round(value, 3) for value in pixels.mean((1, 2, 3)).tolist()] == [-1, -1, 1, 1]


@pytest.mark.parametrize("classes", [["train", "tram"], ["train/a", "train/b"]])
def test_a_folder_called_train_without_val_is_a_class_or_holds_all(tmp_path: Path, classes: list[str]) -> None:
    for number in range(4):
        for name in classes:
            picture(tmp_path / name / f"{number}.png", (number, 0, 0))
    tree = read_tree(tmp_path, holdout=0.5)
    assert tree.train.classes == [name.rpartition("/")[2] for name in classes]
    assert (len(tree.train.labels), len(tree.test.labels)) == (8, 0)


def test_grey_levels_are_the_pictures_own(alone: Path) -> None:
    picture(alone / "black" / "0.png", (100, 100, 100))
    settings = DataSettings(name="folder", folder=str(alone), image_px=8, classes=2, channels=1)
    settings.mean, settings.std, settings.in_memory, settings.holdout = [0.0], [1.0], True, 0.1
    images = load_data(settings, CPU)
    levels = {
        round(255 * value) for px, _ in images.test_batches(image_px=8, batch_size=9) for value in px.flatten().tolist()
    }
    assert levels <= {0, 100, 255}
    shown = preprocess(alone / "black" / "0.png", settings, 8, cropped=False)
    assert set((255 * shown).round().flatten().tolist()) == {100}


def test_a_prepared_set_is_found_and_fits_in_memory(alone: Path, tmp_path: Path) -> None:
    """One of a tree alone has no test images of its own."""
    Preparation(read_tree(alone, holdout=0.1), tmp_path / "prepared", [6, 9], 0).run(lambda *_: None)
    data = experiment(tmp_path / "prepared", "data.holdout=0.1").data
    assert (data.classes, data.image_px, data.in_memory, data.mean) == (2, 8, True, [0.5] * 3)
    images = load_data(data, CPU)
    assert (images.train_count, images.test_count) == (18, 2)
    with pytest.raises(
        InputError, match=r"data\.holdout must be above 0 with data\.folder=.*prepared, which has no val/"
    ):
        experiment(tmp_path / "prepared")


def test_what_is_found_is_in_the_runs_config(alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny = ["schedule.epochs=1", "schedule.batches_per_epoch=1", "optim.batch_size=4", "resize_epoch=0", "device=cpu"]
    rule = ("rule=constant", "warmup_epochs=0", "milestones=[]", "learning_rates=[0.1]", "weight_decay_until=null")
    more = [f"schedule.{word}" for word in rule]
    more += ["logger=none", "hydra.run.dir=out", "model=resnet_small", "progress=false"]
    main(["run", "data=folder", f"data.folder={alone}", "data.holdout=0.1", *tiny, *more])
    data = read_experiment(tmp_path / "out").data
    assert (data.classes, data.image_px, data.in_memory, data.std) == (2, 8, True, BLACK_AND_WHITE)
    said = (tmp_path / "out" / "run.log").read_text()
    assert "2 classes (black, white), 8 px, in memory, mean [0.5, 0.5, 0.5]" in said


def test_describe_shows_the_pictures(alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (alone / "white" / "9.png").unlink()
    (alone / "black" / "0.png").write_bytes(b"no picture")
    main(["describe", "data=folder", f"data.folder={alone}", "data.holdout=0.1", "model=resnet_small"])
    said = capsys.readouterr().out
    for line in (
        r"classes +2: black, white",
        r"of the smallest class +9 \(white\)",
        r"of the largest class +10 \(black\)",
        r"sizes +8 x 8 px",
        r"data\.image_px +8",
        r"of 18 training pictures",
        r"^1 picture cannot be read",
        r"data\.channels=1 data\.in_memory=true",
    ):
        assert re.search(line, said, flags=re.MULTILINE), line


@pytest.mark.parametrize(
    ("change", "overrides", "message"),
    [
        (lambda _: None, [], r"data\.holdout must be above 0 with data\.folder=.*, which has no val/"),
        (
            lambda _: None,
            ["data.holdout=0.01"],
            r"data\.holdout must be such that class black .* on each side; got 0\.01",
        ),
        (
            lambda folder: (folder / "empty").mkdir(),
            ["data.holdout=0.1"],
            "every class must have an image .*none in empty",
        ),
        (lambda folder: folder / "white", ["data.holdout=0.1"], "/white: no folder of a class"),
        (lambda _: None, ["data.holdout=0.1", "data.channels=2"], r"data\.channels must be 1 \(grey\) or 3 \(RGB\)"),
        (lambda _: None, ["data.holdout=0.1", "data.folder=null"], r"data\.folder must be the path of a folder"),
        (lambda _: None, ["data=cifar10", "data.classes=null"], r"data\.classes must be a value with data=cifar10"),
        (
            lambda _: None,
            ["data=cifar10", "data.in_memory=true"],
            r"data\.in_memory must be false but with data=folder.*got True",
        ),
    ],
)
def test_what_cannot_be_found_is_one_line(
    alone: Path, change: Callable[[Path], Any], overrides: list[str], message: str
) -> None:
    folder = change(alone) or alone
    with pytest.raises(InputError, match=rf"\A[^\n]*{message}[^\n]*\Z"):
        experiment(folder, *overrides)


def test_a_folder_of_unreadable_pictures_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for number in range(2):
        (tmp_path / "a" / f"{number}.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"no training picture can be read; .*/a/1\.png: no image"):
        look(DataSettings(name="folder", folder=str(tmp_path), classes=1, holdout=0.5))
