"""Make a prepared set of a tree of image files, in parallel and resumable file by file."""

import dataclasses
import hashlib
import io
import itertools
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional

from rescaler.data.decoding import open_rgb
from rescaler.data.folder import Tree
from rescaler.data.prepared import SPLITS, Manifest, Part, column, is_prepared
from rescaler.data.workers import worker_loader, workers_alive
from rescaler.errors import InputError, listed, one_line
from rescaler.files import locked, replacing, sync, writing

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


class _Encoder(Dataset[_Encoded]):
    def __init__(self, tree: Tree, shorter_px: Sequence[int]) -> None:
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

    tree: Tree
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
        """Make the missing and the damaged files, and return the manifest of the complete set."""
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
        prefetched = _PREFETCHED if self.workers else None
        encoder = _Encoder(self.tree, self.shorter_px)
        loader = worker_loader(encoder, images, workers=self.workers, prefetch_factor=prefetched)
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
