"""A set of any size and resolution, for tests and benchmarks: learnable, and made in memory."""

import torch
import torch.nn.functional as F
from torch import Tensor

from rescaler.config import DataSettings
from rescaler.data.order import generator_for
from rescaler.data.resident import ImageSet, Split
from rescaler.errors import InputError

_GRID = 4
"""Side of the random grids behind the classes' patterns: coarse, so that they survive a smaller image size."""
_CHUNK = 256


def make(settings: DataSettings) -> ImageSet:
    """Images of noise over a smooth pattern, one pattern per class; the same for the same settings.

    Raises:
        InputError: a set would be empty.
    """
    for key, count in (("train_images", settings.train_images), ("test_images", settings.test_images)):
        if count < 1:
            raise InputError(f"data.{key} must be at least 1 for the synthetic set; got {count}")
    shape = (settings.classes, settings.channels, _GRID, _GRID)
    grids = torch.randn(shape, generator=generator_for(0, "synthetic", "patterns"))
    patterns = F.interpolate(grids, size=(settings.image_px, settings.image_px), mode="bicubic")
    return ImageSet(
        train=_split(patterns, settings.train_images, generator_for(0, "synthetic", "train")),
        test=_split(patterns, settings.test_images, generator_for(0, "synthetic", "test")),
        classes=settings.classes,
    )


def _split(patterns: Tensor, count: int, generator: torch.Generator) -> Split:
    labels = torch.arange(count) % len(patterns)
    images = torch.empty((count, *patterns.shape[1:]), dtype=torch.uint8)
    for target, classes in zip(torch.split(images, _CHUNK), torch.split(labels, _CHUNK), strict=True):
        noise = torch.randn(target.shape, generator=generator)
        target.copy_((128 + 32 * (patterns[classes] + noise)).clamp_(0, 255))
    return Split(images, labels)
