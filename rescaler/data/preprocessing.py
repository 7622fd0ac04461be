"""Turn single pictures into a network's input, in the way that test images are."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rescaler.config import DataSettings
from rescaler.data.decoding import centre_crop, decode, grey, to_rgb
from rescaler.data.resident import Normalise, cut, resize
from rescaler.errors import InputError, one_line
from rescaler.method.size import ImageSize


class Preprocess:
    """Turns a picture into a normalised tensor ``(channels, h, w)``, float32, on the CPU.

    Args:
        settings: channels, mean, standard deviation and the target's image size.
        image_px: size of the network's images.
        cropped: the middle of a picture, 224/256 of its shorter side, as of ImageNet's; else as much as has the aspect
            ratio of ``settings.image_px``, the target's.

    Raises:
        InputError: the network takes images of neither 1 nor 3 channels.
    """

    def __init__(self, settings: DataSettings, image_px: ImageSize, *, cropped: bool) -> None:
        if settings.channels not in (1, 3):
            raise InputError(f"pictures have 1 or 3 channels; the network takes {settings.channels}")
        self._channels, self._cropped = settings.channels, cropped
        self.image_px, self._target_px = image_px, settings.image_px
        self._normalise = Normalise(settings, torch.device("cpu"))

    def __call__(self, picture: "str | Path | Image.Image") -> Tensor:
        """Decode, resize, crop and normalise a picture: a path, or Pillow's image.

        Raises:
            InputError: it cannot be read.
        """
        if isinstance(picture, Image.Image):
            pixels = torch.from_numpy(np.array(to_rgb(picture))).permute(2, 0, 1)
        else:
            try:
                pixels = decode(Path(picture).read_bytes())
            except OSError as error:
                raise InputError(f"cannot read the picture {picture}: {error.strerror}") from error
            except (InputError, RuntimeError) as error:
                raise InputError(f"cannot read the picture {picture}: {one_line(error)}") from error
        if self._channels == 1:
            pixels = grey(pixels)
        if self._cropped:
            return self._normalise(centre_crop(pixels, self.image_px))
        return self._normalise(resize(cut(pixels, self._target_px)[None], self.image_px)[0])
