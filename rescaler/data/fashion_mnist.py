"""Fashion-MNIST (Xiao et al., 2017): four files in the idx format, found or fetched, checked and read."""

import gzip
import logging
import math
import os
import struct
import subprocess
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from rescaler.data.download import FAILURES, TIMEOUT_S, quiet, reason, staging
from rescaler.data.resident import ImageSet, Split
from rescaler.errors import InputError
from rescaler.files import writing

log = logging.getLogger(__name__)

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
_DEBIAN_PACKAGE = "dataset-fashion-mnist"
_RAW = Path("FashionMNIST", "raw")
_CLASSES = 10
_SHAPES: Mapping[str, tuple[int, ...]] = {
    "train-images-idx3-ubyte": (28, 28),
    "train-labels-idx1-ubyte": (),
    "t10k-images-idx3-ubyte": (28, 28),
    "t10k-labels-idx1-ubyte": (),
}
"""Files and the shape of one item in each."""

Files = Mapping[str, Path]
"""Where each file of ``_SHAPES`` is; compressed if the path ends in ``.gz``."""


def load(folder: Path) -> ImageSet:
    """Load Fashion-MNIST from the first source that has it.

    In this order: ``folder`` (torchvision's layout, or the files themselves); Debian's package dataset-fashion-mnist
    where it is installed; torchvision's download; Debian's package, downloaded and unpacked without root. What was
    downloaded is kept in ``folder``.

    Raises:
        InputError: no source has it, a file is damaged, or ``folder`` cannot be written.
    """
    for place in (folder / _RAW, folder, DEBIAN_FOLDER):
        if (files := _files_in(place)) is not None:
            log.info("Fashion-MNIST: read from %s", place)
            return _read(files)
    return _read(_fetch(folder))


def _files_in(place: Path) -> Files | None:
    found = {}
    for name in _SHAPES:
        path = next((path for path in (place / name, place / f"{name}.gz") if os.path.isfile(path)), None)  # noqa: PTH113
        if path is None:
            return None
        found[name] = path
    return found


def _fetch(folder: Path) -> Files:
    failures = []
    for source, fetch in (
        ("torchvision's download", _from_torchvision),
        (f"Debian's package {_DEBIAN_PACKAGE}", _from_debian),
    ):
        log.info("Fashion-MNIST: trying %s", source)
        with staging(folder) as temporary:
            try:
                files = _files_in(fetch(temporary))
            except FAILURES as error:
                failures.append(f"{source} ({reason(error)})")
                continue
            if files is not None:
                log.info("Fashion-MNIST: %s, kept in %s", source, folder / _RAW)
                return _keep(files, folder / _RAW)
            failures.append(f"{source} (files missing in it)")
    raise InputError(
        f"Fashion-MNIST is neither in data.folder={folder} nor in {DEBIAN_FOLDER}, and could not be fetched by "
        f"{' or '.join(failures)}: put the four files *-ubyte.gz into the folder, or install {_DEBIAN_PACKAGE}"
    )


def _keep(files: Files, raw: Path) -> Files:
    with writing(raw):
        raw.mkdir(parents=True, exist_ok=True)
        return {name: path.replace(raw / path.name) for name, path in files.items()}


def _from_torchvision(temporary: Path) -> Path:
    from torchvision.datasets import FashionMNIST

    with quiet():
        FashionMNIST(str(temporary), download=True)
    return temporary / _RAW


def _from_debian(temporary: Path) -> Path:
    try:
        _apt_get(temporary, "download", _DEBIAN_PACKAGE)
    except RuntimeError:  # apt's own lists may be missing or old: a private copy needs no root
        (temporary / "lists" / "partial").mkdir(parents=True)
        private = ("-o", f"Dir::State::lists={temporary / 'lists'}", "-o", f"Dir::Cache={temporary}")
        _apt_get(temporary, *private, "update")
        _apt_get(temporary, *private, "download", _DEBIAN_PACKAGE)
    for package in temporary.glob(f"{_DEBIAN_PACKAGE}_*.deb"):
        _run(temporary, "dpkg-deb", "-x", package.name, "unpacked")
    return temporary / "unpacked" / DEBIAN_FOLDER.relative_to("/")


def _apt_get(folder: Path, *arguments: str) -> None:
    impatient = [f"-oAcquire::{scheme}::Timeout={TIMEOUT_S}" for scheme in ("http", "https")]
    _run(folder, "apt-get", "-qq", "-oAcquire::Retries=0", "-oAPT::Sandbox::User=root", *impatient, *arguments)


def _run(folder: Path, *command: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip() or f"{command[0]} ended with code {done.returncode}")


def _read(files: Files) -> ImageSet:
    splits = {}
    for part in ("train", "t10k"):
        images, labels = (_items(files, f"{part}-{name}-ubyte") for name in ("images-idx3", "labels-idx1"))
        if len(images) != len(labels):
            path = files[f"{part}-labels-idx1-ubyte"]
            raise InputError(f"{path} has {len(labels)} labels for {len(images)} images")
        splits[part] = Split(images.unsqueeze(1), labels.long())
    return ImageSet(splits["train"], splits["t10k"], classes=_CLASSES)


def _items(files: Files, name: str) -> Tensor:
    """Read an idx file of uint8 items; torchvision, which can too, trusts its header and takes seconds to import."""
    path, shape = files[name], _SHAPES[name]
    content = _content(path)
    header_bytes = _check(content, shape, path)
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=header_bytes).reshape(-1, *shape)


def _content(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is damaged ({error}): replace or remove it") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def _check(content: bytes, shape: tuple[int, ...], path: Path) -> int:
    """Check an idx file: magic number (0, 0, 8, dimensions), big-endian sizes, the items. Where they begin."""
    header_bytes = 4 * (2 + len(shape))
    header = content[:header_bytes]
    magic = bytes([0, 0, 8, 1 + len(shape)])
    if len(header) < header_bytes or header[:4] != magic:
        raise InputError(f"{path} is damaged (not an idx file with {1 + len(shape)} dimensions): replace or remove it")
    count, *item = struct.unpack(f">{1 + len(shape)}I", header[4:])
    if tuple(item) != shape or count < 1:
        raise InputError(f"{path} must hold items of shape {shape}; its header says {count} of {tuple(item)}")
    wanted = header_bytes + count * math.prod(shape)
    if len(content) != wanted:
        raise InputError(f"{path} is damaged ({len(content)} bytes, {wanted} expected): replace or remove it")
    if not shape and max(content[header_bytes:]) >= _CLASSES:
        raise InputError(f"{path} is damaged (label {max(content[header_bytes:])}, at most 9 expected)")
    return header_bytes
