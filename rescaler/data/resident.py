"""Small sets, whole on the device as uint8: a batch is one gather, without file access or workers."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from rescaler.config import DataSettings
from rescaler.data.order import EVERY_IMAGE, Batch, EpochImages, shifts_and_flips, split_holdout
from rescaler.errors import InputError
from rescaler.method import ImageSize, height_width

_CHUNK = 1024  # images resized at a time, since their float copies take memory


class Split(NamedTuple):
    """Images, uint8 ``(n, channels, h, w)``, and their labels, int64 ``(n,)``; on the CPU."""

    images: Tensor
    labels: Tensor


class ImageSet(NamedTuple):
    """A small set in memory."""

    train: Split
    test: Split
    classes: int
    names: Sequence[str] = ()
    """Of the classes; without, they are numbers."""


class Normalise:
    """Normalise uint8 images on a device by ``data.mean`` and ``data.std``."""

    def __init__(self, settings: DataSettings, device: torch.device) -> None:
        for key, values in (("mean", settings.mean), ("std", settings.std)):
            if len(values) != settings.channels:
                rule = f"must have one value per channel (data.channels={settings.channels})"
                raise InputError(f"data.{key} {rule}; got {values}")
        if not all(value > 0 for value in settings.std):
            raise InputError(f"data.std must be positive; got {settings.std}")
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (settings.mean, settings.std))
        self._scale = (1 / (255 * std)).float().view(-1, 1, 1).to(device)
        self._shift = (-mean / std).float().view(-1, 1, 1).to(device)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Convert images, uint8 ``(n, channels, h, w)``, to normalised float32."""
        return pixels.float().mul_(self._scale).add_(self._shift)


def cut(pixels: Tensor, image_px: ImageSize) -> Tensor:
    """Cut images ``(..., h, w)`` to the middle with the aspect ratio of a size, as much as there is of it."""
    (h, w), (wanted_h, wanted_w) = pixels.shape[-2:], height_width(image_px)
    height = min(h, max(1, round(w * wanted_h / wanted_w)))
    width = min(w, max(1, round(h * wanted_w / wanted_h)))
    top, left = (h - height) // 2, (w - width) // 2
    return pixels[..., top : top + height, left : left + width]


def resize(images: Tensor, image_px: ImageSize) -> Tensor:
    """Resize uint8 images ``(n, channels, h, w)`` by antialiased bilinear interpolation.

    On the CPU, so that pixels do not depend on the device; ``images`` itself where the size is unchanged.
    """
    size = height_width(image_px)
    if images.shape[2:] == size:
        return images
    resized = images.new_empty((*images.shape[:2], *size))
    for source, target in zip(torch.split(images, _CHUNK), torch.split(resized, _CHUNK), strict=True):
        target.copy_(F.interpolate(source.float(), size=size, mode="bilinear", antialias=True).round_())
    return resized


def low_frequencies(images: Tensor, image_px: ImageSize) -> Tensor:
    """Make uint8 images ``(n, channels, h, w)`` smaller by cropping their spectrum (EfficientTrain++, 2024).

    On the CPU; samples are taken at pixel centres, as by :func:`resize`. ``images`` itself where the size is unchanged.
    """
    size, whole = height_width(image_px), images.shape[2:]
    if whole == size:
        return images
    resized = images.new_empty((*images.shape[:2], *size))
    rows, columns = (slice(start := side // 2 - px // 2, start + px) for px, side in zip(size, whole, strict=True))
    down, along = (_phases(px, side) for px, side in zip(size, whole, strict=True))
    for source, target in zip(torch.split(images, _CHUNK), torch.split(resized, _CHUNK), strict=True):
        spectrum = torch.fft.fftshift(torch.fft.fft2(source.float(), norm="forward"), dim=(-2, -1))
        low = spectrum[..., rows, columns] * along * down[:, None]
        pixels = torch.fft.ifft2(torch.fft.ifftshift(low, dim=(-2, -1)), norm="forward").real
        target.copy_(pixels.clamp_(0, 255).round_())
    return resized


def _phases(px: int, side: int) -> Tensor:
    """Factors of the low frequencies of ``side`` pixels that move samples to the centres of ``px`` pixels."""
    frequencies = torch.arange(px) - px // 2
    shift = (side / px - 1) / 2  # of the first sample, in pixels of the image
    return torch.exp(2j * torch.pi * frequencies * shift / side)


_RESIZES: Mapping[str, Callable[[Tensor, ImageSize], Tensor]] = {"bilinear": resize, "fourier": low_frequencies}


class ResidentImages:
    """A small set on the device; implements :class:`rescaler.data.order.ImageData`."""

    def __init__(self, images: ImageSet, settings: DataSettings, device: torch.device) -> None:
        for key, found in (("channels", images.train.images.shape[1]), ("classes", images.classes)):
            if (got := getattr(settings, key)) != found:
                raise InputError(f"data.{key} must be {found}, as in {settings.name}; got {got}")
        if settings.holdout:
            stays, held = split_holdout(images.train.labels, settings.holdout, images.names)
            train, test = (Split(*(tensor[part] for tensor in images.train)) for part in (stays, held))
            images = images._replace(train=train, test=test)
        self._train, self._test = (cut(split.images, settings.image_px) for split in (images.train, images.test))
        self.settings, self._device = settings, device
        self._normalise = Normalise(settings, device)
        self._labels = images.train.labels.to(device), images.test.labels.to(device)
        self._padded: dict[tuple[ImageSize, tuple[int, int], str], Tensor] = {}
        self._resized_test: dict[ImageSize, Tensor] = {}
        self.train_count, self.test_count = len(images.train.labels), len(images.test.labels)
        self.train_labels = images.train.labels
        self.class_names: Sequence[str] = list(images.names) or [str(number) for number in range(images.classes)]
        hasher = hashlib.sha256()
        for tensor in (*images.train, *images.test):
            hasher.update(f"{tensor.dtype} {tuple(tensor.shape)};".encode())
            hasher.update(tensor.contiguous().numpy().data)
        self.fingerprint = hasher.hexdigest()

    def train_batches(self, images: EpochImages) -> Iterator[Batch]:
        """See :meth:`rescaler.data.order.ImageData.train_batches`."""
        image_px = images.image_px
        size, whole = height_width(image_px), height_width(self.settings.image_px)
        down, along = (round(images.pad_px * px / side) for px, side in zip(size, whole, strict=True))
        key = image_px, (down, along), images.resize
        if key not in self._padded:
            resized = _RESIZES[images.resize](self._train, image_px)
            padding = [along, along, down, down]
            self._padded[key] = (F.pad(resized, padding) if any(padding) else resized).to(self._device)
        # Every crop of every image, (n, channels, 2 * down + 1, 2 * along + 1, h, w): a view, nothing is copied.
        crops = self._padded[key].unfold(2, size[0], 1).unfold(3, size[1], 1)
        order = images.order(self.train_labels)
        draws = order, *shifts_and_flips((down, along), seed=images.seed, epoch=images.epoch, size=images.size)
        for_batches = [images.wanted(draw.to(self._device)) for draw in draws]
        for index, top, left, flip in zip(*for_batches, strict=True):
            pixels = crops[index, :, top, left]
            if images.flip:
                pixels = torch.where(flip[:, None, None, None], pixels.flip(3), pixels)
            yield self._normalise(pixels), self._labels[0][index]

    def test_batches(self, *, image_px: ImageSize, batch_size: int, share: slice = EVERY_IMAGE) -> Iterator[Batch]:
        """See :meth:`rescaler.data.order.ImageData.test_batches`."""
        if image_px not in self._resized_test:
            self._resized_test[image_px] = resize(self._test, image_px).to(self._device)
        images = torch.split(self._resized_test[image_px], batch_size)
        for pixels, labels in zip(images, torch.split(self._labels[1], batch_size), strict=True):
            yield self._normalise(pixels[share]), labels[share]
