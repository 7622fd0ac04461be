"""A tree of image files laid out as ImageNet's: one folder a class."""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torchvision.datasets import ImageFolder

from rescaler.data.images import Content
from rescaler.errors import InputError, one_line

LAYOUT = "train/<class>/*.JPEG and val/<class>/*.JPEG"
_SIZES_READ = 500
"""Files of each split whose size is part of the fingerprint."""
_PIXELS = "libjpeg-turbo, resized as tensors"
"""How files become pixels: a part of the fingerprint, as another way rounds differently."""


class TreeSplit:
    """Image files of one split; implements :class:`rescaler.data.folder.Split`.

    Args:
        root: holds one folder a class.

    Raises:
        InputError: there is no such folder, or a class without images.
    """

    def __init__(self, root: Path) -> None:
        try:
            tree = ImageFolder(root)
        except OSError as error:
            reason = error.strerror or one_line(error)
            raise InputError(f"data.folder={root.parent} must hold {LAYOUT}; {root}: {reason}") from error
        self.root = root
        self.classes: list[str] = tree.classes
        start = len(str(root)) + 1
        # In arrays, which forked workers share; a list they would copy.
        self.names = np.array([os.fsencode(path[start:]) for path, _ in tree.samples])
        self.labels = torch.tensor(tree.targets)

    def name(self, index: int) -> str:
        """Path of an image below the split's folder, as text: bytes that are no UTF-8 are escaped."""
        name: bytes = self.names[index]
        return name.decode(errors="backslashreplace")

    def where(self, index: int) -> str:
        """Path of an image."""
        return str(self.root / os.fsdecode(self.names[index]))

    def content(self, index: int, shorter_px: int) -> Content:  # noqa: ARG002
        """The file, whatever size is wanted.

        Raises:
            OSError: it cannot be read.
        """
        return Path(self.where(index)).read_bytes()


class Tree(NamedTuple):
    """Both splits."""

    train: TreeSplit
    test: TreeSplit

    @property
    def fingerprint(self) -> str:
        """Over all names and the sizes of some files: asking a network disk for 1.3 million sizes takes minutes."""
        hasher = hashlib.sha256(_PIXELS.encode())
        for split in self:
            hasher.update(f"{split.classes};{len(split.names)};".encode())
            for name in split.names:
                hasher.update(name + b"\0")
            for index in range(0, len(split.names), max(1, len(split.names) // _SIZES_READ)):
                hasher.update(f"{_size_bytes(Path(split.where(index)))};".encode())
        return hasher.hexdigest()


def _size_bytes(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:  # a link to nowhere: found out, or left out, when its turn comes
        return None


def read_tree(folder: Path, *, classes: int) -> Tree:
    """The tree in ``folder``.

    Raises:
        InputError: it is incomplete, or has other classes in one split, or another number of them.
    """
    train, test = TreeSplit(folder / "train"), TreeSplit(folder / "val")
    if len(train.classes) != classes:
        raise InputError(f"{train.root} has {len(train.classes)} classes; data.classes is {classes}")
    if train.classes != test.classes:
        odd = sorted(set(train.classes) ^ set(test.classes))
        raise InputError(f"{train.root} and {test.root} must have the same classes; only one has {', '.join(odd[:5])}")
    return Tree(train, test)
