import io
import resource
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rescaler.data.decoding import centre_crop, decode, random_crop, shorter_px
from rescaler.errors import InputError


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def coloured(width: int = 50, height: int = 40) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("options", [{"quality": 90}, {"quality": 75, "subsampling": 0}, {"progressive": True}])
def test_pixels_are_pillows(options: dict[str, Any]) -> None:
    content = encoded(coloured(), **options)
    pixels = np.asarray(Image.open(io.BytesIO(content)))
    assert torch.equal(decode(content), torch.tensor(pixels).permute(2, 0, 1))
    assert torch.equal(decode(memoryview(content)), decode(content))


def test_whatever_pillow_reads_becomes_rgb() -> None:
    png = encoded(coloured(), "PNG")
    assert torch.equal(decode(png), torch.tensor(np.asarray(coloured())).permute(2, 0, 1))
    grey = decode(encoded(coloured().convert("L")))
    assert grey.shape == (3, 40, 50)
    assert torch.equal(grey[0], grey[2])


def solid(mode: str, value: Any) -> Image.Image:
    return Image.new(mode, (6, 4), value)


@pytest.mark.parametrize(
    ("image", "colour"),
    [
        (solid("1", 1), (255, 255, 255)),
        (solid("I;16", 128 * 257), (128, 128, 128)),  # 257 = 65535 / 255
        (solid("RGBA", (200, 100, 0, 51)), (244, 224, 204)),  # a fifth of it, over four fifths of white
        (solid("LA", (0, 0)), (255, 255, 255)),
        (solid("P", 0), (0, 0, 0)),
        (solid("RGB", (10, 20, 30)).quantize(4), (10, 20, 30)),
    ],
    ids=lambda value: getattr(value, "mode", None),
)
def test_every_mode_has_its_own_range(image: Image.Image, colour: tuple[int, int, int]) -> None:
    pixels = decode(encoded(image, "PNG"))
    assert pixels.shape == (3, 4, 6)
    assert pixels[:, 1, 1].tolist() == list(colour)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_values_of_no_stated_range_are_refused(mode: str) -> None:
    with pytest.raises(InputError, match=rf"no stated range \(Pillow's mode {mode}\)"):
        decode(encoded(solid(mode, 7), "TIFF"))


def test_cmyk_becomes_rgb() -> None:
    assert (
        decode(encoded(solid("CMYK", (0, 255, 255, 0)), quality=95))[:, 1, 1] - torch.tensor([255, 0, 0])
    ).abs().max() < 5


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_images_are_turned_as_their_camera_was(kind: str) -> None:
    image, exif = coloured(), Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    expected = decode(encoded(image, kind)).rot90(-1, (1, 2))
    assert torch.equal(decode(encoded(image, kind, exif=exif)), expected)
    exif[0x0112] = 1
    assert torch.equal(decode(encoded(image, kind, exif=exif)), decode(encoded(image, kind)))


def test_a_long_and_narrow_image_takes_little_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cropped = centre_crop(torch.full((3, 1, 30_000), 7, dtype=torch.uint8), 224)
    assert (cropped == 7).all()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


@pytest.mark.parametrize(
    ("content", "message"), [(encoded(coloured())[:-50], "truncated"), (b"no image", "no image, or of no known kind")]
)
def test_a_damaged_image_is_refused_in_one_line(content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=rf"\A[^\n]*{message}[^\n]*\Z"):
        decode(content)


def test_random_crops_are_parts_of_the_image() -> None:
    """In an image whose pixels tell their column, a crop is a ramp whose ends say from where it was cut."""
    ramp = torch.arange(200, dtype=torch.uint8).expand(3, 150, 200)
    torch.manual_seed(0)
    widths, flipped = [], 0
    for _ in range(300):
        row = random_crop(ramp, 32, flip=True)[0, 16].int()
        steps = row.diff()
        assert (steps >= 0).all() or (steps <= 0).all()
        widths.append(abs(int(row[-1] - row[0])) / 31 * 32)
        flipped += int(row[-1] < row[0])
    assert 110 < flipped < 190
    # 8 to 100 % of 200x150 pixels at an aspect ratio of 3/4 to 4/3: sqrt(0.08 * 30,000 * 3/4) = 42 pixels wide or more.
    assert 40 <= min(widths) < 60
    assert 180 < max(widths) <= 201


def test_without_flip_nothing_is_mirrored() -> None:
    ramp = torch.arange(200, dtype=torch.uint8).expand(3, 150, 200)
    assert all((random_crop(ramp, 32, flip=False)[0, 16].int().diff() >= 0).all() for _ in range(20))


def test_centre_crop_of_an_image_that_has_the_size_changes_no_pixel() -> None:
    pixels = torch.randint(0, 256, (3, 32, 40), dtype=torch.uint8)
    assert shorter_px(28) == 32
    assert torch.equal(centre_crop(pixels, 28), pixels[:, 2:30, 6:34])


def test_resnet_needs_256_pixels() -> None:
    assert [shorter_px(px) for px in (224, 160)] == [256, 183]
