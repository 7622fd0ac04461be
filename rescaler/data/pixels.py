"""From stored pixels to what the network sees."""

import torch
import torch.nn.functional as F
from torch import Tensor

from rescaler.config import DataSettings
from rescaler.errors import InputError

_CHUNK = 1024
"""Images resized at a time: their float copies are what takes memory."""


class Normalise:
    """Bring uint8 images on a device to mean 0 and standard deviation 1 per channel.

    Args:
        settings: the data's ``mean`` and ``std``, of pixel values in [0, 1].
        device: where the images are.

    Raises:
        InputError: not one mean and one positive std per channel.
    """

    def __init__(self, settings: DataSettings, device: torch.device) -> None:
        for key, values in (("mean", settings.mean), ("std", settings.std)):
            if len(values) != settings.channels:
                raise InputError(
                    f"data.{key} must have one value per channel (data.channels={settings.channels}); got {values}"
                )
        if not all(value > 0 for value in settings.std):
            raise InputError(f"data.std must be positive; got {settings.std}")
        mean = torch.tensor(settings.mean, dtype=torch.float64)
        std = torch.tensor(settings.std, dtype=torch.float64)
        self._scale = (1 / (255 * std)).float().view(-1, 1, 1).to(device)
        self._shift = (-mean / std).float().view(-1, 1, 1).to(device)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Images uint8 ``(n, channels, h, w)`` as float32."""
        return pixels.float().mul_(self._scale).add_(self._shift)


def resize(images: Tensor, image_px: int) -> Tensor:
    """Resize square images by antialiased bilinear interpolation.

    Args:
        images: uint8 ``(n, channels, px, px)`` on the CPU, so that the pixels don't depend on the device they go to.
        image_px: side of the result.

    Returns:
        uint8 ``(n, channels, image_px, image_px)``; ``images`` itself where the size is unchanged.
    """
    if images.shape[-1] == image_px:
        return images
    resized = images.new_empty((*images.shape[:2], image_px, image_px))
    for source, target in zip(torch.split(images, _CHUNK), torch.split(resized, _CHUNK), strict=True):
        target.copy_(F.interpolate(source.float(), size=(image_px, image_px), mode="bilinear", antialias=True).round_())
    return resized
