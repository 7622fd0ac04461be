from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rescaler.config import DataSettings
from rescaler.data.order import Batch, EpochImages
from rescaler.data.resident import ImageSet, Normalise, ResidentImages, Split, low_frequencies, resize
from rescaler.errors import InputError
from rescaler.method.size import ImageSize, height_width

CPU = torch.device("cpu")
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


def epoch(data: ResidentImages, image_px: int, *, batches: int, batch_size: int, start: int = 0) -> list[Batch]:
    return list(
        data.train_batches(
            EpochImages(
                image_px, 0, 1, batches, batch_size, start, pad_px=data.settings.pad_px, flip=data.settings.flip
            )
        )
    )


def shifted(image: Tensor, down: int, right: int) -> Tensor:
    """Move an image over a black ground, pixel by pixel."""
    result, side = torch.zeros_like(image), image.shape[-1]
    for row in range(side):
        for column in range(side):
            if 0 <= row - down < side and 0 <= column - right < side:
                result[..., row, column] = image[..., row - down, column - right]
    return result


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


def test_start_resumes_in_the_middle_of_an_epoch() -> None:
    data = made(replace(SETTINGS, pad_px=1, flip=True))
    whole = epoch(data, 3, batches=5, batch_size=3)
    rest = epoch(data, 3, batches=5, batch_size=3, start=3)
    assert len(whole) == 5
    assert len(rest) == 2
    for (pixels, labels), (rest_pixels, rest_labels) in zip(whole[3:], rest, strict=True):
        assert torch.equal(pixels, rest_pixels)
        assert torch.equal(labels, rest_labels)
    assert epoch(data, 3, batches=5, batch_size=3, start=5) == []


@pytest.mark.parametrize("processes", [2, 3, 5])
def test_shares_make_up_the_batches(processes: int) -> None:
    data = made(replace(SETTINGS, pad_px=1, flip=True), test=9)

    def train(share: slice) -> list[Batch]:
        return list(
            data.train_batches(EpochImages(image_px=3, seed=0, epoch=2, batches=3, batch_size=4, start=1, share=share))
        )

    def test(share: slice) -> list[Batch]:
        return list(data.test_batches(image_px=3, batch_size=4, share=share))

    for batches in (train, test):
        shares = [batches(slice(rank, None, processes)) for rank in range(processes)]
        for whole, *parts in zip(batches(slice(None)), *shares, strict=True):
            for kind in (0, 1):  # images, labels
                assert sum(len(part[kind]) for part in parts) == len(whole[kind])
                for rank, part in enumerate(parts):
                    assert torch.equal(part[kind], whole[kind][rank::processes])


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


def test_resize_keeps_a_constant_and_averages_finer_patterns() -> None:
    assert set(resize(torch.full((3, 2, 28, 28), 77, dtype=torch.uint8), 17).flatten().tolist()) == {77}
    stripes = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    stripes[..., ::4] = 200  # without antialiasing, sampling between columns 1 and 2 of each four would miss them
    small = resize(stripes, 8)
    assert small.shape == (1, 1, 8, 8)
    assert 40 < small[..., 1:-1].float().mean() < 60


def test_resize_is_interpolation_at_pixel_centres() -> None:
    ramp = torch.arange(0, 160, 10, dtype=torch.uint8).expand(1, 1, 16, 16)
    small = resize(ramp, 8)[0, 0, 0]
    assert small[1:-1].tolist() == [25, 45, 65, 85, 105, 125]  # a linear ramp stays one: midway between two columns


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
