"""Data sets by name, the order of images, and small sets on the device."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rescaler.config import DataSettings
from rescaler.data import DATA_SETS, load_data, readers
from rescaler.data.order import Batch, EpochImages, class_weights, epoch_order, sample_seeds, shifts_and_flips
from rescaler.data.resident import ImageSet, Normalise, ResidentImages, Split, low_frequencies, resize
from rescaler.errors import InputError
from rescaler.method import ImageSize, height_width

CPU = torch.device("cpu")
SYNTHETIC = DataSettings(
    name="synthetic", image_px=8, classes=2, mean=[0.5], std=[0.25], train_images=20, test_images=10
)


def test_a_sweep_loads_once() -> None:
    data = load_data(SYNTHETIC, CPU)
    assert load_data(replace(SYNTHETIC), CPU) is data
    assert load_data(replace(SYNTHETIC, train_images=30), CPU).train_count == 30


@pytest.mark.parametrize("name", [name for name in DATA_SETS if name not in {"synthetic", "custom"}])
def test_every_name_has_a_loader(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "DEBIAN_FOLDER", tmp_path / "nowhere")
    occupied = tmp_path / "file"
    occupied.write_text("no folder can be here, so nothing is read or downloaded")
    settings = replace(SYNTHETIC, name=name, folder=str(occupied), channels=3, mean=[0.5] * 3, std=[0.25] * 3)
    with pytest.raises(InputError, match=str(occupied)):
        load_data(settings, CPU)


def test_names_need_no_torch() -> None:
    code = "import sys, rescaler.data; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Order and augmentation.


@pytest.mark.parametrize(("count", "size"), [(10, 7), (4, 10), (6, 6)])
def test_epochs_go_through_whole_permutations(count: int, size: int) -> None:
    stream = torch.cat([epoch_order(count, seed=0, first=epoch * size, size=size) for epoch in range(count)])
    passes = stream.view(size, count)
    other = torch.cat([epoch_order(count, seed=1, first=epoch * size, size=size) for epoch in range(count)])
    assert not torch.equal(stream, other)
    assert torch.equal(passes.sort(dim=1).values, torch.arange(count).expand(size, count))
    assert len({tuple(row) for row in passes.tolist()}) > 1


def test_balanced_weights_have_mean_one_and_make_all_classes_count_equally() -> None:
    labels = torch.tensor([0, 0, 0, 2])  # of class 1, there is no image
    assert class_weights("balanced", labels)[[0, 2]].tolist() == [2 / 3, 2]
    assert class_weights([1, 0, 3], labels).tolist() == [1, 0, 3]
    with pytest.raises(InputError, match=r"weights of classes must be above 0 for one .*; got \[0, 1, 0\]"):
        class_weights([0, 1, 0], labels)


def test_images_are_drawn_as_often_as_their_classes_weigh() -> None:
    labels = torch.tensor([0] * 90 + [1] * 10 + [2] * 50)
    epoch = EpochImages(8, seed=0, epoch=1, batches=100, batch_size=100)
    balanced, given = (
        labels[epoch._replace(sampling_weights=weights).order(labels)].bincount(minlength=3) / epoch.size
        for weights in ("balanced", [1, 3, 0])
    )
    torch.testing.assert_close(balanced, torch.full((3,), 1 / 3), atol=0.02, rtol=0)
    torch.testing.assert_close(given, torch.tensor([0.75, 0.25, 0.0]), atol=0.02, rtol=0)
    orders = [epoch._replace(sampling_weights="balanced", epoch=number).order(labels) for number in (1, 1, 2)]
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])


def test_shifts_and_flips_are_uniform_and_others_in_every_epoch() -> None:
    top, left, flip = shifts_and_flips(2, seed=0, epoch=1, size=10_000)
    for shift in (top, left):
        assert set(shift.tolist()) == {0, 1, 2, 3, 4}
        assert torch.bincount(shift).float().div(10_000).sub(0.2).abs().max() < 0.02
    assert abs(flip.float().mean() - 0.5) < 0.02
    assert not torch.equal(top, left)
    assert not torch.equal(top, shifts_and_flips(2, seed=0, epoch=2, size=10_000)[0])
    seeds = torch.cat([sample_seeds(seed=0, epoch=epoch, size=100) for epoch in (1, 2)])
    assert len(set(seeds.tolist())) == 200


def test_augmentation_is_the_same_fraction_at_every_size() -> None:
    large_top, large_left, large_flip = shifts_and_flips(7, seed=0, epoch=1, size=1000)  # 15 steps: 3 for each of 5
    small_top, small_left, small_flip = shifts_and_flips(2, seed=0, epoch=1, size=1000)
    assert torch.equal(large_top // 3, small_top)
    assert torch.equal(large_left // 3, small_left)
    assert torch.equal(large_flip, small_flip)


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10"])
def test_a_named_folder_that_is_missing_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"^data\.folder must be a folder; there is none at {tmp_path}/typo"):
        load_data(DataSettings(name=name, folder=str(tmp_path / "typo")), CPU)
    assert not (tmp_path / "typo").exists()


# Small sets on the device.

SETTINGS = DataSettings(image_px=3, classes=4, channels=1, mean=[0.0], std=[1.0], pad_px=0, flip=False)


def images(count: int, px: ImageSize = 3, channels: int = 1) -> Split:
    """Random images that know their label: it is their first pixel."""
    shape = (count, channels, *height_width(px))
    pixels = torch.randint(10, 256, shape, dtype=torch.uint8, generator=torch.Generator())
    labels = torch.arange(count) % 4
    pixels[:, 0, 0, 0] = labels.to(torch.uint8)
    return Split(pixels, labels)


def made(settings: DataSettings = SETTINGS, train: int = 8, test: int = 5) -> ResidentImages:
    px, channels = settings.image_px, settings.channels
    return ResidentImages(ImageSet(images(train, px, channels), images(test, px, channels), 4), settings, CPU)


def epoch(data: ResidentImages, image_px: int, *, batches: int, batch_size: int) -> list[Batch]:
    pad_px, flip = data.settings.pad_px, data.settings.flip
    return list(data.train_batches(EpochImages(image_px, 0, 1, batches, batch_size, pad_px=pad_px, flip=flip)))


def shifted(image: Tensor, down: int, right: int) -> Tensor:
    """Move an image over a black ground."""
    return F.pad(image, (right, -right, down, -down))


def test_without_augmentation_an_epoch_is_the_images() -> None:
    data = made()
    [(pixels, labels)] = epoch(data, 3, batches=1, batch_size=8)
    assert pixels.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert sorted(labels.tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert torch.equal((pixels[:, 0, 0, 0] * 255).round().long(), labels)
    wanted = {tuple(image) for image in images(8).images.flatten(1).tolist()}
    assert {tuple(image) for image in (pixels * 255).round().long().flatten(1).tolist()} == wanted


@pytest.mark.parametrize("channels", [1, 3])
def test_shifts_reach_every_offset_over_black(channels: int) -> None:
    settings = replace(SETTINGS, channels=channels, mean=[0.0] * channels, std=[1.0] * channels, pad_px=1)
    [original] = images(1, channels=channels).images
    options = {(down, right): shifted(original, down, right).tolist() for down in (-1, 0, 1) for right in (-1, 0, 1)}
    [(pixels, _)] = epoch(made(settings, train=1), 3, batches=1, batch_size=200)
    seen = {
        next(offset for offset, option in options.items() if option == crop)
        for crop in (pixels * 255).round().long().tolist()
    }
    assert seen == options.keys()


def test_flip_mirrors_half_of_the_images() -> None:
    [original] = images(1).images.tolist()
    mirrored = [[row[::-1] for row in channel] for channel in original]
    [(pixels, _)] = epoch(made(replace(SETTINGS, flip=True), train=1), 3, batches=1, batch_size=200)
    crops = (pixels * 255).round().long().tolist()
    assert 70 < crops.count(mirrored) < 130
    assert crops.count(mirrored) + crops.count(original) == 200


@pytest.mark.parametrize("processes", [2, 3, 5])
def test_shares_of_a_resumed_epoch_make_up_its_batches(processes: int) -> None:
    data = made(replace(SETTINGS, pad_px=1, flip=True), test=9)

    def train(share: slice, start: int = 1) -> list[Batch]:
        return list(data.train_batches(EpochImages(3, 0, 2, batches=3, batch_size=4, start=start, share=share)))

    def test(share: slice) -> list[Batch]:
        return list(data.test_batches(image_px=3, batch_size=4, share=share))

    for batches, expected in ((train, train(slice(None), start=0)[1:]), (test, test(slice(None)))):
        shares = [batches(slice(rank, None, processes)) for rank in range(processes)]
        for whole, *parts in zip(expected, *shares, strict=True):
            for kind in (0, 1):  # images, labels
                assert sum(len(part[kind]) for part in parts) == len(whole[kind])
                for rank, part in enumerate(parts):
                    assert torch.equal(part[kind], whole[kind][rank::processes])


def test_test_images_come_in_order_and_whole() -> None:
    batches = list(made().test_batches(image_px=3, batch_size=2))
    assert [len(labels) for _, labels in batches] == [2, 2, 1]
    assert torch.cat([labels for _, labels in batches]).tolist() == [0, 1, 2, 3, 0]
    assert torch.allclose(torch.cat([pixels for pixels, _ in batches]) * 255, images(5).images.float(), atol=1e-4)
    assert made().test_count == 5


def test_normalise_by_hand() -> None:
    settings = replace(SETTINGS, channels=2, mean=[0.5, 0.2], std=[0.25, 0.1])
    pixels = torch.tensor([[[[0, 255]], [[51, 102]]]], dtype=torch.uint8)
    assert torch.allclose(Normalise(settings, CPU)(pixels), torch.tensor([[[[-2.0, 2.0]], [[0.0, 2.0]]]]), atol=1e-6)


def test_resize_averages_finer_patterns_at_pixel_centres() -> None:
    assert set(resize(torch.full((3, 2, 28, 28), 77, dtype=torch.uint8), 17).flatten().tolist()) == {77}
    stripes = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    stripes[..., ::4] = 200  # without antialiasing, sampling between columns 1 and 2 of each four would miss them
    small = resize(stripes, 8)
    assert small.shape == (1, 1, 8, 8)
    assert 40 < small[..., 1:-1].float().mean() < 60
    ramp = torch.arange(0, 160, 10, dtype=torch.uint8).expand(1, 1, 16, 16)
    assert resize(ramp, 8)[0, 0, 0, 1:-1].tolist() == [25, 45, 65, 85, 105, 125], "midway between two columns"


def test_low_frequencies_are_kept_at_pixel_centres() -> None:
    assert set(low_frequencies(torch.full((3, 2, 28, 28), 77, dtype=torch.uint8), 17).flatten().tolist()) == {77}
    for side, small in ((32, 19), (28, 20), (27, 16)):
        places = (torch.arange(side) + 0.5) / side, (torch.arange(small) + 0.5) / small
        slow, expected = ((128 + 100 * torch.cos(6 * torch.pi * place)).round().to(torch.uint8) for place in places)
        found = low_frequencies(slow.expand(1, 1, side, side), small)[0, 0, 0]
        assert (found.int() - expected.int()).abs().max() <= 1
    fast = (128 + 100 * torch.cos(torch.pi * torch.arange(32))).to(torch.uint8)  # gone, not folded into others
    assert set(low_frequencies(fast.expand(1, 1, 32, 32), 19).flatten().tolist()) == {128}


def test_fingerprint_sees_every_pixel_and_label() -> None:
    def fingerprint(train: Split) -> str:
        return ResidentImages(ImageSet(train, images(5), 4), SETTINGS, CPU).fingerprint

    pixel, label = images(8), images(8)
    pixel.images[7, 0, 2, 2] ^= 1
    label.labels[7] = 0
    assert fingerprint(images(8)) == fingerprint(images(8))
    assert len({fingerprint(images(8)), fingerprint(pixel), fingerprint(label)}) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": [0.5, 0.5]}, r"data\.mean must have one value per channel \(data\.channels=1\); got \[0\.5, 0\.5\]"),
        ({"std": []}, r"data\.std must have one value per channel"),
        ({"std": [0.0]}, r"data\.std must be positive; got \[0\.0\]"),
        ({"channels": 3}, r"data\.channels must be 1, as in fashion_mnist; got 3"),
        ({"classes": 7}, r"data\.classes must be 4, as in fashion_mnist; got 7"),
    ],
)
def test_settings_that_contradict_the_images(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ResidentImages(ImageSet(images(4), images(4), 4), replace(SETTINGS, **change), CPU)


def test_an_epoch_flips_the_same_images_at_every_size() -> None:
    bright_left = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    bright_left[..., :4] = 255
    split = Split(bright_left, torch.tensor([3]))
    data = ResidentImages(ImageSet(split, split, 4), replace(SETTINGS, image_px=8, flip=True), CPU)
    flips = [
        (pixels[:, 0, 0, 0] < pixels[:, 0, 0, -1]).tolist()
        for px in (8, 4)
        for pixels, _ in epoch(data, px, batches=1, batch_size=50)
    ]
    assert flips[0] == flips[1]
    assert len(set(flips[0])) == 2


def test_shifts_scale_with_the_image() -> None:
    white = Split(torch.full((1, 1, 8, 8), 255, dtype=torch.uint8), torch.tensor([3]))
    data = ResidentImages(ImageSet(white, white, 4), replace(SETTINGS, image_px=8, pad_px=2), CPU)
    for px, most in ((8, 2), (4, 1), (16, 4)):
        [(pixels, _)] = epoch(data, px, batches=1, batch_size=200)
        assert (pixels[:, 0].amax(dim=2) == 0).sum(dim=1).max() == most
