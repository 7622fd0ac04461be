"""A user's data set, of Python: anything map-style that gives an image and its label."""

import functools
import hashlib
import json
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rescaler.config import DataSettings, require
from rescaler.data.decoding import grey, pixels_of, to_rgb
from rescaler.errors import InputError, one_line_with_place
from rescaler.instantiate import partial
from rescaler.randomness import seeded

_HASHED = 100
"""Images of each split whose pixels stand for all of them."""


class CustomSplit:
    """Images of ``data.train`` or ``data.test``, which is ``key``; implements :class:`rescaler.data.folder.Split`.

    ``channels`` are those of the first image where they are None.
    """

    def __init__(self, options: Mapping[str, Any], key: str, channels: int | None) -> None:
        self._key, path = key, options.get("_target_")
        factory = partial(options, key)
        try:
            self._images: Any = factory()
        except Exception as error:  # whatever a custom set raises
            raise InputError(f"{key}._target_={path}: {one_line_with_place(error)}") from error
        kind = type(self._images)
        if not (hasattr(kind, "__len__") and hasattr(kind, "__getitem__")):
            raise InputError(
                f"{key}._target_={path} must make a map-style data set, with __len__ and __getitem__; it made a "
                f"{kind.__name__}"
            )
        require(len(self._images) > 0, f"{key}._target_", path, "a set with images in it")
        self.labels = torch.tensor(self._labels())
        self.class_names = [str(name) for name in getattr(self._images, "classes", [])]
        self.channels = channels or self._channels()

    def content(self, index: int, shorter_px: int) -> Tensor:  # noqa: ARG002
        """Pixels of an image, uint8 ``(channels, h, w)``."""
        image = self._item(index)[0]
        if isinstance(image, Image.Image):
            pixels = pixels_of(to_rgb(image))
            return grey(pixels) if self.channels == 1 else pixels
        if isinstance(image, np.ndarray):
            image = torch.from_numpy(image if image.ndim == 3 else image[..., None]).permute(2, 0, 1)
        if not isinstance(image, Tensor) or image.ndim != 3 or len(image) != self.channels:
            got = f"{type(image).__name__} of shape {tuple(image.shape)}" if hasattr(image, "shape") else repr(image)
            raise InputError(f"it must be a picture of data.channels={self.channels}; got a {got}")
        if image.is_floating_point():
            low, high = (extreme.item() for extreme in image.aminmax())
            if not 0 <= low <= high <= 1:
                rule = "must be in [0, 1], or uint8: data.mean and data.std normalise"
                raise InputError(f"its values {rule}; got {low:g} to {high:g}")
            return (image * 255).round().to(torch.uint8)
        if image.dtype != torch.uint8:
            raise InputError(f"its values must be uint8, or float in [0, 1]; got {image.dtype}")
        return image

    def where(self, index: int) -> str:
        """Place of an image, for messages."""
        return f"{self._key}[{index}]"

    def _item(self, index: int) -> Sequence[Any]:
        try:
            item = self._images[index]
        except Exception as error:  # whatever a custom set raises
            raise InputError(one_line_with_place(error)) from error
        if not isinstance(item, tuple | list) or len(item) < 2:
            raise InputError(f"{self.where(index)} must be an image and its label; got a {type(item).__name__}")
        return item

    def _labels(self) -> list[int]:
        count, given = len(self._images), getattr(self._images, "targets", None)  # torchvision's, without its images
        if given is None or len(given) != count or getattr(self._images, "target_transform", None) is not None:
            given = [self._item(index)[1] for index in range(count)]
        found = []
        for index, label in enumerate(given):
            try:
                found.append(operator.index(label))
            except TypeError:
                raise InputError(f"{self.where(index)} must have an integer as its label; got {label!r}") from None
        return found

    def _channels(self) -> int:
        image = self._item(0)[0]
        if isinstance(image, Image.Image):
            return 1 if image.mode in ("1", "L") else 3
        shape = getattr(image, "shape", ())
        return 1 if len(shape) < 3 else shape[0 if isinstance(image, Tensor) else -1]

    def fingerprint(self) -> str:
        """Hex digest of the labels and of some images."""
        hasher = hashlib.sha256(self.labels.numpy().tobytes())
        with seeded(0):
            for index in range(0, len(self.labels), max(1, len(self.labels) // _HASHED)):
                pixels = self.content(index, 0)
                hasher.update(f"{tuple(pixels.shape)};".encode() + pixels.contiguous().numpy().tobytes())
        return hasher.hexdigest()


def open_custom(settings: DataSettings) -> tuple[CustomSplit, CustomSplit | None, Sequence[str]]:
    """Make the user's sets; once per process for the same settings.

    Returns:
        The training set, the test set where ``data.test`` names one, and the names of the classes.
    """
    require(settings.train is not None, "data.train", None, "a _target_ with its arguments for data=custom")
    require(settings.test is not None or settings.holdout > 0, "data.test", None, "given, or data.holdout above 0")
    return _open(json.dumps([settings.train, settings.test, settings.channels, settings.classes]))


@functools.lru_cache(maxsize=1)
def _open(text: str) -> tuple[CustomSplit, CustomSplit | None, Sequence[str]]:
    train_options, test_options, channels, classes = json.loads(text)
    with seeded(0):
        train = CustomSplit(train_options, "data.train", channels)
        test = CustomSplit(test_options, "data.test", train.channels) if test_options else None
    classes = classes or len(train.class_names) or int(train.labels.max()) + 1
    for split in filter(None, (train, test)):
        wrong = ((split.labels < 0) | (split.labels >= classes)).nonzero()[:, 0].tolist()
        if wrong:
            allowed = f"from 0 to {classes - 1} (data.classes={classes})"
            raise InputError(f"{split.where(wrong[0])} has the label {split.labels[wrong[0]]}; labels are {allowed}")
    names = train.class_names if len(train.class_names) == classes else [str(number) for number in range(classes)]
    return train, test, names
