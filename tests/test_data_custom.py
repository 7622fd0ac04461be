"""A data set of Python by its import path."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench import RESNET, Bench
from conftest import MakeExperiment
from PIL import Image
from test_configs import composed
from test_train import Ending, digests

from rescaler.compose import to_experiment
from rescaler.config import DataSettings, Experiment
from rescaler.data import load_data
from rescaler.data.order import EpochImages
from rescaler.errors import InputError
from rescaler.plan import plan

CPU = torch.device("cpu")
HERE = __name__


class Shades:
    """Squares of one level of grey; each class has its own."""

    def __init__(self, count: int = 12, px: int = 8, kind: str = "uint8", offset: int = 0, noise: bool = False) -> None:
        self.count, self.px, self.kind, self.offset, self.noise = count, px, kind, offset, noise

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        label = index % 3
        pixels = torch.full((1, self.px, self.px), 51 * label, dtype=torch.uint8)
        if self.noise:
            pixels = pixels + torch.randint(0, 9, pixels.shape, dtype=torch.uint8)
        image = {
            "uint8": pixels,
            "float": pixels / 255,
            "normalised": pixels / 255 - 1,
            "numpy": pixels[0].numpy(),
            "picture": Image.fromarray(pixels[0].numpy()),
            "wide": pixels.repeat(1, 1, 2),
            "sizes": pixels[:, : self.px - label],
            "text": "pixels",
        }[self.kind]
        return image, {"float": torch.tensor(label), "numpy": np.int64(label)}.get(self.kind, label + self.offset)


class Stream:
    def __iter__(self) -> Any:
        return iter([])


class Labels(Shades):
    def __getitem__(self, index: int) -> Any:
        return {3: "three", 4: index}.get(self.px) if self.px < 8 else None


def experiment(*overrides: str, target: str = "Shades", **arguments: Any) -> Experiment:
    words = ", ".join(f"{name}: {value}" for name, value in {"_target_": f"{HERE}.{target}", **arguments}.items())
    return to_experiment(composed("data=custom", f"data.train={{{words}}}", "data.test=${data.train}", *overrides))


@pytest.mark.parametrize("kind", ["uint8", "float", "numpy", "picture"])
def test_what_is_null_is_found_in_images_of_any_kind(kind: str) -> None:
    data = experiment(kind=kind).data
    assert (data.classes, data.channels, data.image_px, data.in_memory) == (3, 1, 8, True)
    assert data.mean == [0.2]  # of levels 0, 51 and 102 of 255
    images, labels = next(load_data(data, CPU).test_batches(image_px=8, batch_size=3))
    torch.testing.assert_close(images.mean((1, 2, 3)) * data.std[0] + 0.2, torch.tensor([0.0, 0.2, 0.4]))
    assert labels.tolist() == [0, 1, 2]


def test_images_that_are_read_while_training_are_the_same_for_any_workers() -> None:
    found = []
    for workers in (0, 2):
        made = experiment("data.in_memory=false", f"data.workers={workers}", noise=True).data
        wanted = EpochImages(6, seed=1, epoch=1, batches=2, batch_size=4)
        found.append(torch.cat([images for images, _ in load_data(made, CPU).train_batches(wanted)]))
    assert torch.equal(*found)
    assert found[0].shape == (8, 1, 6, 6)


def test_a_run_resumes_to_the_same_bits(bench: Bench, other: Bench, make_experiment: MakeExperiment) -> None:
    data = experiment("data.holdout=0.25", count=24).data
    own = make_experiment(model=RESNET, data=data, optim__batch_size=8)
    with pytest.raises(KeyboardInterrupt):
        bench.train(own, saver=Ending(bench.ledger, 3))
    assert digests(bench.train(own)) == digests(other.train(own))


def test_its_code_and_its_images_are_in_the_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_experiment: MakeExperiment
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    ids = []
    for text in ("class Set(Shades):\n    pass\n", "class Set(Shades):\n    extra = 1\n"):
        (tmp_path / "users_set.py").write_text(f"from {HERE} import Shades\n\n\n{text}")
        sys.modules.pop("users_set", None)
        for count in (12, 15):
            test = {"_target_": f"{HERE}.Shades"}
            train = {"_target_": "users_set.Set", "count": count}
            settings = DataSettings(
                "custom", None, 8, 3, 1, [0.5], [0.5], in_memory=True, workers=0, train=train, test=test
            )
            ids.append(plan(make_experiment(model=RESNET, data=settings, optim__batch_size=4)).id)
    assert len(set(ids)) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": "Nothing"}, r"^data\.train\._target_=test_data_custom\.Nothing cannot be imported \(module .*"),
        ({"target": "Stream"}, r"must make a map-style data set, with __len__ and __getitem__; it made a Stream"),
        ({"size": 3}, r"^data\.train\._target_=test_data_custom\.Shades: TypeError: .*'size'"),
        ({"target": "Labels"}, r"^data\.train\[0\] must be an image and its label; got a NoneType"),
        ({"offset": "-1"}, r"^data\.train\[0\] has the label -1; labels are from 0 to 1 \(data\.classes=2\)"),
        ({"offset": 0.5}, r"^data\.train\[0\] must have an integer as its label; got 0\.5"),
        ({"kind": "sizes"}, r"^data\.image_px must be given with data=custom, whose pictures have 8 x 6 to 8 x 8 px"),
        ({"kind": "wide"}, r"^data\.image_px must be given with data=custom, whose pictures have 16 x 8 px"),
        ({"kind": "normalised"}, r"data\.train\[.*its values must be in \[0, 1\], or uint8: .*; got -.*"),
        ({"kind": "text"}, r"data\.train\[.*it must be a picture of data\.channels=1; got a 'pixels'"),
        ({"count": 0}, r"^data\.train\._target_ must be a set with images in it"),
    ],
)
def test_a_mistake_is_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        experiment(**arguments)


def test_labels_beyond_the_given_classes_and_missing_sets_are_one_line() -> None:
    with pytest.raises(InputError, match=r"^data\.train\[2\] has the label 2; labels are from 0 to 1"):
        experiment("data.classes=2")
    with pytest.raises(InputError, match=r"^data\.test must be given, or data\.holdout above 0"):
        experiment("data.test=null")
    with pytest.raises(InputError, match=r"^data\.train must be a _target_ with its arguments"):
        to_experiment(composed("data=custom", "data.holdout=0.1"))
    with pytest.raises(InputError, match=r"^data\.train must be null with data=synthetic"):
        to_experiment(composed("data=synthetic", "+data.train._target_=mine.Set"))
