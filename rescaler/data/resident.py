"""Small sets, whole on the device as uint8: a batch is one gather, with no file read and no worker."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rescaler.config import DataSettings
from rescaler.data.images import EVERY_IMAGE, Batch, EpochImages
from rescaler.data.order import epoch_order, shifts_and_flips
from rescaler.data.pixels import Normalise, resize
from rescaler.errors import InputError


@dataclass(frozen=True)
class Split:
    """Square images, uint8 ``(n, channels, px, px)``, and their labels, int64 ``(n,)``; on the CPU."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class ImageSet:
    """What a reader of a small set returns."""

    train: Split
    test: Split
    classes: int


class ResidentImages:
    """A small set on the device; implements :class:`rescaler.data.ImageData`.

    Args:
        images: the set.
        settings: how to feed it: augmentation, normalisation, and the number of channels and classes, checked here.
        device: where batches are made.

    Raises:
        InputError: the settings contradict the images.
    """

    def __init__(self, images: ImageSet, settings: DataSettings, device: torch.device) -> None:
        channels = images.train.images.shape[1]
        for key, configured, found in (
            ("channels", settings.channels, channels),
            ("classes", settings.classes, images.classes),
        ):
            if configured != found:
                raise InputError(f"data.{key} must be {found}, as in {settings.name}; got {configured}")
        self._images = images
        self._settings = settings
        self._device = device
        self._normalise = Normalise(settings, device)
        self._labels = images.train.labels.to(device), images.test.labels.to(device)
        self._padded: dict[int, Tensor] = {}
        self._resized_test: dict[int, Tensor] = {}
        self.train_count = len(images.train.labels)
        self.test_count = len(images.test.labels)
        self.fingerprint = _fingerprint(images)

    def train_batches(self, images: EpochImages) -> Iterator[Batch]:
        """See :meth:`rescaler.data.ImageData.train_batches`."""
        image_px, pad_px = images.image_px, self._pad_px(images.image_px)
        # Every crop of every image, (n, channels, 2 * pad_px + 1, 2 * pad_px + 1, px, px): a view, nothing is copied.
        crops = self._padded_train(image_px).unfold(2, image_px, 1).unfold(3, image_px, 1)
        order = epoch_order(self.train_count, seed=images.seed, epoch=images.epoch, size=images.size)
        draws = order, *shifts_and_flips(pad_px, seed=images.seed, epoch=images.epoch, size=images.size)
        for_batches = [images.wanted(draw.to(self._device)) for draw in draws]
        for index, top, left, flip in zip(*for_batches, strict=True):
            pixels = crops[index, :, top, left]
            if self._settings.flip:
                pixels = torch.where(flip[:, None, None, None], pixels.flip(3), pixels)
            yield self._normalise(pixels), self._labels[0][index]

    def test_batches(self, *, image_px: int, batch_size: int, share: slice = EVERY_IMAGE) -> Iterator[Batch]:
        """See :meth:`rescaler.data.ImageData.test_batches`."""
        if image_px not in self._resized_test:
            self._resized_test[image_px] = resize(self._images.test.images, image_px).to(self._device)
        images = torch.split(self._resized_test[image_px], batch_size)
        for pixels, labels in zip(images, torch.split(self._labels[1], batch_size), strict=True):
            yield self._normalise(pixels[share]), labels[share]

    def _pad_px(self, image_px: int) -> int:
        return round(self._settings.pad_px * image_px / self._settings.image_px)

    def _padded_train(self, image_px: int) -> Tensor:
        if image_px not in self._padded:
            images, pad_px = resize(self._images.train.images, image_px), self._pad_px(image_px)
            self._padded[image_px] = (F.pad(images, [pad_px] * 4) if pad_px else images).to(self._device)
        return self._padded[image_px]


def _fingerprint(images: ImageSet) -> str:
    hasher = hashlib.sha256()
    for split in (images.train, images.test):
        for tensor in (split.images, split.labels):
            hasher.update(f"{tensor.dtype} {tuple(tensor.shape)};".encode())
            hasher.update(tensor.contiguous().numpy().data)
    return hasher.hexdigest()
