"""From the bytes of an image file to the pixels of one sample, on the CPU.

libjpeg-turbo decodes (simplejpeg: the same pixels as Pillow's, sooner), torchvision crops and resizes tensors.
torchvision's own decoder is nearly as fast, but deprecated since 0.29. Decoding straight to a fraction of the size,
libjpeg's scaled DCT, saves nothing: most of the time goes into the entropy code, and only few sizes have vector
instructions.
"""

import io

import numpy as np
import simplejpeg
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from rescaler.data.images import Content
from rescaler.errors import InputError, one_line

_CROP = v2.RandomResizedCrop(size=1)  # draws where to crop; the size is the caller's
_TEST_MARGIN = 256 / 224


def shorter_px(image_px: int) -> int:
    """Shorter side of an image from which test images of ``image_px`` are cropped at the centre."""
    return round(image_px * _TEST_MARGIN)


def decode(content: Content) -> Tensor:
    """Pixels of an image, uint8 ``(3, h, w)``; its memory is channels last.

    Raises:
        InputError: it is no image, or a damaged one; in one line.
    """
    try:
        pixels = simplejpeg.decode_jpeg(content)
    except ValueError:  # no JPEG file, or one that only a more patient reader reads
        try:
            with Image.open(io.BytesIO(content)) as image:
                pixels = np.array(image.convert("RGB"))
        except UnidentifiedImageError as error:
            raise InputError("no image, or of no known kind") from error
        except Exception as error:  # Pillow raises many kinds
            raise InputError(one_line(error)) from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def random_crop(pixels: Tensor, image_px: int, *, flip: bool) -> Tensor:
    """A part of 8 to 100 % of the image, resized to ``image_px`` squared and flipped or not: torch's generator decides.

    Args:
        pixels: uint8 ``(3, h, w)``.
        image_px: side of the result.
        flip: flip half of the images.
    """
    part = _CROP.make_params([pixels])
    cropped: Tensor = functional.resized_crop(pixels, **part, size=[image_px, image_px], antialias=True)
    return cropped.flip(-1) if flip and torch.rand(()) < 0.5 else cropped


def centre_crop(pixels: Tensor, image_px: int) -> Tensor:
    """The middle of the image, uint8 ``(3, image_px, image_px)``, after a resize of the shorter side."""
    resized = functional.resize(pixels, [shorter_px(image_px)], antialias=True)
    cropped: Tensor = functional.center_crop(resized, [image_px, image_px])
    return cropped
