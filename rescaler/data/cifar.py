"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009), read and downloaded by torchvision."""

import logging
import warnings
from pathlib import Path

import torch
from numpy.exceptions import VisibleDeprecationWarning
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import check_integrity, download_and_extract_archive, extract_archive

from rescaler.data.download import FAILURES, quiet, reason, staging
from rescaler.data.resident import ImageSet, Split
from rescaler.errors import InputError
from rescaler.files import writing

log = logging.getLogger(__name__)

_READERS: dict[str, type[CIFAR10]] = {"cifar10": CIFAR10, "cifar100": CIFAR100}


def load(folder: Path, name: str) -> ImageSet:
    """Load ``cifar10`` or ``cifar100`` from torchvision's layout in ``folder``, where a download puts it.

    Raises:
        InputError: there is none and it could not be downloaded, a file is damaged, or ``folder`` cannot be written.
    """
    reader = _READERS[name]
    if not (folder / reader.base_folder).is_dir():
        _fetch(reader, folder)
    log.info("%s: read from %s", reader.__name__, folder / reader.base_folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", VisibleDeprecationWarning)  # the files are pickles of an old NumPy
            train, test = reader(folder, train=True), reader(folder, train=False)
    except RuntimeError as error:  # torchvision found a wrong checksum, and does not say where
        checksums = [*reader.train_list, *reader.test_list, (reader.meta["filename"], reader.meta["md5"])]
        paths = [folder / reader.base_folder / file for file, md5 in checksums]
        damaged = [path for path, (_, md5) in zip(paths, checksums, strict=True) if not check_integrity(path, md5)]
        raise InputError(f"{damaged[0]} is missing or damaged: remove {paths[0].parent} to fetch it anew") from error
    except OSError as error:
        raise InputError(f"cannot read {error.filename}: {error.strerror}") from error
    return ImageSet(_split(train), _split(test), classes=len(train.classes))


def _split(read: CIFAR10) -> Split:
    return Split(torch.from_numpy(read.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(read.targets))


def _fetch(reader: type[CIFAR10], folder: Path) -> None:
    archive = folder / reader.filename
    with staging(folder) as temporary:
        if archive.is_file():
            if not check_integrity(archive, reader.tgz_md5):
                raise InputError(f"{archive} is damaged: replace or remove it")
            with writing(temporary):
                extract_archive(archive, temporary)
        else:
            log.info("%s: downloading %s", reader.__name__, reader.url)
            try:
                with quiet():
                    download_and_extract_archive(reader.url, temporary, filename=reader.filename, md5=reader.tgz_md5)
            except FAILURES as error:
                raise InputError(
                    f"{reader.__name__} is not in data.folder={folder}, and could not be downloaded "
                    f"({reason(error)}): put {reader.filename} into the folder"
                ) from error
        place = folder / reader.base_folder
        with writing(place):
            try:
                (temporary / reader.base_folder).rename(place)
            except OSError:
                if not place.is_dir():  # else another process was first
                    raise
