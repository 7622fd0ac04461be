"""Images that are not square: networks, pixels, whole runs, and what is read back from them."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from bench import RESNET, Bench
from conftest import MakeExperiment
from PIL import Image
from test_data import images
from torch import Tensor, nn

import rescaler
from rescaler.compose import jobs, read_experiment
from rescaler.config import DataSettings, Experiment
from rescaler.data.decoding import centre_crop
from rescaler.data.order import EpochImages
from rescaler.data.resident import ImageSet, ResidentImages, cut, low_frequencies, resize
from rescaler.execution import execute
from rescaler.method import ImageSize
from rescaler.models import overfeat_small, resnet18, vgg_small
from rescaler.plan import plan
from rescaler.results import load_epochs, load_runs, table


@pytest.mark.parametrize(
    ("network", "image_px", "pretrain_px"),
    [
        (overfeat_small(image_px=(48, 32)), (48, 32), (29, 19)),  # 3/5 of 48 and 32: 28.8 and 19.2
        (vgg_small(), [32, 48], (19, 29)),
        (resnet18(10, 1), (96, 128), (64, 96)),  # 5/7: 68.6 and 91.4, each within 8 % of a multiple of the stride, 32
    ],
)
def test_shapes_are_those_of_a_real_forward_pass(
    network: nn.Module, image_px: Any, pretrain_px: tuple[int, int]
) -> None:
    shrunk = rescaler.shrink(network, image_px)
    assert shrunk.image_px == pretrain_px
    found: dict[str, tuple[int, ...]] = {}
    for layer in shrunk.layers:
        if layer.kind == "convolution":

            def note(_: nn.Module, __: Any, output: Tensor, name: str = layer.name) -> None:
                found[name] = tuple(output.shape[2:])

            shrunk.network.get_submodule(layer.name).register_forward_hook(note)
    assert shrunk.network.eval()(torch.zeros(1, 1, *pretrain_px)).shape == (1, 10)
    assert found == {layer.name: layer.pretrain_output for layer in shrunk.layers if layer.name in found}
    assert rescaler.rescale(shrunk.network, network).eval()(torch.zeros(1, 1, *image_px)).shape == (1, 10)
    described = str(rescaler.describe(network, image_px))
    assert f"target {image_px[0]}x{image_px[1]}, " in described
    assert f"pre-train {pretrain_px[0]}x{pretrain_px[1]}, " in described


def test_two_equal_sides_are_one() -> None:
    def key(*overrides: str) -> tuple[str, list[str]]:
        small = ["data=synthetic", "data.train_images=64", "data.test_images=8", "device=cpu", "logger=none"]
        run = plan(jobs([*small, *overrides])[0].experiment)
        return run.id, run.chain.known_keys

    assert key() == key("data.image_px=[28,28]") == key("data.image_px='28'")
    network = ["model=resnet_small", "shrink=three_stages"]
    given = {"shrink.image_px": 20, "shrink.middle.0.image_px": 24, "+stages.target.data.test_px": 32}
    pairs = [f"{name}=[{px},{px}]" for name, px in given.items()]
    assert key(*network, *pairs) == key(*network, *(f"{name}={px}" for name, px in given.items()))
    assert key() != key("data.image_px=[28,27]") != key("data.image_px=[27,28]")
    assert rescaler.shrink(vgg_small(), (28, 28)).image_px == rescaler.shrink(vgg_small(), 28).image_px == 17


def test_a_later_network_gets_no_smaller_images() -> None:
    swapped = ["data=synthetic", "data.image_px=[32,24]", "shrink=three_stages", "shrink.image_px=[20,18]"]
    experiment = jobs([*swapped, "shrink.middle.0.image_px=[24,16]"])[0].experiment
    with pytest.raises(rescaler.errors.InputError, match=r"image_px must be between 20x18, .*=32x24; got 24x16"):
        plan(experiment, load=False)


# Pixels.


def test_cut_is_the_middle_with_the_aspect_ratio() -> None:
    pixels = torch.arange(60 * 80).reshape(60, 80)
    assert torch.equal(cut(pixels, (20, 10)), pixels[:, 25:55])
    assert torch.equal(cut(pixels, (10, 20)), pixels[10:50])
    assert torch.equal(cut(pixels, 7), pixels[:, 10:70])


@pytest.mark.parametrize("size", [(32, 40), (60, 20)])
@pytest.mark.parametrize("image_px", [(28, 21), (14, 28)])
def test_centre_crop_is_the_middle_of_a_ramp(size: tuple[int, int], image_px: tuple[int, int]) -> None:
    """It is resized until 8/7 of both sides just fit: a ramp stays one, around its middle."""
    scale = min(side / (px * 8 / 7) for side, px in zip(size, image_px, strict=True))
    for axis in (0, 1):
        ramp = torch.arange(0, 4 * size[axis], 4, dtype=torch.uint8)
        pixels = (ramp[:, None] if axis == 0 else ramp).expand(3, *size)
        found = centre_crop(pixels, image_px)
        assert found.shape == (3, *image_px)
        line = (found[0, :, 3] if axis == 0 else found[0, 3]).float()
        middle = 4 * (size[axis] - 1) / 2
        assert abs(line.mean() - middle) <= 4 * scale + 1
        assert abs(line.diff().mean() - 4 * scale) <= 0.1 * 4 * scale


def test_low_frequencies_of_each_axis() -> None:
    """The two axes are independent: what varies along one is resized as in a square."""
    places = (torch.arange(28) + 0.5) / 28
    slow = (128 + 100 * torch.cos(6 * torch.pi * places)).round().to(torch.uint8)
    across, down = slow.expand(1, 1, 28, 28), slow[:, None].expand(1, 1, 28, 28)
    assert torch.equal(low_frequencies(across, (12, 20))[0, 0, 0], low_frequencies(across, 20)[0, 0, 0])
    assert torch.equal(low_frequencies(down, (12, 20))[0, 0, :, 0], low_frequencies(down, 12)[0, 0, :, 0])


def test_shifts_are_a_share_of_each_side() -> None:
    settings = DataSettings("synthetic", image_px=(20, 10), classes=4, mean=[0.0], std=[1.0])
    data = ResidentImages(ImageSet(images(64, (20, 10)), images(4, (20, 10)), 4), settings, torch.device("cpu"))
    epoch = EpochImages((10, 5), 0, 1, batches=4, batch_size=16, pad_px=4)  # at most 2 pixels of the smaller image
    pixels = torch.cat([batch for batch, _ in data.train_batches(epoch)])
    assert pixels.shape == (64, 1, 10, 5)
    gaps = [(pixels.amax(axes) == 0).sum(1).max() for axes in ((1, 3), (1, 2))]
    assert gaps == [2, 2]
    tests = torch.cat([batch for batch, _ in data.test_batches(image_px=(10, 5), batch_size=4)])
    assert torch.allclose(tests * 255, resize(images(4, (20, 10)).images, (10, 5)).float())


# Runs.


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Landscape and portrait PNG files of two classes, told by their colour."""
    noise = torch.Generator().manual_seed(0)
    for (label, name), (split, count) in itertools.product(enumerate(("ant", "bee")), (("train", 8), ("val", 4))):
        folder = tmp_path / "pictures" / split / name
        folder.mkdir(parents=True)
        for number in range(count):
            pixels = torch.randint(0, 256, (40, 60, 3) if number % 2 else (50, 30, 3), generator=noise)
            pixels[..., label] = 255
            Image.fromarray(pixels.byte().numpy()).save(folder / f"{number}.png")
    return tmp_path / "pictures"


@pytest.mark.parametrize("source", ["synthetic", "files", "memory"])
def test_a_run_resumes_and_its_model_is_used(
    source: str, bench: Bench, other: Bench, make_experiment: MakeExperiment, pictures: Path, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"data__image_px": (32, 24), "model__image_px": [32, 24]}
    if source != "synthetic":
        data = {"name": "folder", "folder": str(pictures), "channels": 3, "classes": 2, "train_images": 0}
        data |= {"test_images": 0, "mean": [0.5] * 3, "std": [0.3] * 3, "in_memory": source == "memory", "workers": 0}
        changes |= {f"data__{key}": value for key, value in data.items()} | {"data__pad_px": 2}

    def experiment() -> Experiment:
        return make_experiment(**changes, schedule__epochs=4, schedule__milestones=[3], resize_epoch=2)

    with pytest.raises(KeyboardInterrupt):
        bench.train(experiment(), stop_after=1)
    records = bench.train(experiment())
    assert bench.watcher.reused == [1]
    assert [record.image_px for record in records] == [(19, 14)] * 2 + [(32, 24)] * 2
    assert [record.digest for record in records] == [record.digest for record in other.train(experiment())]
    assert all(type(record).from_json(record.to_json()) == record for record in records)

    made = experiment()
    made.ledger.folder = str(bench.ledger.folder)
    execute(made, tmp_path / "done", group="")
    assert plan(read_experiment(tmp_path / "done"), load=False).id == plan(made, load=False).id
    network: Any = rescaler.load(tmp_path / "done")
    pixels = network.preprocess(next(pictures.rglob("1.png")))
    assert pixels.shape[1:] == (32, 24)
    assert network(pixels[None]).shape == (1, len(network.classes))


def test_tables_name_both_sides(make_experiment: MakeExperiment, tmp_path: Path) -> None:
    sizes: dict[str, ImageSize] = {"whole": (32, 24), "small": 20}
    for name, resize_epoch in (("whole", 0), ("small", "never"), ("resized", 1)):
        made = make_experiment(data__image_px=sizes["whole"], shrink__image_px=sizes["small"], model=RESNET)
        made.resize_epoch, made.schedule.epochs, made.schedule.milestones = resize_epoch, 2, [1]
        made.ledger.folder = str(tmp_path / "ledger")
        execute(made, tmp_path / "runs" / name, group="")
    runs = load_runs(tmp_path / "runs")
    epochs = load_epochs(runs)
    assert epochs.groupby("image_px").size().to_dict() == {20: 3, "32x24": 3}
    assert table(runs, epochs)["network"].tolist() == ["Pre-train (20×20)", "Target (32×24)", "Resized at epoch 1"]
    assert runs["variant"].str.contains(r"3->2 at 20 px").any()
