"""Stream images from a tree of image files or a prepared set, decoded by workers at the stage's image size."""

import functools
import itertools
import logging
import multiprocessing
import os
import signal
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from rescaler.config import DataSettings
from rescaler.data.decoding import Content, centre_crop, decode, random_crop, shorter_px
from rescaler.data.order import EVERY_IMAGE, Batch, EpochImages, sample_seeds, split_holdout
from rescaler.data.prepared import Manifest, is_prepared, read_prepared
from rescaler.data.resident import Normalise
from rescaler.data.tree import TreeSplit, check_holdout, others_text, read_tree
from rescaler.errors import InputError, one_line
from rescaler.method.size import ImageSize, height_width
from rescaler.process import leave_to_parent
from rescaler.randomness import seed_all, seeded

log = logging.getLogger(__name__)

T = TypeVar("T")
_TEST_IMAGES = 128
"""Test images that a worker decodes at a time, since it holds them in /dev/shm."""
_LOOK_S = 1.0
"""Seconds between a worker's checks that its parent is alive."""

# A slow file system wants more workers than cores.
warnings.filterwarnings("ignore", "This DataLoader will create")


class Split(Protocol):
    """Encoded images of one split; what worker processes share of it must stay small or be mapped."""

    labels: Tensor  # int64 (n,)

    def content(self, index: int, shorter_px: int) -> Content | Tensor:
        """An image file whose shorter side has at least ``shorter_px`` pixels, or the largest that there is; pixels."""

    def where(self, index: int) -> str:
        """Path of an image, for messages."""


class _Part:
    """Some images of a split."""

    def __init__(self, split: Split, indices: Tensor) -> None:
        self._split, self._indices = split, indices
        self.labels = split.labels[indices]

    def content(self, index: int, shorter_px: int) -> Content | Tensor:
        """As of :class:`Split`."""
        return self._split.content(int(self._indices[index]), shorter_px)

    def where(self, index: int) -> str:
        """As of :class:`Split`."""
        return self._split.where(int(self._indices[index]))


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
                    target.copy_(self._image(split, index, seed, image_px, flip=flip))
        except InputError as error:
            return error  # raised by the caller: a DataLoader would wrap a worker's exception into its traceback
        return pixels, split.labels[indices]

    def _image(self, split: Split, index: int, seed: int | None, image_px: ImageSize, *, flip: bool) -> Tensor:
        try:
            if seed is not None:
                seed_all(seed)
            pixels = decode(split.content(index, shorter_px(image_px)))
            if seed is None:
                return centre_crop(pixels, image_px)
            return random_crop(pixels, image_px, flip=flip)
        except OSError as error:
            raise InputError(f"cannot read the image {split.where(index)}: {error.strerror}") from error
        except (InputError, RuntimeError, MemoryError) as error:
            hint = "; `rescaler prepare` leaves such files out" if isinstance(split, TreeSplit) else ""
            raise InputError(f"cannot read the image {split.where(index)}: {one_line(error)}{hint}") from error


class _Requests(Sampler[_Request]):
    """Requests of the next pass over the loader, whose workers outlive epochs and stages."""

    requests: Iterable[_Request] = ()

    def __iter__(self) -> Iterator[_Request]:
        return iter(self.requests)


class FolderImages:
    """Images in files; implements :class:`rescaler.data.ImageData`.

    Training images are cropped at random straight to the stage's size (RandomResizedCrop) and flipped; test images are
    resized, and cropped at the centre.

    Args:
        folder: tree of image files, or a prepared set.
        settings: of the data set.
        device: of the batches.
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
            train, test = (_Part(train, part) for part in parts)
        self.train_labels = train.labels
        self.train_count, self.test_count = len(train.labels), len(test.labels)
        self._sampler = _Requests()
        self._loader: DataLoader[Any] = DataLoader(
            _Decoder(train, test, settings.channels),
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
        order = images.order(self.train_labels)
        seeds = sample_seeds(seed=images.seed, epoch=images.epoch, size=images.size)
        for_batches = zip(images.wanted(order), images.wanted(seeds), strict=True)
        image_px, flip = images.image_px, images.flip
        requests = (_Request(index.tolist(), seed.tolist(), image_px, flip) for index, seed in for_batches)
        for pixels, labels in self._decoded(requests):
            yield self._normalise(pixels), labels

    def test_batches(self, *, image_px: ImageSize, batch_size: int, share: slice = EVERY_IMAGE) -> Iterator[Batch]:
        """See :meth:`rescaler.data.ImageData.test_batches`."""
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


class Folder(NamedTuple):
    """Images of a tree or a prepared set."""

    train: Split
    test: Split
    """Empty where a hold-out takes its place."""
    classes: Sequence[str]
    fingerprint: Callable[[], str]


def open_folder(folder: Path, settings: DataSettings, *, shorter_px: int) -> Folder:
    """Open a tree of image files, a prepared set or a user's own.

    Args:
        folder: the tree or the set; of no meaning for data=custom.
        settings: ``classes``, None for any number, and ``holdout``.
        shorter_px: shorter side that images of a prepared set must have.

    Raises:
        InputError: it is neither, is incomplete, or has other classes.
    """
    if settings.name == "custom":
        from rescaler.data.custom import open_custom

        own, other, names = open_custom(settings)
        empty = _Part(own, own.labels[:0])
        return Folder(own, other or empty, names, lambda: own.fingerprint() + (other.fingerprint() if other else ""))
    if is_prepared(folder):
        train, test, fingerprint = read_prepared(folder, classes=settings.classes, shorter_px=shorter_px)
        if not len(test.labels):
            check_holdout(folder, settings.holdout)
        return Folder(train, test, Manifest.read(folder).classes, lambda: fingerprint)
    tree = read_tree(folder, classes=settings.classes, holdout=settings.holdout)
    if others := sum((Counter(split.others) for split in tree), Counter[str]()):
        _warn_once(f"data.folder={folder}: {others_text(others)}")
    return Folder(*tree, tree.train.classes, lambda: tree.fingerprint)


@functools.cache
def _warn_once(message: str) -> None:
    log.warning("%s", message)


def count_images(folder: Path, settings: DataSettings) -> int:
    """Return the training images of :func:`open_folder`, without those held out.

    Raises:
        InputError: it is neither.
    """
    labels = open_folder(folder, settings, shorter_px=0).train.labels
    return len(split_holdout(labels, settings.holdout)[0]) if settings.holdout else len(labels)


def obey_parent(*_: object) -> None:
    """End this worker by its parent's signal or end alone, not when the system ends all processes of a job.

    The parent saves then, for which it needs the workers' next batches. torch's own watchdog does not end a worker that
    hangs on a full pipe.
    """
    leave_to_parent()
    if hasattr(signal, "sigtimedwait"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(above: int) -> None:
    parent = multiprocessing.parent_process()  # not `above`, if that is a server that forks for it
    while os.getppid() == above:
        received = signal.sigtimedwait({signal.SIGTERM}, _LOOK_S)
        if received is not None and received.si_pid == (parent.pid if parent else above):
            break
    os._exit(0)


def workers_alive(loader: Iterable[T]) -> Iterator[T]:
    """Yield from a loader; raise :class:`InputError` if a worker dies."""
    try:
        yield from loader
    except RuntimeError as error:
        reason = one_line(error)
        if "worker" not in reason:
            raise
        raise InputError(
            "a process that decodes images died: too many data.workers for the memory, or /dev/shm is too small "
            f"({reason})"
        ) from error
