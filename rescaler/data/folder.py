"""Folders of images: a tree of files, one folder a class, a prepared set, or a user's own set in its place.

A tree has ``train/`` and ``val/`` as ImageNet's, or is one folder of classes alone.
"""

import contextlib
import copy
import functools
import hashlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from rescaler.config import DataSettings, require
from rescaler.data.decoding import Content, decode, grey
from rescaler.data.order import split_holdout
from rescaler.data.prepared import is_prepared, read_prepared
from rescaler.errors import InputError, listed, one_line

log = logging.getLogger(__name__)

LAYOUT = "train/<class>/*.JPEG and val/<class>/*.JPEG, or <class>/*.JPEG with data.holdout"
_SIZES_READ = 500  # files of each split whose size is part of the fingerprint
_PIXELS = "libjpeg-turbo, resized as tensors, upright, over white"  # in the fingerprint: other decoding, other pixels


class Split(Protocol):
    """Encoded images of one split; what worker processes share of it must stay small or be mapped."""

    labels: Tensor  # int64 (n,)

    def content(self, index: int, shorter_px: int) -> Content | Tensor:
        """An image file whose shorter side has at least ``shorter_px`` pixels, or the largest that there is; pixels."""

    def where(self, index: int) -> str:
        """Path of an image, for messages."""


class SomeOf:
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


def read_pixels(split: Split, index: int, *, channels: int, shorter_px: int) -> Tensor:
    """Decode an image, uint8 ``(channels, h, w)``; errors name it."""
    try:
        pixels = decode(split.content(index, shorter_px))
    except (OSError, InputError, RuntimeError, MemoryError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or one_line(error)
        raise InputError(f"cannot read the image {split.where(index)}: {reason}") from error
    return grey(pixels) if channels == 1 else pixels


class _Pictures(ImageFolder):  # type: ignore[misc]  # torchvision has no types
    """Images below a folder without hidden ones; counts other files by suffix."""

    def __init__(self, root: Path) -> None:
        self.others: Counter[str] = Counter()
        self._top = len(root.parts)
        super().__init__(root, is_valid_file=self._is_picture, allow_empty=True)

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        names = class_folders(Path(directory))
        return names, {name: number for number, name in enumerate(names)}

    def _is_picture(self, name: str) -> bool:
        path = Path(name)
        if any(part.startswith(".") for part in path.parts[self._top :]):
            return False
        is_picture = path.suffix.lower() in IMG_EXTENSIONS
        self.others[path.suffix.lower() or path.name] += not is_picture
        return is_picture


def class_folders(root: Path) -> list[str]:
    """Names of the folders in ``root``, sorted, without hidden ones and what ``rescaler prepare`` puts there."""
    return sorted(
        entry.name
        for entry in os.scandir(root)
        if entry.is_dir() and not entry.name.startswith(".") and not is_prepared(Path(entry))
    )


class TreeSplit:
    """Image files of one split below ``root``, of the tree ``folder``; a :class:`Split`."""

    def __init__(self, root: Path, folder: Path) -> None:
        try:
            if not class_folders(root):
                raise InputError(f"data.folder={folder} must hold {LAYOUT}; {root}: no folder of a class")
            tree = _Pictures(root)
        except OSError as error:
            reason = error.strerror or one_line(error)
            raise InputError(f"data.folder={folder} must hold {LAYOUT}; {root}: {reason}") from error
        filled = set(tree.targets)
        if empty := [name for name, number in tree.class_to_idx.items() if number not in filled]:
            rule = "every class must have an image (.jpg, .png ...)"
            raise InputError(f"data.folder={folder}: {rule}; {root}: none in {listed(empty)}")
        self.root, self.folder = root, folder
        self.classes: list[str] = tree.classes
        self.others = dict(+tree.others)
        """Files that are no images, by suffix."""
        start = len(str(root)) + 1
        # An array: forked workers share it, but copy a list.
        self.names = np.array([os.fsencode(path[start:]) for path, _ in tree.samples])
        self.labels = torch.tensor(tree.targets)

    def without_images(self) -> "TreeSplit":
        """Return a split of the same classes, without an image."""
        found = copy.copy(self)
        found.names, found.labels, found.others = self.names[:0], self.labels[:0], {}
        return found

    def name(self, index: int) -> str:
        """Path of an image below the split's folder; bytes that are no UTF-8 are escaped."""
        return bytes(self.names[index]).decode(errors="backslashreplace")

    def where(self, index: int) -> str:
        """Path of an image."""
        return str(self.root / os.fsdecode(self.names[index]))

    def content(self, index: int, shorter_px: int) -> Content:  # noqa: ARG002
        """The whole file."""
        return Path(self.where(index)).read_bytes()


class Tree(NamedTuple):
    """A tree of image files."""

    train: TreeSplit
    test: TreeSplit
    """Without an image where the tree has no ``val/``: a hold-out takes its place."""

    @property
    def fingerprint(self) -> str:
        """Hex digest of all names and the sizes of some files: a network disk takes minutes for 1.3 million sizes."""
        hasher = hashlib.sha256(_PIXELS.encode())
        for split in self:
            hasher.update(f"{split.classes};{len(split.names)};".encode())
            hasher.update(b"".join(name + b"\0" for name in split.names))
            for index in range(0, len(split.names), max(1, len(split.names) // _SIZES_READ)):
                size = None
                with contextlib.suppress(OSError):  # a broken link: reading the image reports it
                    size = Path(split.where(index)).stat().st_size
                hasher.update(f"{size};".encode())
        return hasher.hexdigest()


def read_tree(folder: Path, *, classes: int | None = None, holdout: float = 0.0) -> Tree:
    """List the images of a tree: ``train/<class>/`` and ``val/<class>/``, or ``<class>/`` alone with a ``holdout``.

    Raises:
        InputError: the tree is incomplete, or has another number of ``classes``.
    """
    root, test_root = folder / "train", folder / "val"
    has_test = test_root.is_dir() or not folder.is_dir()
    if not has_test and not (root.is_dir() and class_folders(root)):  # a `train` of pictures is a class
        root = folder
    train = TreeSplit(root, folder)
    if classes is not None and len(train.classes) != classes:
        raise InputError(f"{train.root} has {len(train.classes)} classes; data.classes is {classes}")
    if not has_test:
        check_holdout(folder, holdout)
        return Tree(train, train.without_images())
    test = TreeSplit(test_root, folder)
    if train.classes != test.classes:
        odd = sorted(set(train.classes) ^ set(test.classes))
        raise InputError(f"{train.root} and {test.root} must have the same classes; only one has {listed(odd, 5)}")
    return Tree(train, test)


def others_text(others: Mapping[str, int]) -> str:
    """Say how many files of each suffix are no images."""
    return "not taken for images: " + ", ".join(f"{count:,} {ending}" for ending, count in sorted(others.items()))


def check_holdout(folder: Path, holdout: float) -> None:
    """Raise unless a hold-out takes the place of the test images that ``folder`` lacks."""
    allowed = f"above 0 with data.folder={folder}, which has no val/ (such as data.holdout=0.1, or add val/<class>/)"
    require(holdout > 0, "data.holdout", holdout, allowed)


class Folder(NamedTuple):
    """Images of a tree or a prepared set."""

    train: Split
    test: Split
    """Empty where a hold-out takes its place."""
    classes: Sequence[str]
    fingerprint: Callable[[], str]


def open_folder(folder: Path, settings: DataSettings, *, shorter_px: int) -> Folder:
    """Open a tree of image files, a prepared set, whose images must have a shorter side, or a user's own set.

    Raises:
        InputError: it is none of these, is incomplete, or has other classes.
    """
    if settings.name == "custom":
        from rescaler.data.custom import open_custom

        own, other, names = open_custom(settings)
        empty = SomeOf(own, own.labels[:0])
        return Folder(own, other or empty, names, lambda: own.fingerprint() + (other.fingerprint() if other else ""))
    if is_prepared(folder):
        train, test, manifest = read_prepared(folder, classes=settings.classes, shorter_px=shorter_px)
        if not len(test.labels):
            check_holdout(folder, settings.holdout)
        return Folder(train, test, manifest.classes, lambda: manifest.fingerprint)
    tree = read_tree(folder, classes=settings.classes, holdout=settings.holdout)
    if others := sum((Counter(split.others) for split in tree), Counter[str]()):
        _warn_once(f"data.folder={folder}: {others_text(others)}")
    return Folder(*tree, tree.train.classes, lambda: tree.fingerprint)


@functools.cache
def _warn_once(message: str) -> None:
    log.warning("%s", message)


def count_images(folder: Path, settings: DataSettings) -> int:
    """Return the number of training images, without those held out."""
    labels = open_folder(folder, settings, shorter_px=0).train.labels
    return len(split_holdout(labels, settings.holdout)[0]) if settings.holdout else len(labels)
