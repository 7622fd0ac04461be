"""Read the small sets: Fashion-MNIST, CIFAR and a synthetic one. Downloads are kept in the folder."""

import contextlib
import gzip
import hashlib
import http.client
import io
import logging
import os
import socket
import subprocess
import tempfile
import warnings
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rescaler.config import DataSettings, require
from rescaler.data.order import generator_for
from rescaler.data.resident import ImageSet, Split, cut, resize
from rescaler.errors import InputError, one_line
from rescaler.files import writing
from rescaler.method import height_width
from rescaler.randomness import seeded

# torchvision takes seconds to import: only the functions that need it do so.

log = logging.getLogger(__name__)

_TIMEOUT_S = 20
_FAILURES = (OSError, RuntimeError, http.client.HTTPException, subprocess.SubprocessError)  # of a download

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
_DEBIAN_PACKAGE = "dataset-fashion-mnist"
_RAW = Path("FashionMNIST", "raw")
_FILES: Mapping[str, tuple[tuple[int, ...], str]] = {
    "train-images-idx3-ubyte": ((28, 28), "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
    "train-labels-idx1-ubyte": ((), "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
    "t10k-images-idx3-ubyte": ((28, 28), "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
    "t10k-labels-idx1-ubyte": ((), "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
}
"""Files of Fashion-MNIST (Xiao et al., 2017): shape of one item, SHA-256 of the published content, uncompressed."""

_GARMENTS = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"
)  # fmt: skip


def fashion_mnist(folder: Path, _: DataSettings) -> ImageSet:
    """Read Fashion-MNIST from the first source that has it.

    In this order: ``folder`` (torchvision's layout, or the files themselves); Debian's package dataset-fashion-mnist
    where it is installed; torchvision's download; Debian's package, downloaded and unpacked without root.

    Raises:
        InputError: no source has it, a file is damaged, or ``folder`` cannot be written.
    """
    found = (_files_in(place) for place in (folder / _RAW, folder, DEBIAN_FOLDER))
    files = next(filter(None, found), None) or _fetch_fashion_mnist(folder)
    log.info("Fashion-MNIST: read from %s", files["train-images-idx3-ubyte"].parent)
    splits = {}
    for part in ("train", "t10k"):
        images, labels = (_items(files, f"{part}-{name}-ubyte") for name in ("images-idx3", "labels-idx1"))
        splits[part] = Split(images.unsqueeze(1), labels.long())
    return ImageSet(splits["train"], splits["t10k"], len(_GARMENTS), _GARMENTS)


def _files_in(place: Path) -> dict[str, Path]:
    """Find the four files, compressed or not; empty where one is missing."""
    paths = (place / f"{name}{suffix}" for name in _FILES for suffix in (".gz", ""))
    found = {path.name.removesuffix(".gz"): path for path in paths if os.path.isfile(path)}  # noqa: PTH113
    return found if len(found) == len(_FILES) else {}


def _fetch_fashion_mnist(folder: Path) -> dict[str, Path]:
    failures = []
    sources = {"torchvision's download": _from_torchvision, f"Debian's package {_DEBIAN_PACKAGE}": _from_debian}
    for source, fetch in sources.items():
        log.info("Fashion-MNIST: trying %s", source)
        with _staging(folder) as temporary:
            try:
                files = _files_in(fetch(temporary))
            except _FAILURES as error:
                failures.append(f"{source} ({one_line(error)})")
                continue
            if files:
                with writing(folder / _RAW):
                    (folder / _RAW).mkdir(parents=True, exist_ok=True)
                    return {name: path.replace(folder / _RAW / path.name) for name, path in files.items()}
            failures.append(f"{source} (files missing in it)")
    raise InputError(
        f"Fashion-MNIST is neither in data.folder={folder} nor in {DEBIAN_FOLDER}, and could not be fetched by "
        f"{' or '.join(failures)}: put the four files *-ubyte.gz into the folder, or install {_DEBIAN_PACKAGE}"
    )


def _from_torchvision(temporary: Path) -> Path:
    from torchvision.datasets import FashionMNIST

    with _quiet():
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
    impatient = [f"-oAcquire::{scheme}::Timeout={_TIMEOUT_S}" for scheme in ("http", "https")]
    _run(folder, "apt-get", "-qq", "-oAcquire::Retries=0", "-oAPT::Sandbox::User=root", *impatient, *arguments)


def _run(folder: Path, *command: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip() or f"{command[0]} ended with code {done.returncode}")


def _items(files: Mapping[str, Path], name: str) -> Tensor:
    """Read an idx file of uint8 items: magic number, big-endian sizes (4 bytes each), the items."""
    path, (shape, sha256) = files[name], _FILES[name]
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is damaged ({error}): replace or remove it") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise InputError(f"{path} is damaged, or not of Fashion-MNIST (its check sum differs): replace or remove it")
    items = torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=4 * (2 + len(shape)))
    return items.reshape(-1, *shape)


def cifar(folder: Path, settings: DataSettings) -> ImageSet:
    """Read CIFAR-10 or CIFAR-100 (Krizhevsky, 2009) from torchvision's layout in ``folder``, or download it there."""
    from numpy.exceptions import VisibleDeprecationWarning
    from torchvision.datasets import CIFAR10, CIFAR100
    from torchvision.datasets.utils import check_integrity

    reader = {"cifar10": CIFAR10, "cifar100": CIFAR100}[settings.name]
    place = folder / reader.base_folder
    if not place.is_dir():
        _fetch_cifar(reader, folder)
    log.info("%s: read from %s", reader.__name__, place)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", VisibleDeprecationWarning)  # the files are pickles of an old NumPy
            read = [reader(folder, train=True), reader(folder, train=False)]
    except RuntimeError as error:  # torchvision found a wrong checksum, and does not say where
        checksums = [*reader.train_list, *reader.test_list, (reader.meta["filename"], reader.meta["md5"])]
        damaged = [place / file for file, md5 in checksums if not check_integrity(place / file, md5)]
        raise InputError(f"{damaged[0]} is missing or damaged: remove {place} to fetch it anew") from error
    except OSError as error:
        raise InputError(f"cannot read {error.filename}: {error.strerror}") from error
    train, test = (
        Split(torch.from_numpy(split.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(split.targets))
        for split in read
    )
    return ImageSet(train, test, len(read[0].classes), read[0].classes)


def _fetch_cifar(reader: Any, folder: Path) -> None:
    from torchvision.datasets.utils import check_integrity, download_and_extract_archive, extract_archive

    archive, place = folder / reader.filename, folder / reader.base_folder
    with _staging(folder) as temporary:
        if archive.is_file():
            if not check_integrity(archive, reader.tgz_md5):
                raise InputError(f"{archive} is damaged: replace or remove it")
            with writing(temporary):
                extract_archive(archive, temporary)
        else:
            log.info("%s: downloading %s", reader.__name__, reader.url)
            try:
                with _quiet():
                    download_and_extract_archive(reader.url, temporary, filename=reader.filename, md5=reader.tgz_md5)
            except _FAILURES as error:
                raise InputError(
                    f"{reader.__name__} is not in data.folder={folder}, and could not be downloaded "
                    f"({one_line(error)}): put {reader.filename} into the folder"
                ) from error
        with writing(place):
            try:
                (temporary / reader.base_folder).rename(place)
            except OSError:
                if not place.is_dir():  # else another process was first
                    raise


@contextlib.contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """Temporary folder below ``folder``, one per process; renaming the finished files is atomic."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(prefix=".download-", dir=folder)
    with temporary as path:
        yield Path(path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide torchvision's progress bars, and set the time-out that it lacks."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_S)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(before)


def folder(root: Path, settings: DataSettings) -> ImageSet:
    """Read a tree of small images, a prepared set or a user's own, each cut to the aspect ratio of ``image_px``."""
    from rescaler.data.folder import open_folder, read_pixels

    channels, image_px, splits = settings.channels, settings.image_px, []
    size = height_width(image_px)
    grey_or_rgb = channels in {1, 3} or settings.name == "custom"
    require(grey_or_rgb, "data.channels", channels, "1 (grey) or 3 (RGB) for a folder of images")
    found = open_folder(root, settings, shorter_px=max(size))
    with seeded(0):  # of no meaning but for a user's own that draws
        for split in (found.train, found.test):
            images = torch.empty((len(split.labels), channels, *size), dtype=torch.uint8)
            for number, target in enumerate(images):
                pixels = read_pixels(split, number, channels=channels, shorter_px=max(size))
                target.copy_(resize(cut(pixels, image_px)[None], image_px)[0])
            splits.append(Split(images, split.labels))
    return ImageSet(splits[0], splits[1], len(found.classes), found.classes)


def synthetic(_: Path, settings: DataSettings) -> ImageSet:
    """Make images of noise over a smooth pattern, one pattern per class; the same for the same settings."""
    shape = (settings.classes, settings.channels, 4, 4)  # coarse grids, which survive a smaller image size
    grids = torch.randn(shape, generator=generator_for(0, "synthetic", "patterns"))
    patterns = F.interpolate(grids, size=height_width(settings.image_px), mode="bicubic")
    splits = []
    for key in ("train", "test"):
        if (count := getattr(settings, f"{key}_images")) < 1:
            raise InputError(f"data.{key}_images must be at least 1 for the synthetic set; got {count}")
        labels, generator = torch.arange(count) % len(patterns), generator_for(0, "synthetic", key)
        images = torch.empty((count, *patterns.shape[1:]), dtype=torch.uint8)
        for target, classes in zip(torch.split(images, 256), torch.split(labels, 256), strict=True):
            noise = torch.randn(target.shape, generator=generator)
            target.copy_((128 + 32 * (patterns[classes] + noise)).clamp_(0, 255))
        splits.append(Split(images, labels))
    return ImageSet(splits[0], splits[1], settings.classes)
