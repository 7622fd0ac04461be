"""Augmentation by any transform of single images, drawn from (seed, epoch, position)."""

from collections.abc import Iterable

import torch
from torch import Tensor

from rescaler.config import DataSettings
from rescaler.errors import InputError, one_line
from rescaler.instantiate import partial
from rescaler.randomness import seeded


class Augment:
    """The transform that ``data.augment`` names, on normalised images on a device.

    Raises:
        InputError: there is no such transform, it does not take its arguments, or changes the size of images.
    """

    def __init__(self, settings: DataSettings, device: torch.device) -> None:
        factory = partial(settings.augment, "data.augment")
        try:
            self._transform = factory()
        except Exception as error:  # whatever a custom transform raises
            path = settings.augment.get("_target_")
            raise InputError(f"data.augment._target_={path}: {one_line(error)}") from error
        self._mean, self._std = (torch.tensor(x, device=device)[:, None, None] for x in (settings.mean, settings.std))
        self(torch.zeros(1, settings.channels, settings.image_px, settings.image_px, device=device), [0])

    def __call__(self, images: Tensor, seeds: Iterable[int]) -> Tensor:
        """Transform each image, normalised, ``(n, channels, px, px)``, in [0, 1] and with a seed of its own."""
        found = []
        for image, seed in zip(images, seeds, strict=True):
            with seeded(seed):
                found.append((self._transform(image * self._std + self._mean) - self._mean) / self._std)
        if found and found[0].shape != images.shape[1:]:
            raise InputError(
                f"data.augment must keep the size of images, {tuple(images.shape[1:])}; got {tuple(found[0].shape)}"
            )
        return torch.stack(found) if found else images
