"""Make a prepared set of a tree of image files: once, in parallel, resumable file by file."""

import contextlib
import dataclasses
import hashlib
import io
import itertools
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional

from rescaler.data.prepared import SPLITS, Manifest, Part, column, is_prepared
from rescaler.data.tree import Tree, TreeSplit
from rescaler.data.workers import obey_parent, workers_alive
from rescaler.errors import InputError, listed, one_line
from rescaler.files import locked, replacing, sync, writing

QUALITY = 90
"""Quality of the JPEG files."""
_FILE_IMAGES = 8192
"""Images of the tree in one file: as much is lost to a kill. About half a GB."""
_BATCH_IMAGES = 256
"""Images written at a time, which are held in memory."""
_SAMPLE_IMAGES = 64
_PREFETCHED = 16
_SPARE = 1.1
"""Disk asked for, by the estimate from a sample."""

Progress = Callable[[int, int], None]
"""Is told how many images of how many are done."""


class _Piece(NamedTuple):
    """The images of the tree that go into one file."""

    file: str
    split: str
    indices: range


class _Encoded(NamedTuple):
    """One image in all sizes, or why it could not be read."""

    name: str
    label: int
    files: list[bytes]
    failure: str | None = None


class _Encoder(Dataset[_Encoded]):
    """Encodes an image of a split, in a worker or in the process itself."""

    def __init__(self, splits: Mapping[str, TreeSplit], shorter_px: Sequence[int]) -> None:
        self._splits = splits
        self._shorter_px = shorter_px

    def __getitem__(self, request: tuple[str, int]) -> _Encoded:
        name, index = request
        split = self._splits[name]
        path, label = f"{name}/{split.name(index)}", int(split.labels[index])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of odd metadata, which are not kept
                with Image.open(split.where(index)) as file:
                    image = file.convert("RGB")
        except Exception as error:  # Pillow raises many kinds for a damaged file
            return _Encoded(path, label, [], one_line(error))
        return _Encoded(path, label, [_jpeg(image, size) for size in self._shorter_px])


def _jpeg(image: Image.Image, shorter_px: int) -> bytes:
    """The image with its shorter side resized, as test images are; never enlarged."""
    if min(image.size) > shorter_px:
        image = functional.resize(image, [shorter_px], antialias=True)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


@dataclass(frozen=True)
class Preparation:
    """A tree, where its prepared set goes, and in which sizes."""

    tree: Tree
    folder: Path
    shorter_px: Sequence[int]
    """Shorter sides of the images, rising."""
    workers: int
    """Processes that read and encode; 0: this one does."""

    def estimated_bytes(self) -> int:
        """Size of the whole set, from a sample of its images."""
        total = 0
        encoder = self._encoder()
        for name, split in zip(SPLITS, self.tree, strict=True):
            count = len(split.labels)
            sample = range(0, count, max(1, count // _SAMPLE_IMAGES))
            sizes = [sum(map(len, encoder[name, index].files)) for index in sample]
            total += count * sum(sizes) // len(sizes)
        return total

    def free_bytes(self) -> int:
        """What is free on the disk where the set goes, and what the set has of it already."""
        existing = next(place for place in (self.folder, *self.folder.parents) if place.exists())
        ours = sum(path.stat().st_size for path in self.folder.glob("*.arrow"))
        return shutil.disk_usage(existing).free + ours

    def check_disk(self, estimated_bytes: int) -> None:
        """Refuse a disk that would be full before the end.

        Raises:
            InputError: it has not the estimate free, and a tenth more.
        """
        if self.free_bytes() < _SPARE * estimated_bytes:
            raise InputError(
                f"the disk of {self.folder} is too small: {_SPARE * estimated_bytes / 1e9:.1f} GB must be free (the "
                f"estimate and a tenth more), and {self.free_bytes() / 1e9:.1f} GB are: choose another --output"
            )

    def run(self, progress: Progress) -> Manifest:
        """Make what is missing of the set or damaged.

        Returns:
            The manifest of the complete set.

        Raises:
            InputError: the folder cannot be written, holds another set or is being prepared, or a split has no image
                that can be read.
        """
        with writing(self.folder), self._alone():
            manifest = self._begun()
            parts = {part.file: part for part in manifest.parts}
            pieces, missing, total, checked = list(self._pieces()), [], sum(manifest.images.values()), 0
            for piece in pieces:
                if self._whole(parts.get(piece.file)):
                    checked += len(piece.indices)
                    progress(checked, total)
                else:
                    missing.append(piece)
            encoded = _told(self._encoded(missing), checked, total, progress)
            for piece in missing:
                parts[piece.file] = self._write(piece.file, itertools.islice(encoded, len(piece.indices)))
                finished = [parts[piece.file] for piece in pieces if piece.file in parts]
                manifest = dataclasses.replace(manifest, parts=finished)
                manifest.write(self.folder)
            for name, split in zip(SPLITS, self.tree, strict=True):
                if not any(part.images for part in manifest.parts_of(name)):
                    raise InputError(f"none of the images in {split.root} can be read")
            manifest = dataclasses.replace(manifest, complete=True)
            manifest.write(self.folder)
            return manifest

    def _encoder(self) -> _Encoder:
        return _Encoder(dict(zip(SPLITS, self.tree, strict=True)), self.shorter_px)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(self.folder / ".lock"))
            except BlockingIOError:
                raise InputError(f"{self.folder} is being prepared by another process") from None
            for path in self.folder.glob(".*.arrow.*"):  # of a process that was killed
                path.unlink()
            yield

    def _begun(self) -> Manifest:
        """The manifest so far, not complete."""
        fresh = Manifest(
            source=self.tree.fingerprint,
            classes=self.tree.train.classes,
            shorter_px=list(self.shorter_px),
            images={name: len(split.labels) for name, split in zip(SPLITS, self.tree, strict=True)},
            parts=[],
            complete=False,
        )
        if not is_prepared(self.folder):
            fresh.write(self.folder)
            return fresh
        found = dataclasses.replace(Manifest.read(self.folder), complete=False)
        if dataclasses.replace(found, parts=[]) != fresh:
            raise InputError(
                f"{self.folder} holds images prepared from other files or in other sizes (theirs: "
                f"{listed(map(str, found.shorter_px))} pixels): remove it, or choose another --output"
            )
        return found

    def _pieces(self) -> Iterator[_Piece]:
        for name, split in zip(SPLITS, self.tree, strict=True):
            count = len(split.labels)
            for number, start in enumerate(range(0, count, _FILE_IMAGES)):
                indices = range(start, min(start + _FILE_IMAGES, count))
                yield _Piece(f"{name}-{number:05}.arrow", name, indices)

    def _whole(self, part: Part | None) -> bool:
        if part is None:
            return False
        path = self.folder / part.file
        return path.is_file() and _sha256(path) == part.sha256

    def _encoded(self, pieces: Sequence[_Piece]) -> Iterator[_Encoded]:
        """All images of some pieces, in order."""
        loader: DataLoader[Any] = DataLoader(
            self._encoder(),
            batch_size=None,
            sampler=((piece.split, index) for piece in pieces for index in piece.indices),
            num_workers=self.workers,
            prefetch_factor=_PREFETCHED if self.workers else None,
            worker_init_fn=obey_parent,
        )
        return workers_alive(loader)

    def _write(self, file: str, encoded: Iterator[_Encoded]) -> Part:
        images = 0
        left_out: dict[str, str] = {}
        jpegs = [(column(size), pa.binary()) for size in self.shorter_px]
        schema = pa.schema([("name", pa.string()), ("label", pa.int64()), *jpegs])
        with replacing(self.folder / file) as temporary:
            with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
                while batch := list(itertools.islice(encoded, _BATCH_IMAGES)):
                    left_out |= {image.name: image.failure for image in batch if image.failure is not None}
                    rows = [[image.name, image.label, *image.files] for image in batch if image.failure is None]
                    images += len(rows)
                    columns = [list(values) for values in zip(*rows, strict=True)] or [[]] * len(schema)
                    writer.write_batch(pa.record_batch(columns, schema=schema))
            sync(temporary)
            return Part(file, images, temporary.stat().st_size, _sha256(temporary), left_out)


def _told(encoded: Iterator[_Encoded], done: int, total: int, progress: Progress) -> Iterator[_Encoded]:
    for number, image in enumerate(encoded, start=done + 1):
        progress(number, total)
        yield image


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
