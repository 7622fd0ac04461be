"""Data sets: where they come from, and how their images reach the network.

Small sets live on the device (:mod:`rescaler.data.resident`); ImageNet streams from a folder of image files, or from
a prepared set (:mod:`rescaler.data.folder`). Torch is imported when a set is loaded, so that names can be checked
without it.
"""

import dataclasses
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from rescaler.errors import InputError
from rescaler.settings import DataSettings

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from rescaler.data.resident import ImageSet

Batch: TypeAlias = "tuple[Tensor, Tensor]"
"""Images, normalised, float32 ``(n, channels, px, px)``, and labels, int64 ``(n,)``; both on the device."""

Content: TypeAlias = "bytes | memoryview"
"""Of an image file."""

EVERY_IMAGE = slice(None)
"""The share of a process that has its batches to itself."""

DATA_SETS = ("fashion_mnist", "cifar10", "cifar100", "imagenet", "synthetic")


class EpochImages(NamedTuple):
    """Training images of one epoch: which are wanted, and at what size."""

    image_px: int
    """Their side."""
    seed: int
    """The run's."""
    epoch: int
    """Its number, from 1."""
    batches: int
    """Mini-batches in every epoch."""
    batch_size: int
    """Images in every mini-batch."""
    start: int = 0
    """First batch wanted: the same as in the whole epoch, without replaying those before it."""
    share: slice = EVERY_IMAGE
    """Which images of each batch are wanted, where processes share it: process r of n takes ``slice(r, None, n)``. They
    are what they would be in the whole batch; no other is read."""

    @property
    def size(self) -> int:
        """Images in the whole epoch."""
        return self.batches * self.batch_size

    def wanted(self, draws: "Tensor") -> "Tensor":
        """Of what was drawn for each image of the epoch, ``(size,)``, the wanted: ``(batches, images)``."""
        return draws.view(self.batches, self.batch_size)[self.start :, self.share]


class ImageData(Protocol):
    """A training set and a test set, fed at any image size.

    What an iterator yields follows from its arguments alone, whatever the device or the number of workers. One iterator
    of an object is in use at a time.
    """

    @property
    def train_count(self) -> int:
        """Images in the training set."""

    @property
    def test_count(self) -> int:
        """Images in the test set."""

    @property
    def fingerprint(self) -> str:
        """Hex digest of what the set holds; the settings that say how it is fed are not in it."""

    def train_batches(self, images: EpochImages) -> Iterator[Batch]:
        """Batches ``start .. batches - 1`` of an epoch: shuffled without replacement across epochs, augmented."""

    def test_batches(self, *, image_px: int, batch_size: int, share: slice = EVERY_IMAGE) -> Iterator[Batch]:
        """The test set in order; the last batch may be short, and a ``share`` of it, as in training, empty."""


def streams_from_files(settings: DataSettings) -> bool:
    """Whether images are decoded while a run trains; else the whole set is on the device."""
    return settings.name == "imagenet"


def image_folder(settings: DataSettings) -> Path:
    """Where the images are or belong, as an absolute path."""
    return Path(settings.folder or "data").expanduser().absolute()


def load_data(settings: DataSettings, device: "torch.device") -> ImageData:
    """Load a data set; once per process for the same settings and device.

    Raises:
        InputError: the name is unknown, the files are missing or damaged, or they contradict the settings.
    """
    if settings.name not in DATA_SETS:
        raise InputError(f"data.name must be one of {', '.join(DATA_SETS)}; got {settings.name!r}")
    resolved = dataclasses.replace(settings, folder=str(image_folder(settings)))
    return _load(json.dumps(dataclasses.asdict(resolved)), str(device))


@functools.lru_cache(maxsize=1)  # the runs of a sweep share one set; more would only fill the memory
def _load(settings_json: str, device_name: str) -> ImageData:
    import torch

    settings, device = DataSettings(**json.loads(settings_json)), torch.device(device_name)
    folder = image_folder(settings)
    if streams_from_files(settings):
        from rescaler.data.folder import FolderImages

        return FolderImages(folder, settings, device)
    from rescaler.data.resident import ResidentImages

    return ResidentImages(_read(settings, folder), settings, device)


def _read(settings: DataSettings, folder: Path) -> "ImageSet":
    # torchvision, which CIFAR's needs, takes seconds to import.
    if settings.name == "synthetic":
        from rescaler.data import synthetic

        return synthetic.make(settings)
    if settings.name == "fashion_mnist":
        from rescaler.data import fashion_mnist

        return fashion_mnist.load(folder)
    from rescaler.data import cifar

    return cifar.load(folder, settings.name)
