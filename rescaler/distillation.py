"""Distillation: after a rescale the grown network follows the small one's scores for some batches."""

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, kl_div, log_softmax

from rescaler.method.size import ImageSize

_WEIGHT = 0.5
_TEMPERATURE = 2.0


@dataclasses.dataclass(frozen=True)
class Teacher:
    """The network before a rescale, on images of its own size (Hinton, Vinyals and Dean, 2015).

    Args:
        network: in evaluation mode from here on; not changed.
        image_px: side of its images, or height and width.
    """

    network: nn.Module
    image_px: ImageSize

    def __post_init__(self) -> None:
        self.network.eval()

    def distill(self, loss: Tensor, scores: Tensor, images: Tensor) -> Tensor:
        """Return the mean of ``loss`` and the divergence of ``scores`` from the teacher's.

        Args:
            loss: of the labels, mean over the images.
            scores: of the network in training, ``(n, classes)``.
            images: that the scores are for, ``(n, channels, h, w)``; the teacher gets them resized.
        """
        with torch.no_grad():
            own = self.network(interpolate(images, self.image_px, mode="bilinear", antialias=True))
        soft, wanted = (log_softmax(one.float() / _TEMPERATURE, dim=1) for one in (scores, own))
        divergence = kl_div(soft, wanted, reduction="batchmean", log_target=True)
        return (1 - _WEIGHT) * loss + _WEIGHT * _TEMPERATURE**2 * divergence
