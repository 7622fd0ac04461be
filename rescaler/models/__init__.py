"""Target networks: the paper's and small ones for images of about 30 pixels."""

from rescaler.models.factory import build
from rescaler.models.networks import (
    OverFeat,
    loss_and_scores,
    overfeat_fast,
    overfeat_small,
    resnet18,
    resnet34,
    resnet_small,
    vgg_small,
)

__all__ = [
    "OverFeat", "build", "loss_and_scores", "overfeat_fast", "overfeat_small", "resnet18", "resnet34", "resnet_small",
    "vgg_small",
]  # fmt: skip
