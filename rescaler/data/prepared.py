"""Read a prepared set: smaller images in a few large files, made once by ``rescaler prepare``.

Arrow's IPC files are mapped into memory: any image is found without reading another, and processes share the pages. Tar
shards (webdataset) allow no shuffle of the whole set; order and resume of litdata, streaming and ffcv are no functions
of (seed, epoch, position); HDF5 and LMDB don't like forked readers.

Each row is one image: its name in the tree, its label, and a JPEG file for each size, of which a stage reads the
smallest that suffices.
"""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import torch

from rescaler.data.decoding import Content
from rescaler.errors import InputError, listed, one_line
from rescaler.files import write_text

FORMAT = 2
"""Raised whenever files are prepared in another way; earlier formats are still read."""
SPLITS = ("train", "val")
_MANIFEST = "prepared.json"


@dataclass(frozen=True)
class Part:
    """One file of a prepared set."""

    file: str
    images: int
    size_bytes: int
    sha256: str
    left_out: Mapping[str, str]  # images that could not be read, by path below the tree, and why


@dataclass(frozen=True)
class Manifest:
    """Contents of a prepared set."""

    source: str  # fingerprint of the tree
    classes: Sequence[str]
    shorter_px: Sequence[int]  # shorter sides of the images, rising
    images: Mapping[str, int]  # in the tree by split, with those that cannot be read
    parts: Sequence[Part]  # finished files, in order
    complete: bool
    format: int = FORMAT
    others: Mapping[str, int] = field(default_factory=dict)  # files of the tree that are no images, by suffix

    @property
    def left_out(self) -> dict[str, str]:
        """Images that could not be read, by path below the tree, and why."""
        return {name: why for part in self.parts for name, why in part.left_out.items()}

    @property
    def fingerprint(self) -> str:
        """Hex digest of every image and label."""
        content = [self.format, self.classes, self.shorter_px, [part.sha256 for part in self.parts]]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def parts_of(self, split: str) -> list[Part]:
        """Finished files of one split."""
        return [part for part in self.parts if part.file.startswith(f"{split}-")]

    def write(self, folder: Path) -> None:
        """Write the manifest beside its files, in one step."""
        write_text(folder / _MANIFEST, json.dumps(dataclasses.asdict(self), indent=1))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the manifest of the set in ``folder``."""
        path = folder / _MANIFEST
        try:
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if values["format"] not in (1, FORMAT):
                raise InputError(f"{path} is of format {values['format']}, this is {FORMAT}: prepare the images anew")
            return cls(**{**values, "parts": [Part(**part) for part in values["parts"]]})
        except InputError:
            raise
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is damaged: remove {folder} and prepare the images anew") from error


def column(shorter_px: int) -> str:
    """Name of the column with the images of a size."""
    return f"jpeg_{shorter_px}"


def is_prepared(folder: Path) -> bool:
    """Whether ``folder`` holds a prepared set, finished or not, rather than a tree."""
    return (folder / _MANIFEST).exists()


class PreparedSplit:
    """One split of a prepared set; implements :class:`rescaler.data.folder.Split`."""

    def __init__(self, folder: Path, parts: Sequence[Part], shorter_px: Sequence[int]) -> None:
        self._made_of = self._folder, self._parts, self._shorter_px = folder, parts, shorter_px
        self.labels = torch.zeros(0, dtype=torch.int64)
        if parts:  # no test images in a set of a tree without val/
            self._images = pa.concat_tables(_mapped(folder / part.file, part) for part in parts)
            self.labels = torch.tensor(self._images.column("label").to_numpy())

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._made_of  # a process that is not forked maps the files itself

    def content(self, index: int, shorter_px: int) -> Content:
        """The smallest image whose shorter side has at least ``shorter_px`` pixels, or the largest."""
        size = next((size for size in self._shorter_px if size >= shorter_px), self._shorter_px[-1])
        return memoryview(self._images.column(column(size))[index].as_buffer()).cast("B")

    def where(self, index: int) -> str:
        """The file and the image's name in the tree."""
        ends = itertools.accumulate(part.images for part in self._parts)
        file = next(part.file for part, end in zip(self._parts, ends, strict=True) if index < end)
        return f"{self._images.column('name')[index].as_py()} in {self._folder / file}"


def _mapped(path: Path, part: Part) -> pa.Table:
    try:
        if path.stat().st_size != part.size_bytes:
            raise InputError(f"{path} has {path.stat().st_size} bytes, not {part.size_bytes}: run prepare again")
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"cannot read {path}: {one_line(error)}; run prepare again") from error


def read_prepared(
    folder: Path, *, classes: int | None, shorter_px: int
) -> tuple[PreparedSplit, PreparedSplit, Manifest]:
    """Open the training and test images of the prepared set in ``folder``."""
    manifest = Manifest.read(folder)
    if not manifest.complete:
        raise InputError(f"data.folder={folder} is prepared in part: run the same prepare command again to resume")
    if classes is not None and len(manifest.classes) != classes:
        raise InputError(f"data.folder={folder} has {len(manifest.classes)} classes; data.classes is {classes}")
    if manifest.shorter_px[-1] < shorter_px:
        raise InputError(
            f"data.image_px is too large for data.folder={folder}: it needs images whose shorter side has {shorter_px} "
            f"pixels, and these were prepared with {listed(map(str, manifest.shorter_px))}"
        )
    train, test = (PreparedSplit(folder, manifest.parts_of(split), manifest.shorter_px) for split in SPLITS)
    return train, test, manifest
