"""Stream images from files, decoded by worker processes at the stage's image size."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from rescaler.config import DataSettings
from rescaler.data.decoding import centre_crop, random_crop, shorter_px
from rescaler.data.folder import SomeOf, Split, TreeSplit, open_folder, read_pixels
from rescaler.data.order import EVERY_IMAGE, Batch, EpochImages, sample_seeds, split_holdout
from rescaler.data.resident import Normalise
from rescaler.data.workers import worker_loader, workers_alive
from rescaler.errors import InputError, one_line
from rescaler.method import ImageSize, height_width
from rescaler.randomness import seed_all, seeded

_HINT = "; `rescaler prepare` leaves such files out"
_TEST_IMAGES = 128
"""Test images that a worker decodes at a time, since it holds them in /dev/shm."""


class _Request(NamedTuple):
    """Batch to decode: training images and the seed of each one's augmentation, or test images without seeds."""

    indices: list[int]
    seeds: list[int] | None
    image_px: ImageSize
    flip: bool = False


class _Decoder(Dataset[tuple[Tensor, Tensor] | InputError]):
    def __init__(self, train: Split, test: Split, channels: int) -> None:
        self._train, self._test, self._channels = train, test, channels

    def __getitem__(self, request: _Request) -> tuple[Tensor, Tensor] | InputError:
        indices, seeds, image_px, flip = request
        split = self._test if seeds is None else self._train
        pixels = torch.empty((len(indices), self._channels, *height_width(image_px)), dtype=torch.uint8)
        try:
            with seeded(0):  # restores the generators; once per batch, as it takes time
                for target, index, seed in zip(pixels, indices, seeds or itertools.repeat(None), strict=False):
                    if seed is not None:
                        seed_all(seed)
                    image = read_pixels(split, index, channels=self._channels, shorter_px=shorter_px(image_px))
                    crop = centre_crop(image, image_px) if seed is None else random_crop(image, image_px, flip=flip)
                    target.copy_(crop)
        except InputError as error:  # raised by the caller: a DataLoader would wrap it into its traceback
            return InputError(f"{error}{_HINT if isinstance(split, TreeSplit) else ''}")
        except (RuntimeError, MemoryError) as error:  # of a crop, for which there is too little memory
            return InputError(f"cannot read the image {split.where(index)}: {one_line(error)}")
        return pixels, split.labels[indices]


class _Requests(Sampler[_Request]):
    """Requests of the next pass over the loader, whose workers outlive epochs and stages."""

    requests: Iterable[_Request] = ()

    def __iter__(self) -> Iterator[_Request]:
        return iter(self.requests)


class FolderImages:
    """Images in files; implements :class:`rescaler.data.order.ImageData`.

    Training images are cropped at random straight to the stage's size (RandomResizedCrop) and flipped; test images are
    resized, and cropped at the centre.
    """

    def __init__(self, folder: Path, settings: DataSettings, device: torch.device) -> None:
        if settings.channels != 3 and settings.name != "custom":
            rule = "must be 3 for a folder of images, or 1 with data.in_memory=true"
            raise InputError(f"data.channels {rule}; got {settings.channels}")
        self._normalise, self._device = Normalise(settings, device), device
        images = open_folder(folder, settings, shorter_px=shorter_px(settings.image_px))
        self.class_names: Sequence[str] = images.classes
        self.fingerprint = images.fingerprint()
        train, test = images.train, images.test
        if settings.holdout:
            parts = split_holdout(train.labels, settings.holdout, images.classes)
            train, test = (SomeOf(train, part) for part in parts)
        self.train_labels = train.labels
        self.train_count, self.test_count = len(train.labels), len(test.labels)
        self._sampler = _Requests()
        self._loader = worker_loader(
            _Decoder(train, test, settings.channels),
            self._sampler,
            workers=settings.workers,
            persistent_workers=settings.workers > 0,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # else it draws from the training process's
        )
        self._passes = 0

    def train_batches(self, images: EpochImages) -> Iterator[Batch]:
        """See :meth:`rescaler.data.order.ImageData.train_batches`."""
        order = images.order(self.train_labels)
        seeds = sample_seeds(seed=images.seed, epoch=images.epoch, size=images.size)
        for_batches = zip(images.wanted(order), images.wanted(seeds), strict=True)
        image_px, flip = images.image_px, images.flip
        requests = (_Request(index.tolist(), seed.tolist(), image_px, flip) for index, seed in for_batches)
        for pixels, labels in self._decoded(requests):
            yield self._normalise(pixels), labels

    def test_batches(self, *, image_px: ImageSize, batch_size: int, share: slice = EVERY_IMAGE) -> Iterator[Batch]:
        """See :meth:`rescaler.data.order.ImageData.test_batches`."""
        order = torch.arange(self.test_count)
        batches = [torch.split(indices[share], _TEST_IMAGES) for indices in torch.split(order, batch_size)]
        decoded = self._decoded(_Request(part.tolist(), None, image_px) for parts in batches for part in parts)
        for parts in batches:
            pixels, labels = zip(*itertools.islice(decoded, len(parts)), strict=True)
            yield self._normalise(torch.cat(pixels)), torch.cat(labels)

    def _decoded(self, requests: Iterable[_Request]) -> Iterator[tuple[Tensor, Tensor]]:
        self._passes += 1
        current, self._sampler.requests = self._passes, requests
        for decoded in workers_alive(self._loader):
            if isinstance(decoded, InputError):
                raise InputError(str(decoded))  # a new one: its traceback must not keep this frame, and so the workers
            pixels, labels = (tensor.to(self._device, non_blocking=True) for tensor in decoded)
            yield pixels, labels
            if self._passes != current:  # both would draw from the same workers
                raise RuntimeError("an iterator of these images was continued after a newer one was started")
