"""Decode image files to the pixels of single samples, on the CPU.

libjpeg-turbo decodes JPEG (simplejpeg: the same pixels as Pillow's, sooner); torchvision's own decoder is nearly as
fast, but deprecated since 0.29. libjpeg's scaled DCT saves nothing: most of the time goes into the entropy code.
"""

import io
import warnings
from pathlib import Path
from typing import TypeAlias

import numpy as np
import simplejpeg
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from rescaler.config import DataSettings
from rescaler.data.resident import Normalise, cut, resize
from rescaler.errors import InputError, one_line
from rescaler.method import ImageSize, height_width

Content: TypeAlias = bytes | memoryview
"""Bytes of an image file."""
_CROP = v2.RandomResizedCrop(size=1)  # draws where to crop; the size is the caller's
_EXIF_BYTES = 2**16
_ORIENTATION = 0x0112


def shorter_px(image_px: ImageSize) -> int:
    """Shorter side of an image, of whatever aspect ratio, whose centre crop of ``image_px`` is a test image."""
    return round(max(height_width(image_px)) * 256 / 224)


def decode(content: Content | Tensor) -> Tensor:
    """Decode an image to uint8 ``(3, h, w)`` with the pixels of :func:`open_rgb`; pixels stay as they are."""
    if isinstance(content, Tensor):
        return content
    try:
        if b"Exif\0\0" not in bytes(content[:_EXIF_BYTES]) or _is_upright(content):
            return torch.from_numpy(simplejpeg.decode_jpeg(content)).permute(2, 0, 1)
    except ValueError:  # no JPEG file, or one that only a more patient reader reads
        pass
    return pixels_of(open_rgb(content))


def _is_upright(content: Content) -> bool:
    with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content)) as image:
        return bool(image.getexif().get(_ORIENTATION, 1) == 1)


def open_rgb(content: Content) -> Image.Image:
    """Open an image as RGB, turned as its EXIF orientation says, over white where it is transparent."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content)) as file:  # of odd metadata
            return to_rgb(file)
    except UnidentifiedImageError as error:
        raise InputError("no image, or of no known kind") from error
    except Exception as error:  # Pillow raises many kinds
        raise InputError(one_line(error)) from error


def to_rgb(picture: Image.Image) -> Image.Image:
    """Convert an image to RGB, as :func:`open_rgb` does."""
    image: Image.Image = ImageOps.exif_transpose(picture)
    if image.mode in ("I", "F"):
        raise InputError(f"its grey values have no stated range (Pillow's mode {image.mode})")
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image).astype(np.uint16) / 257).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def pixels_of(picture: Image.Image) -> Tensor:
    """Return the pixels of an RGB picture, uint8 ``(3, h, w)``."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def grey(pixels: Tensor) -> Tensor:
    """Return the brightness of RGB pixels, uint8 ``(1, h, w)``, as Pillow has it; of grey ones the same."""
    if len(pixels) == 1:
        return pixels
    red, green, blue = pixels.int()
    grey: Tensor = (19595 * red + 38470 * green + 7471 * blue + 2**15) >> 16
    return grey.to(torch.uint8)[None]


def random_crop(pixels: Tensor, image_px: ImageSize, *, flip: bool) -> Tensor:
    """Crop 8 to 100 % of an image, resize it to ``image_px``, flip half of them; draws from torch's generator."""
    part = _CROP.make_params([pixels])
    cropped: Tensor = functional.resized_crop(pixels, **part, size=list(height_width(image_px)), antialias=True)
    return cropped.flip(-1) if flip and torch.rand(()) < 0.5 else cropped


def centre_crop(pixels: Tensor, image_px: ImageSize) -> Tensor:
    """Crop the middle of an image, uint8 ``(3, h, w)``, after a resize to 256/224 of that, or more of one side."""
    size = height_width(image_px)
    least_h, least_w = map(shorter_px, size)
    scale = min(pixels.shape[1] / least_h, pixels.shape[2] / least_w)
    if scale < 1:  # enlarged whole, a long and narrow image would fill the memory
        most = (max(1, round(4 * scale * least)) for least in (least_h, least_w))
        pixels = functional.center_crop(pixels, list(map(min, pixels.shape[1:], most)))
    h, w = pixels.shape[1:]
    enough = [max(least_h, least_w * h // w), max(least_w, least_h * w // h)]
    resized = functional.resize(pixels, enough, antialias=True)
    cropped: Tensor = functional.center_crop(resized, list(size))
    return cropped


def preprocess(
    picture: "str | Path | Image.Image", settings: DataSettings, image_px: ImageSize, *, cropped: bool
) -> Tensor:
    """Turn a picture, a path or Pillow's image, into a network's input as test images are.

    Args:
        picture: decoded, resized, cropped and normalised here.
        settings: channels, mean, standard deviation and the target's image size.
        image_px: size of the network's images.
        cropped: the middle of a picture, 224/256 of its shorter side, as of ImageNet's; else as much as has the aspect
            ratio of ``settings.image_px``, the target's.

    Returns:
        Normalised float32 tensor ``(channels, h, w)``, on the CPU.
    """
    if settings.channels not in (1, 3):
        raise InputError(f"pictures have 1 or 3 channels; the network takes {settings.channels}")
    if isinstance(picture, Image.Image):
        pixels = pixels_of(to_rgb(picture))
    else:
        try:
            pixels = decode(Path(picture).read_bytes())
        except OSError as error:
            raise InputError(f"cannot read the picture {picture}: {error.strerror}") from error
        except (InputError, RuntimeError) as error:
            raise InputError(f"cannot read the picture {picture}: {one_line(error)}") from error
    if settings.channels == 1:
        pixels = grey(pixels)
    shown = centre_crop(pixels, image_px) if cropped else resize(cut(pixels, settings.image_px)[None], image_px)[0]
    return Normalise(settings, torch.device("cpu"))(shown)
