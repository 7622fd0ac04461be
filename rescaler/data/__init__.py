"""Data sets by name; torch is imported when one is loaded.

Small sets are on the device (:mod:`rescaler.data.resident`); large ones are streamed from image files or a prepared set
(:mod:`rescaler.data.streaming`).
"""

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rescaler.config import LOOKED_AT, DataSettings, require
from rescaler.errors import InputError

if TYPE_CHECKING:
    import torch

    from rescaler.data.order import ImageData


class DataSet(NamedTuple):
    """A data set that ``data.name`` may name."""

    train_images: int | None  # published size of the training set; None: the settings or the files say
    reader: str | None  # function of `rescaler.data.readers` that reads all of it
    streams: bool = False  # its images can stay in their files


DATA_SETS: Mapping[str, DataSet] = {
    "fashion_mnist": DataSet(60_000, "fashion_mnist"),
    "cifar10": DataSet(50_000, "cifar"),
    "cifar100": DataSet(50_000, "cifar"),
    "imagenet": DataSet(1_281_167, None, streams=True),
    "folder": DataSet(None, "folder", streams=True),
    "custom": DataSet(None, "folder", streams=True),
    "synthetic": DataSet(None, "synthetic"),
}


def published_size(settings: DataSettings) -> int:
    """Training images of a set, without a look at its images."""
    if settings.name in LOOKED_AT:
        return _count(_resolved(settings))
    images = DATA_SETS[settings.name].train_images or settings.train_images
    return images - round(settings.holdout * images)


def streams_from_files(settings: DataSettings) -> bool:
    """Whether images are decoded while a run trains; else the whole set is on the device."""
    return DATA_SETS[settings.name].streams and not settings.in_memory


@functools.lru_cache
def _count(settings_json: str) -> int:
    from rescaler.data.folder import count_images

    settings = DataSettings(**json.loads(settings_json))
    return count_images(image_folder(settings), settings)


def _resolved(settings: DataSettings) -> str:
    return json.dumps(dataclasses.asdict(dataclasses.replace(settings, folder=str(image_folder(settings)))))


def image_folder(settings: DataSettings) -> Path:
    """Folder of the images, or for them, as an absolute path."""
    return Path(settings.folder or "data").expanduser().absolute()


def load_data(settings: DataSettings, device: "torch.device") -> "ImageData":
    """Load a data set; once per process for the same settings and device."""
    known = f"one of {', '.join(DATA_SETS)}"
    require(settings.name in DATA_SETS, "data.name", settings.name, known)  # of a model file of another version
    folder = image_folder(settings)
    if settings.folder is not None and not streams_from_files(settings) and not folder.is_dir():
        raise InputError(f"data.folder must be a folder; there is none at {folder}: make it, to have images put there")
    return _load(_resolved(settings), str(device))


@functools.lru_cache(maxsize=1)  # the runs of a sweep share one set; more would only fill the memory
def _load(settings_json: str, device_name: str) -> "ImageData":
    import torch

    settings, device = DataSettings(**json.loads(settings_json)), torch.device(device_name)
    reader = DATA_SETS[settings.name].reader
    if reader is None or streams_from_files(settings):
        from rescaler.data.streaming import FolderImages

        return FolderImages(image_folder(settings), settings, device)
    from rescaler.data import readers
    from rescaler.data.resident import ResidentImages

    return ResidentImages(getattr(readers, reader)(image_folder(settings), settings), settings, device)
