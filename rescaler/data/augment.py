"""Augmentation by any transforms of single images and by mixtures of a batch, drawn from (seed, epoch, position)."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rescaler.config import DataSettings
from rescaler.errors import InputError, one_line, one_line_with_place
from rescaler.instantiate import partial
from rescaler.method.size import height_width
from rescaler.randomness import seeded

# torchvision takes seconds to import: only the functions that need it do so.


class Augment:
    """The transforms that ``data.augment`` names, on normalised images on a device.

    Those of single images come in the order of the list. Of several mixtures (MixUp, CutMix), each batch draws one.
    """

    def __init__(self, settings: DataSettings, device: torch.device) -> None:
        from torchvision.transforms import v2

        self._transforms: list[Callable[[Tensor], Tensor]] = []
        self._mixtures: list[Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = []
        for key, entry in entries(settings.augment):
            transform = _made(entry, key, settings)
            if isinstance(transform, v2.MixUp | v2.CutMix):
                transform.num_classes = transform.num_classes or settings.classes
                self._mixtures.append(transform)
            else:
                self._transforms.append(transform)
        self._mean, self._std = (torch.tensor(x, device=device)[:, None, None] for x in (settings.mean, settings.std))
        try:
            self(torch.zeros(1, settings.channels, *height_width(settings.image_px), device=device), [0])
        except InputError:
            raise
        except Exception as error:  # whatever a custom transform raises
            raise InputError(f"data.augment fails on an image: {one_line_with_place(error)}") from error

    @property
    def mixes(self) -> bool:
        """Whether an image depends on the others of its batch, so that processes need all of them."""
        return bool(self._mixtures)

    def __call__(self, images: Tensor, seeds: Iterable[int]) -> Tensor:
        """Transform each image, normalised, ``(n, channels, h, w)``, in [0, 1] and with a seed of its own."""
        if not self._transforms:
            return images
        found = []
        for image, seed in zip(images, seeds, strict=True):
            with seeded(seed):
                pixels = functools.reduce(_apply, self._transforms, image * self._std + self._mean)
                found.append((pixels - self._mean) / self._std)
        if found and found[0].shape != images.shape[1:]:
            raise InputError(
                f"data.augment must keep the size of images, {tuple(images.shape[1:])}; got {tuple(found[0].shape)}"
            )
        return torch.stack(found) if found else images

    def mix(self, images: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Mix the images of a whole batch; their labels become shares of the classes, float32 ``(n, classes)``."""
        with seeded(seed):
            number = int(torch.randint(len(self._mixtures), ())) if len(self._mixtures) > 1 else 0
            return self._mixtures[number](images, labels)


def entries(augment: Any, key: str = "data.augment") -> list[tuple[str, Any]]:
    """Return the key and the value of each entry of a list, or of the only one."""
    if isinstance(augment, Sequence) and not isinstance(augment, str):
        return [(f"{key}[{number}]", entry) for number, entry in enumerate(augment)]
    return [(key, augment)] if augment else []


def _apply(pixels: Tensor, transform: Callable[[Tensor], Tensor]) -> Tensor:
    return transform(pixels)


def _made(entry: Mapping[str, Any] | str, key: str, settings: DataSettings) -> Any:
    if isinstance(entry, str):
        return _preset(entry, settings)
    factory = partial(entry, key)
    try:
        return factory()
    except Exception as error:  # whatever a custom transform raises
        raise InputError(f"{key}._target_={entry.get('_target_')}: {one_line(error)}") from error


def _preset(name: str, settings: DataSettings) -> Any:
    """Make a transform of :data:`rescaler.config.AUGMENTATIONS`."""
    from torchvision.transforms import v2

    if name == "random_erasing":  # of a normalised image: by its mean
        return v2.RandomErasing(p=0.25, value=list(settings.mean))
    if name == "mixup":
        return v2.MixUp(alpha=0.2, num_classes=settings.classes)
    if name == "cutmix":
        return v2.CutMix(alpha=1.0, num_classes=settings.classes)
    transform = {"rand_augment": v2.RandAugment, "trivial_augment": v2.TrivialAugmentWide}[name]()
    # As in their papers, on bytes.
    return v2.Compose([v2.ToDtype(torch.uint8, scale=True), transform, v2.ToDtype(torch.float32, scale=True)])
