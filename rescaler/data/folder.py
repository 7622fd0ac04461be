"""ImageNet in files, a tree of images or a prepared set, decoded by worker processes at the stage's image size."""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from rescaler.config import DataSettings
from rescaler.data.decoding import centre_crop, decode, random_crop, shorter_px
from rescaler.data.images import EVERY_IMAGE, Batch, Content, EpochImages
from rescaler.data.order import epoch_order, sample_seeds
from rescaler.data.pixels import Normalise
from rescaler.data.prepared import Prepared, is_prepared, read_prepared
from rescaler.data.tree import Tree, TreeSplit, read_tree
from rescaler.data.workers import obey_parent, workers_alive
from rescaler.errors import InputError

_PART = 128
"""Test images that a worker decodes at a time: a batch of theirs may be large, and workers hold theirs in /dev/shm."""


class Split(Protocol):
    """Encoded images of one split; what worker processes share of it must stay small or be mapped."""

    labels: Tensor
    """int64 ``(n,)``."""

    def content(self, index: int, shorter_px: int) -> Content:
        """An image file whose shorter side has at least ``shorter_px`` pixels, or the largest that there is."""

    def where(self, index: int) -> str:
        """Where an image is, for a person."""


class _Request(NamedTuple):
    """One batch to decode: training images with the seed of each one's augmentation, or test images without."""

    indices: list[int]
    seeds: list[int] | None
    image_px: int


class _Decoder(Dataset[tuple[Tensor, Tensor] | InputError]):
    """Turns a request into uint8 images and labels, in a worker or in the process itself."""

    def __init__(self, train: Split, test: Split, *, flip: bool) -> None:
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
        with torch.random.fork_rng(devices=[]):  # without workers, this is the training process
            for index, seed in zip(request.indices, seeds, strict=True):
                pixels = _pixels(self._train, index, request.image_px)
                torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPU as well
                yield random_crop(pixels, request.image_px, flip=self._flip)

    def _test_images(self, request: _Request) -> Iterator[Tensor]:
        for index in request.indices:
            yield centre_crop(_pixels(self._test, index, request.image_px), request.image_px)


def _pixels(split: Split, index: int, image_px: int) -> Tensor:
    try:
        return decode(split.content(index, shorter_px(image_px)))
    except OSError as error:
        raise InputError(f"cannot read the image {split.where(index)}: {error.strerror}") from error
    except InputError as error:
        hint = "; `rescaler prepare` leaves such files out" if isinstance(split, TreeSplit) else ""
        raise InputError(f"cannot read the image {split.where(index)}: {error}{hint}") from error


class _Requests(Sampler[_Request]):
    """What the loader is to decode next: set before each pass, so that its workers outlive epochs and stages."""

    def __init__(self) -> None:
        self.requests: Iterable[_Request] = ()

    def __iter__(self) -> Iterator[_Request]:
        return iter(self.requests)


class FolderImages:
    """Images in files; implements :class:`rescaler.data.ImageData`.

    Training images are cropped at random straight to the stage's size (RandomResizedCrop) and flipped; test images are
    resized, and cropped at the centre.

    Args:
        folder: holds ``train/<class>/`` and ``val/<class>/``, or what ``rescaler prepare`` made of such a folder.
        settings: classes, channels, normalisation, augmentation and number of workers.
        device: where batches are wanted.

    Raises:
        InputError: the files are incomplete, or contradict the settings.
    """

    def __init__(self, folder: Path, settings: DataSettings, device: torch.device) -> None:
        if settings.channels != 3:
            raise InputError(f"data.channels must be 3 for a folder of images; got {settings.channels}")
        self._normalise = Normalise(settings, device)
        self._device = device
        images: Prepared | Tree
        if is_prepared(folder):
            images = read_prepared(folder, classes=settings.classes, shorter_px=shorter_px(settings.image_px))
        else:
            images = read_tree(folder, classes=settings.classes)
        self.train_count = len(images.train.labels)
        self.test_count = len(images.test.labels)
        self.fingerprint = images.fingerprint
        self._sampler = _Requests()
        self._loader: DataLoader[Any] = DataLoader(
            _Decoder(images.train, images.test, flip=settings.flip),
            batch_size=None,  # a request is a batch
            sampler=self._sampler,
            num_workers=settings.workers,
            worker_init_fn=obey_parent,
            persistent_workers=settings.workers > 0,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # else it draws from the training process's
        )
        self._passes = 0

    def train_batches(self, images: EpochImages) -> Iterator[Batch]:
        """See :meth:`rescaler.data.ImageData.train_batches`."""
        order = epoch_order(self.train_count, seed=images.seed, epoch=images.epoch, size=images.size)
        seeds = sample_seeds(seed=images.seed, epoch=images.epoch, size=images.size)
        for_batches = zip(images.wanted(order), images.wanted(seeds), strict=True)
        requests = (_Request(index.tolist(), seed.tolist(), images.image_px) for index, seed in for_batches)
        for pixels, labels in self._decoded(requests):
            yield self._normalise(pixels), labels

    def test_batches(self, *, image_px: int, batch_size: int, share: slice = EVERY_IMAGE) -> Iterator[Batch]:
        """See :meth:`rescaler.data.ImageData.test_batches`."""
        order = torch.arange(self.test_count)
        batches = [torch.split(indices[share], _PART) for indices in torch.split(order, batch_size)]
        decoded = self._decoded(_Request(part.tolist(), None, image_px) for parts in batches for part in parts)
        for parts in batches:
            pixels, labels = zip(*itertools.islice(decoded, len(parts)), strict=True)
            yield self._normalise(torch.cat(pixels)), torch.cat(labels)

    def _decoded(self, requests: Iterable[_Request]) -> Iterator[tuple[Tensor, Tensor]]:
        """Pixels, uint8, and labels of each request, on the device."""
        self._passes += 1
        current = self._passes
        self._sampler.requests = requests
        for decoded in workers_alive(self._loader):
            if isinstance(decoded, InputError):
                raise InputError(str(decoded))  # a new one: its traceback must not keep this frame, and so the workers
            pixels, labels = (tensor.to(self._device, non_blocking=True) for tensor in decoded)
            yield pixels, labels
            if self._passes != current:  # both would draw from the same workers
                raise RuntimeError("an iterator of these images was continued after a newer one was started")
