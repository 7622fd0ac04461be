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

_CHUNK = 1024  # images resized at a time, since their float copies take memory


class Split(NamedTuple):
    """Square images, uint8 ``(n, channels, px, px)``, and their labels, int64 ``(n,)``; on the CPU."""

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


def resize(images: Tensor, image_px: int) -> Tensor:
    """Resize square uint8 images ``(n, channels, px, px)`` by antialiased bilinear interpolation.

    On the CPU, so that pixels do not depend on the device; ``images`` itself where the size is unchanged.
    """
    if images.shape[-1] == image_px:
        return images
    resized = images.new_empty((*images.shape[:2], image_px, image_px))
    for source, target in zip(torch.split(images, _CHUNK), torch.split(resized, _CHUNK), strict=True):
        target.copy_(F.interpolate(source.float(), size=(image_px, image_px), mode="bilinear", antialias=True).round_())
    return resized


def square(pixels: Tensor, image_px: int) -> Tensor:
    """Cut uint8 ``(channels, h, w)`` to all of the shorter side and the middle of the other, and :func:`resize` it."""
    side = min(pixels.shape[1:])
    top, left = ((each - side) // 2 for each in pixels.shape[1:])
    return resize(pixels[None, :, top : top + side, left : left + side], image_px)[0]


def low_frequencies(images: Tensor, image_px: int) -> Tensor:
    """Make square uint8 images ``(n, channels, px, px)`` smaller by cropping their spectrum (EfficientTrain++, 2024).

    On the CPU; samples are taken at pixel centres, as by :func:`resize`. ``images`` itself where the size is unchanged.
    """
    side = images.shape[-1]
    if side == image_px:
        return images
    resized = images.new_empty((*images.shape[:2], image_px, image_px))
    start = side // 2 - image_px // 2
    frequencies = torch.arange(image_px) - image_px // 2
    shift = (side / image_px - 1) / 2  # of the first sample, in pixels of the image
    phases = torch.exp(2j * torch.pi * frequencies * shift / side)
    for source, target in zip(torch.split(images, _CHUNK), torch.split(resized, _CHUNK), strict=True):
        spectrum = torch.fft.fftshift(torch.fft.fft2(source.float(), norm="forward"), dim=(-2, -1))
        low = spectrum[..., start : start + image_px, start : start + image_px] * phases * phases[:, None]
        pixels = torch.fft.ifft2(torch.fft.ifftshift(low, dim=(-2, -1)), norm="forward").real
        target.copy_(pixels.clamp_(0, 255).round_())
    return resized


_RESIZES: Mapping[str, Callable[[Tensor, int], Tensor]] = {"bilinear": resize, "fourier": low_frequencies}


class ResidentImages:
    """A small set on the device; implements :class:`rescaler.data.ImageData`."""

    def __init__(self, images: ImageSet, settings: DataSettings, device: torch.device) -> None:
        for key, found in (("channels", images.train.images.shape[1]), ("classes", images.classes)):
            if (got := getattr(settings, key)) != found:
                raise InputError(f"data.{key} must be {found}, as in {settings.name}; got {got}")
        if settings.holdout:
            stays, held = split_holdout(images.train.labels, settings.holdout, images.names)
            train, test = (Split(*(tensor[part] for tensor in images.train)) for part in (stays, held))
            images = images._replace(train=train, test=test)
        self._images, self.settings, self._device = images, settings, device
        self._normalise = Normalise(settings, device)
        self._labels = images.train.labels.to(device), images.test.labels.to(device)
        self._padded: dict[tuple[int, int, str], Tensor] = {}
        self._resized_test: dict[int, Tensor] = {}
        self.train_count, self.test_count = len(images.train.labels), len(images.test.labels)
        self.train_labels = images.train.labels
        self.class_names: Sequence[str] = list(images.names) or [str(number) for number in range(images.classes)]
        hasher = hashlib.sha256()
        for tensor in (*images.train, *images.test):
            hasher.update(f"{tensor.dtype} {tuple(tensor.shape)};".encode())
            hasher.update(tensor.contiguous().numpy().data)
        self.fingerprint = hasher.hexdigest()

    def train_batches(self, images: EpochImages) -> Iterator[Batch]:
        """See :meth:`rescaler.data.ImageData.train_batches`."""
        image_px = images.image_px
        pad_px = round(images.pad_px * image_px / self.settings.image_px)
        key = image_px, pad_px, images.resize
        if key not in self._padded:
            resized = _RESIZES[images.resize](self._images.train.images, image_px)
            self._padded[key] = (F.pad(resized, [pad_px] * 4) if pad_px else resized).to(self._device)
        # Every crop of every image, (n, channels, 2 * pad_px + 1, 2 * pad_px + 1, px, px): a view, nothing is copied.
        crops = self._padded[key].unfold(2, image_px, 1).unfold(3, image_px, 1)
        order = images.order(self.train_labels)
        draws = order, *shifts_and_flips(pad_px, seed=images.seed, epoch=images.epoch, size=images.size)
        for_batches = [images.wanted(draw.to(self._device)) for draw in draws]
        for index, top, left, flip in zip(*for_batches, strict=True):
            pixels = crops[index, :, top, left]
            if images.flip:
                pixels = torch.where(flip[:, None, None, None], pixels.flip(3), pixels)
            yield self._normalise(pixels), self._labels[0][index]

    def test_batches(self, *, image_px: int, batch_size: int, share: slice = EVERY_IMAGE) -> Iterator[Batch]:
        """See :meth:`rescaler.data.ImageData.test_batches`."""
        if image_px not in self._resized_test:
            self._resized_test[image_px] = resize(self._images.test.images, image_px).to(self._device)
        images = torch.split(self._resized_test[image_px], batch_size)
        for pixels, labels in zip(images, torch.split(self._labels[1], batch_size), strict=True):
            yield self._normalise(pixels[share]), labels[share]
