"""Prepared sets: smaller images in a few large files, made once by ``rescaler prepare``, file by file and in parallel.

Arrow's IPC files are mapped into memory: any image is found without reading another, and processes share the pages. Tar
shards (webdataset) allow no shuffle of the whole set; order and resume of litdata, streaming and ffcv are no functions
of (seed, epoch, position); HDF5 and LMDB don't like forked readers.

Each row is one image: its name in the tree, its label, and a JPEG file for each size, of which a stage reads the
smallest that suffices.
"""

import dataclasses
import hashlib
import io
import itertools
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional

from rescaler.data.decoding import Content, obey_parent, open_rgb, workers_alive
from rescaler.errors import InputError, listed, one_line
from rescaler.files import locked, replacing, sync, write_text, writing

if TYPE_CHECKING:
    from rescaler.data.folder import Tree

FORMAT = 2
"""Raised whenever files are prepared in another way; earlier formats are still read."""
SPLITS = ("train", "val")
_MANIFEST = "prepared.json"
QUALITY = 90
_FILE_IMAGES = 8192  # about half a GB; a kill loses as much
_BATCH_IMAGES = 256  # written at a time, and held in memory
_SAMPLE_IMAGES = 64
_PREFETCHED = 16
_SPARE = 1.1  # disk space over the estimate from a sample

Progress = Callable[[int, int], None]
"""Called with the number of images done and of all."""
_Encoded = tuple[dict[str, Any], str]
"""Row of an image with all its sizes, and the reason if it cannot be read."""


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


class _Encoder(Dataset[_Encoded]):
    def __init__(self, tree: "Tree", shorter_px: Sequence[int]) -> None:
        self._splits, self._shorter_px = dict(zip(SPLITS, tree, strict=True)), shorter_px

    def __getitem__(self, request: tuple[str, int]) -> _Encoded:
        name, index = request
        split = self._splits[name]
        row: dict[str, Any] = {"name": f"{name}/{split.name(index)}", "label": int(split.labels[index])}
        try:
            image = open_rgb(split.content(index, 0))
            return row | {column(size): _jpeg(image, size) for size in self._shorter_px}, ""
        except Exception as error:  # Pillow raises many kinds, for damaged and for odd files
            return row, one_line(error)


def _jpeg(image: Image.Image, shorter_px: int) -> bytes:
    if min(image.size) > shorter_px:
        image = functional.resize(image, [shorter_px], antialias=True)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


@dataclass(frozen=True)
class Preparation:
    """A tree, the folder and the sizes of its prepared set."""

    tree: "Tree"
    folder: Path
    shorter_px: Sequence[int]  # shorter sides of the images, rising
    workers: int  # processes that read and encode; 0: this one does

    def estimated_bytes(self) -> int:
        """Estimate the size of the whole set from a sample of its images."""
        total, encoder = 0, _Encoder(self.tree, self.shorter_px)
        for name, count in self._counts().items():
            sample = range(0, count, max(1, count // _SAMPLE_IMAGES))
            rows = [encoder[name, index][0] for index in sample]
            sizes = sum(len(row.get(column(size), b"")) for row in rows for size in self.shorter_px)
            total += count * sizes // max(1, len(rows))
        return total

    def free_bytes(self) -> int:
        """Sum the free space on the disk and the size of the set's finished files."""
        existing = next(place for place in (self.folder, *self.folder.parents) if place.exists())
        ours = sum(path.stat().st_size for path in self.folder.glob("*.arrow"))
        return shutil.disk_usage(existing).free + ours

    def check_disk(self, estimated_bytes: int) -> None:
        """Raise :class:`InputError` if the disk has less than the estimate and a tenth free."""
        if self.free_bytes() < _SPARE * estimated_bytes:
            raise InputError(
                f"the disk of {self.folder} is too small: {_SPARE * estimated_bytes / 1e9:.1f} GB must be free (the "
                f"estimate and a tenth more), and {self.free_bytes() / 1e9:.1f} GB are: choose another --output"
            )

    def run(self, progress: Progress) -> Manifest:
        """Make the missing and the damaged files, and return the manifest of the complete set.

        Raises:
            InputError: the folder cannot be written, holds another set or is being prepared, or a split has no image.
        """
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                with locked(self.folder / ".lock"):
                    return self._run(progress)
            except BlockingIOError:
                raise InputError(f"{self.folder} is being prepared by another process") from None

    def _run(self, progress: Progress) -> Manifest:
        for path in self.folder.glob(".*.arrow.*"):  # of a process that was killed
            path.unlink()
        manifest, files = self._resumed(), self._files()
        parts = {part.file: part for part in manifest.parts if _sha256(self.folder / part.file) == part.sha256}
        missing = {file: images for file, images in files.items() if file not in parts}
        total, left = sum(manifest.images.values()), sum(map(len, missing.values()))
        if left < total:
            progress(total - left, total)
        encoded = self._encoded(itertools.chain.from_iterable(missing.values()), progress, total - left, total)
        for file, images in missing.items():
            parts[file] = self._write(file, itertools.islice(encoded, len(images)))
            manifest = dataclasses.replace(manifest, parts=[parts[each] for each in files if each in parts])
            manifest.write(self.folder)
        for name, split in zip(SPLITS, self.tree, strict=True):
            if len(split.labels) and not any(part.images for part in manifest.parts_of(name)):
                raise InputError(f"none of the images in {split.root} can be read")
        manifest = dataclasses.replace(manifest, complete=True)
        manifest.write(self.folder)
        return manifest

    def _counts(self) -> dict[str, int]:
        return {name: len(split.labels) for name, split in zip(SPLITS, self.tree, strict=True)}

    def _resumed(self) -> Manifest:
        """Read the manifest of an earlier run, or begin one."""
        fresh = Manifest(
            source=self.tree.fingerprint,
            classes=self.tree.train.classes,
            shorter_px=list(self.shorter_px),
            images=self._counts(),
            parts=[],
            complete=False,
            others=dict(sum((Counter(split.others) for split in self.tree), Counter())),
        )
        if not is_prepared(self.folder):
            fresh.write(self.folder)
            return fresh
        found = dataclasses.replace(Manifest.read(self.folder), complete=False, others=fresh.others)
        if dataclasses.replace(found, parts=[]) != fresh:
            raise InputError(
                f"{self.folder} holds images prepared from other files or in other sizes (theirs: "
                f"{listed(map(str, found.shorter_px))} pixels): remove it, or choose another --output"
            )
        return found

    def _files(self) -> dict[str, list[tuple[str, int]]]:
        """Split and index of the images of each file."""
        files: dict[str, list[tuple[str, int]]] = {}
        for name, count in self._counts().items():
            for index in range(count):
                files.setdefault(f"{name}-{index // _FILE_IMAGES:05}.arrow", []).append((name, index))
        return files

    def _encoded(self, images: Iterable[Any], progress: Progress, done: int, total: int) -> Iterator[_Encoded]:
        loader: DataLoader[Any] = DataLoader(
            _Encoder(self.tree, self.shorter_px),
            batch_size=None,
            sampler=images,
            num_workers=self.workers,
            prefetch_factor=_PREFETCHED if self.workers else None,
            worker_init_fn=obey_parent,
        )
        for number, image in enumerate(workers_alive(loader), start=done + 1):
            progress(number, total)
            yield image

    def _write(self, file: str, encoded: Iterator[_Encoded]) -> Part:
        images = 0
        left_out: dict[str, str] = {}
        jpegs = [(column(size), pa.binary()) for size in self.shorter_px]
        schema = pa.schema([("name", pa.string()), ("label", pa.int64()), *jpegs])
        with replacing(self.folder / file) as temporary:
            with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
                while batch := list(itertools.islice(encoded, _BATCH_IMAGES)):
                    left_out |= {row["name"]: reason for row, reason in batch if reason}
                    rows = [row for row, reason in batch if not reason]
                    images += len(rows)
                    writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))
            sync(temporary)
            return Part(file, images, temporary.stat().st_size, _sha256(temporary), left_out)


def _sha256(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
