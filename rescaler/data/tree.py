"""A tree of image files laid out as ImageNet's: one folder a class."""

import contextlib
import hashlib
import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from rescaler.data.decoding import Content
from rescaler.errors import InputError, one_line

LAYOUT = "train/<class>/*.JPEG and val/<class>/*.JPEG"
_SIZES_READ = 500  # files of each split whose size is part of the fingerprint
_PIXELS = "libjpeg-turbo, resized as tensors, upright, over white"  # in the fingerprint: other decoding, other pixels


class _Pictures(ImageFolder):  # type: ignore[misc]  # torchvision has no types
    """Images below a folder without hidden ones; counts other files by suffix."""

    def __init__(self, root: Path) -> None:
        self.others: Counter[str] = Counter()
        self._top = len(root.parts)
        super().__init__(root, is_valid_file=self._is_picture)

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        names = [name for name in super().find_classes(directory)[0] if not name.startswith(".")]
        return names, {name: number for number, name in enumerate(names)}

    def _is_picture(self, name: str) -> bool:
        path = Path(name)
        if any(part.startswith(".") for part in path.parts[self._top :]):
            return False
        is_picture = path.suffix.lower() in IMG_EXTENSIONS
        self.others[path.suffix.lower() or path.name] += not is_picture
        return is_picture


class TreeSplit:
    """Image files of one split, one folder a class; implements :class:`rescaler.data.folder.Split`."""

    def __init__(self, root: Path) -> None:
        try:
            tree = _Pictures(root)
        except OSError as error:
            reason = error.strerror or one_line(error)
            raise InputError(f"data.folder={root.parent} must hold {LAYOUT}; {root}: {reason}") from error
        self.root = root
        self.classes: list[str] = tree.classes
        self.others = dict(+tree.others)
        """Files that are no images, by suffix."""
        start = len(str(root)) + 1
        # An array: forked workers share it, but copy a list.
        self.names = np.array([os.fsencode(path[start:]) for path, _ in tree.samples])
        self.labels = torch.tensor(tree.targets)

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
    """A tree of image files laid out as ImageNet's."""

    train: TreeSplit
    test: TreeSplit

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


def read_tree(folder: Path, *, classes: int) -> Tree:
    """List the images of a tree; raise :class:`InputError` if it is incomplete or has other classes."""
    train, test = TreeSplit(folder / "train"), TreeSplit(folder / "val")
    if len(train.classes) != classes:
        raise InputError(f"{train.root} has {len(train.classes)} classes; data.classes is {classes}")
    if train.classes != test.classes:
        odd = sorted(set(train.classes) ^ set(test.classes))
        raise InputError(f"{train.root} and {test.root} must have the same classes; only one has {', '.join(odd[:5])}")
    return Tree(train, test)
