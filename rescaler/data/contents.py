"""Look at pictures: classes, sizes, mean and standard deviation, and the settings that follow."""

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rescaler.config import DataSettings, require
from rescaler.data import image_folder
from rescaler.data.custom import open_custom
from rescaler.data.decoding import grey, shorter_px
from rescaler.data.folder import Split, open_folder, read_pixels
from rescaler.data.order import generator_for, split_holdout
from rescaler.data.prepared import Manifest, is_prepared
from rescaler.errors import InputError, listed
from rescaler.method import size_text
from rescaler.randomness import seeded

SAMPLE = 2000
"""Training pictures that are decoded, at most."""
SMALL_PX = 64
"""Side up to which square pictures are small: taken as they are, and all in memory."""
LARGE_PX = 224
"""Image size for all others: ImageNet's."""
_WHOLE_PX = 2**31
"""More pixels than a picture has: of a prepared set's copies, the largest."""
_MEMORY_BYTES = 2**32
"""Most that small pictures may take in memory."""


@dataclass(frozen=True)
class Contents:
    """What a set of pictures holds; sizes and colours are of a sample of the training pictures."""

    classes: Sequence[str]
    train: Sequence[int]
    """Training pictures by class; a hold-out is among them."""
    test: int
    sampled: int
    sizes: Sequence[tuple[int, int]]
    """Height and width of the smallest and of the largest."""
    is_grey: bool
    """All of them are without colour."""
    found: Mapping[str, Any]
    """Settings by name: :data:`rescaler.config.FOUND`."""


def found_in(data: DataSettings) -> dict[str, Any]:
    """Return the settings that are null, with what the pictures say that they are."""
    if data.image_px is None and look(data).found["image_px"] is None:
        sizes = " to ".join(f"{width} x {height}" for height, width in dict.fromkeys(look(data).sizes))
        raise InputError(f"data.image_px must be given with data={data.name}, whose pictures have {sizes} px")
    return {name: value for name, value in look(data).found.items() if getattr(data, name) is None}


def look(data: DataSettings) -> Contents:
    """Look at the pictures that ``data`` names; once per process."""
    if data.name == "folder":
        require(data.folder is not None, "data.folder", None, "the path of a folder of pictures")
        require(data.channels in (1, 3), "data.channels", data.channels, "1 (grey) or 3 (RGB) for a folder of images")
    return _look(json.dumps([getattr(data, name) for name in _LOOKED_BY]))


_LOOKED_BY = ("name", "folder", "classes", "channels", "holdout", "train", "test")


@functools.lru_cache
def _look(values: str) -> Contents:
    settings = DataSettings(**dict(zip(_LOOKED_BY, json.loads(values), strict=True)))
    folder, channels, is_custom = image_folder(settings), settings.channels, settings.name == "custom"
    opened = open_folder(folder, settings, shorter_px=0)
    if is_custom:
        channels = open_custom(settings)[0].channels
    if settings.holdout:
        split_holdout(opened.train.labels, settings.holdout, opened.classes)  # raises where a class is too small
    counts = opened.train.labels.bincount(minlength=len(opened.classes)).tolist()
    with seeded(0):  # of no meaning but for a user's own that draws
        sizes, is_grey, mean, std = _statistics(opened.train, channels)
    sides = sorted(sizes, key=math.prod)
    is_small = all(height == width <= SMALL_PX for height, width in sizes)
    if is_small or is_custom:
        image_px = max(sides[-1]) if is_small or len({*sides, sides[0][::-1]}) == 1 else None
    else:
        image_px = _prepared_px(folder) if is_prepared(folder) else LARGE_PX
    in_memory = is_small and channels * max(sides[-1]) ** 2 * (sum(counts) + len(opened.test.labels)) <= _MEMORY_BYTES
    found = {"image_px": image_px, "classes": len(opened.classes), "channels": channels, "in_memory": in_memory}
    found |= {"mean": mean, "std": std}
    return Contents(
        opened.classes, counts, len(opened.test.labels), len(sizes), (sides[0], sides[-1]), is_grey, found
    )  # fmt: skip


def _statistics(split: Split, channels: int) -> tuple[list[tuple[int, int]], bool, list[float], list[float]]:
    """Sizes, greyness, mean and standard deviation of a sample; each picture weighs the same, whatever its size."""
    count = len(split.labels)
    order = torch.randperm(count, generator=generator_for(0, "statistics"))[:SAMPLE].sort().values
    sizes, is_grey, sums, why = [], True, torch.zeros(2, channels, dtype=torch.float64), ""
    for index in order.tolist():
        try:
            pixels = read_pixels(split, index, channels=3, shorter_px=_WHOLE_PX)
        except InputError as error:  # reported when it is trained on; prepare leaves it out
            why = str(error)
            continue
        is_grey = is_grey and bool((pixels == pixels[:1]).all())
        sizes.append((pixels.shape[1], pixels.shape[2]))
        values = (grey(pixels) if channels == 1 else pixels).flatten(1).double() / 255
        sums += torch.stack([values.mean(1), (values**2).mean(1)])
    if not sizes:
        raise InputError(f"no training picture can be read; {why}")
    mean, squares = sums / len(sizes)
    std = (squares - mean**2).clamp(min=0).sqrt()
    return sizes, is_grey, _rounded(mean), _rounded(std)


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 4) for value in values.tolist()]


def _prepared_px(folder: Path) -> int:
    """Largest image size that a set was prepared for."""
    longest = Manifest.read(folder).shorter_px[-1]
    return max(px for px in range(1, longest + 1) if shorter_px(px) <= longest)


def source(data: DataSettings) -> str:
    """Name the folder of pictures, or the user's own set."""
    return f"data.folder={data.folder}" if data.name == "folder" else f"data.train._target_={data.train['_target_']}"


def summary(data: DataSettings, names: Sequence[str]) -> str:
    """Say in a line what a run takes a set of pictures for."""
    numbers = f"mean {data.mean}, std {data.std}"
    where = "in memory" if data.in_memory else "read while training"
    return f"{source(data)}: {len(names)} classes ({listed(names)}), {size_text(data.image_px)} px, {where}, {numbers}"
