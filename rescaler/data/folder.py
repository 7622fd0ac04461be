"""ImageNet as a tree of image files, decoded by worker processes at the stage's image size."""

import functools
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import default_loader
from torchvision.transforms import v2

from rescaler.data import EVERY_IMAGE, Batch
from rescaler.data.order import epoch_order, sample_seeds
from rescaler.data.pixels import Normalise
from rescaler.errors import InputError
from rescaler.settings import DataSettings

_SIZES_READ = 500
"""Files of each split whose size is part of the fingerprint."""
_LAYOUT = "train/<class>/*.JPEG and val/<class>/*.JPEG"
_TEST_MARGIN = 256 / 224
"""Shorter side that a test image is resized to, by the side of the crop from its centre."""


class _Request(NamedTuple):
    """One batch to decode: training images with the seed of each one's augmentation, or test images without."""

    indices: list[int]
    seeds: list[int] | None
    image_px: int


class _Tree:
    """Image files of one split: names and labels in arrays, which forked workers share (a list they would copy)."""

    def __init__(self, root: Path) -> None:
        try:
            tree = ImageFolder(root)
        except OSError as error:
            raise InputError(f"data.folder={root.parent} must hold {_LAYOUT}; {root}: {_one_line(error)}") from error
        self.root = root
        self.classes: list[str] = tree.classes
        start = len(str(root)) + 1
        self.names = np.array([os.fsencode(path[start:]) for path, _ in tree.samples])
        self.labels = torch.tensor(tree.targets)

    def open(self, index: int) -> Image:
        path = self.root / os.fsdecode(self.names[index])
        try:
            image: Image = default_loader(str(path))
        except Exception as error:  # Pillow raises many kinds for a damaged file
            raise InputError(f"cannot read the image {path}: {_one_line(error)}") from error
        return image


class _Decoder(Dataset[tuple[Tensor, Tensor] | InputError]):
    """Turns a request into uint8 images and labels, in a worker or in the process itself."""

    def __init__(self, train: _Tree, test: _Tree, *, flip: bool) -> None:
        self._train = train
        self._test = test
        self._flip = flip

    def __getitem__(self, request: _Request) -> tuple[Tensor, Tensor] | InputError:
        indices, seeds, image_px = request
        pixels = torch.empty((len(indices), 3, image_px, image_px), dtype=torch.uint8)
        try:
            images = self._test_images(request) if seeds is None else self._train_images(request, seeds)
            for target, image in zip(pixels, images, strict=True):
                target.copy_(image)
        except InputError as error:
            return error  # raised by who asked: a DataLoader would wrap a worker's exception into its traceback
        return pixels, (self._test if seeds is None else self._train).labels[indices]

    def _train_images(self, request: _Request, seeds: list[int]) -> Iterator[Tensor]:
        transform = _train_transform(request.image_px, self._flip)
        with torch.random.fork_rng(devices=[]):  # without workers, this is the training process
            for index, seed in zip(request.indices, seeds, strict=True):
                image = self._train.open(index)
                torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPU as well
                yield transform(image)

    def _test_images(self, request: _Request) -> Iterator[Tensor]:
        transform = _test_transform(request.image_px)
        return (transform(self._test.open(index)) for index in request.indices)


class _Requests(Sampler[_Request]):
    """What the loader is to decode next: set before each pass, so that its workers outlive epochs and stages."""

    def __init__(self) -> None:
        self.requests: Iterable[_Request] = ()

    def __iter__(self) -> Iterator[_Request]:
        return iter(self.requests)


class FolderImages:
    """A tree of image files; implements :class:`rescaler.data.ImageData`.

    Training images are cropped at random to the stage's size straight from the file (RandomResizedCrop) and flipped;
    test images are resized, and cropped at the centre.

    Args:
        folder: holds ``train/<class>/`` and ``val/<class>/``.
        settings: classes, channels, normalisation, augmentation and number of workers.
        device: where batches are wanted.

    Raises:
        InputError: the tree is incomplete, or contradicts the settings.
    """

    def __init__(self, folder: Path, settings: DataSettings, device: torch.device) -> None:
        if settings.channels != 3:
            raise InputError(f"data.channels must be 3 for a folder of images; got {settings.channels}")
        self._normalise = Normalise(settings, device)
        self._device = device
        train, test = _Tree(folder / "train"), _Tree(folder / "val")
        _check_classes(train, test, settings.classes)
        self.train_count = len(train.labels)
        self.test_count = len(test.labels)
        self.fingerprint = _fingerprint(train, test)
        self._sampler = _Requests()
        self._loader: DataLoader[Any] = DataLoader(
            _Decoder(train, test, flip=settings.flip),
            batch_size=None,  # a request is a batch
            sampler=self._sampler,
            num_workers=settings.workers,
            persistent_workers=settings.workers > 0,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # else it draws from the training process's
        )
        self._passes = 0

    def train_batches(
        self,
        *,
        image_px: int,
        seed: int,
        epoch: int,
        batches: int,
        batch_size: int,
        start: int = 0,
        share: slice = EVERY_IMAGE,
    ) -> Iterator[Batch]:
        """See :meth:`rescaler.data.ImageData.train_batches`."""
        size = batches * batch_size
        order = epoch_order(self.train_count, seed=seed, epoch=epoch, size=size)
        draws = order, sample_seeds(seed=seed, epoch=epoch, size=size)
        indices, seeds = (draw.view(batches, batch_size)[start:, share] for draw in draws)
        return self._decoded(
            _Request(index.tolist(), seed.tolist(), image_px) for index, seed in zip(indices, seeds, strict=True)
        )

    def test_batches(self, *, image_px: int, batch_size: int, share: slice = EVERY_IMAGE) -> Iterator[Batch]:
        """See :meth:`rescaler.data.ImageData.test_batches`."""
        indices = torch.split(torch.arange(self.test_count), batch_size)
        return self._decoded(_Request(chunk[share].tolist(), None, image_px) for chunk in indices)

    def _decoded(self, requests: Iterable[_Request]) -> Iterator[Batch]:
        self._passes += 1
        current = self._passes
        self._sampler.requests = requests
        for decoded in self._batches():
            if isinstance(decoded, InputError):
                raise InputError(str(decoded))  # a new one: its traceback must not keep this frame, and so the workers
            pixels, labels = (tensor.to(self._device, non_blocking=True) for tensor in decoded)
            yield self._normalise(pixels), labels
            if self._passes != current:  # both would draw from the same workers
                raise RuntimeError("an iterator of these images was continued after a newer one was started")

    def _batches(self) -> Iterator[tuple[Tensor, Tensor] | InputError]:
        try:
            yield from self._loader
        except RuntimeError as error:
            if "worker" not in str(error):
                raise
            raise InputError(
                f"a process that decodes images died: too many data.workers for the memory, or /dev/shm is too small "
                f"({_one_line(error)})"
            ) from error


@functools.cache
def _train_transform(image_px: int, flip: bool) -> v2.Transform:
    flips = [v2.RandomHorizontalFlip()] if flip else []
    return v2.Compose([v2.RandomResizedCrop(image_px, antialias=True), *flips, v2.PILToTensor()])


@functools.cache
def _test_transform(image_px: int) -> v2.Transform:
    shorter_px = round(image_px * _TEST_MARGIN)
    return v2.Compose([v2.Resize(shorter_px, antialias=True), v2.CenterCrop(image_px), v2.PILToTensor()])


def _check_classes(train: _Tree, test: _Tree, classes: int) -> None:
    if len(train.classes) != classes:
        raise InputError(f"{train.root} has {len(train.classes)} classes; data.classes is {classes}")
    if train.classes != test.classes:
        odd = sorted(set(train.classes) ^ set(test.classes))
        raise InputError(f"{train.root} and {test.root} must have the same classes; only one has {', '.join(odd[:5])}")


def _fingerprint(train: _Tree, test: _Tree) -> str:
    """Over all names and the sizes of some files: asking a network disk for 1.3 million sizes takes minutes."""
    hasher = hashlib.sha256()
    for tree in (train, test):
        hasher.update(f"{tree.classes};{len(tree.names)};".encode())
        for name in tree.names:
            hasher.update(name + b"\0")
        for name in tree.names[:: max(1, len(tree.names) // _SIZES_READ)]:
            hasher.update(f"{(tree.root / os.fsdecode(name)).stat().st_size};".encode())
    return hasher.hexdigest()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
