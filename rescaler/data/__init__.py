"""Data sets: where they come from, and how their images reach the network.

Small sets live on the device (:mod:`rescaler.data.resident`); ImageNet streams from a folder of image files, or from
a prepared set (:mod:`rescaler.data.folder`). Torch is imported when a set is loaded, so that names can be checked
without it.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from rescaler.config import DataSettings
from rescaler.data.images import EVERY_IMAGE, Batch, EpochImages, ImageData
from rescaler.errors import InputError

if TYPE_CHECKING:
    import torch

    from rescaler.data.resident import ImageSet

__all__ = [
    "DATA_SETS", "EVERY_IMAGE", "Batch", "DataSet", "EpochImages", "ImageData", "image_folder", "load_data",
    "streams_from_files",
]  # fmt: skip


class DataSet(NamedTuple):
    """A data set that ``data.name`` may name."""

    train_images: int | None
    """Published size of the training set; None: the settings say."""
    read: "Callable[[Path, DataSettings], ImageSet] | None"
    """Reads all of it from a folder, where it is put if it has to be fetched. None: images stay in their files."""


def _cifar(folder: Path, settings: DataSettings) -> "ImageSet":
    from rescaler.data import cifar

    return cifar.load(folder, settings.name)


def _fashion_mnist(folder: Path, _: DataSettings) -> "ImageSet":
    from rescaler.data import fashion_mnist

    return fashion_mnist.load(folder)


def _synthetic(_: Path, settings: DataSettings) -> "ImageSet":
    from rescaler.data import synthetic

    return synthetic.make(settings)


DATA_SETS: Mapping[str, DataSet] = MappingProxyType(
    {
        "fashion_mnist": DataSet(60_000, _fashion_mnist),
        "cifar10": DataSet(50_000, _cifar),
        "cifar100": DataSet(50_000, _cifar),
        "imagenet": DataSet(1_281_167, None),
        "synthetic": DataSet(None, _synthetic),
    }
)


def streams_from_files(settings: DataSettings) -> bool:
    """Whether images are decoded while a run trains; else the whole set is on the device."""
    return DATA_SETS[settings.name].read is None


def image_folder(settings: DataSettings) -> Path:
    """Where the images are or belong, as an absolute path."""
    return Path(settings.folder or "data").expanduser().absolute()


def load_data(settings: DataSettings, device: "torch.device") -> ImageData:
    """Load a data set; once per process for the same settings and device.

    Raises:
        InputError: the name is unknown, the files are missing or damaged, or they contradict the settings.
    """
    if settings.name not in DATA_SETS:
        raise InputError(f"data.name must be one of {', '.join(DATA_SETS)}; got {settings.name!r}")
    resolved = dataclasses.replace(settings, folder=str(image_folder(settings)))
    return _load(json.dumps(dataclasses.asdict(resolved)), str(device))


@functools.lru_cache(maxsize=1)  # the runs of a sweep share one set; more would only fill the memory
def _load(settings_json: str, device_name: str) -> ImageData:
    import torch

    settings, device = DataSettings(**json.loads(settings_json)), torch.device(device_name)
    folder = image_folder(settings)
    if (read := DATA_SETS[settings.name].read) is None:
        from rescaler.data.folder import FolderImages

        return FolderImages(folder, settings, device)
    from rescaler.data.resident import ResidentImages

    return ResidentImages(read(folder, settings), settings, device)
