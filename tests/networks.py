"""Small networks that several tests shrink."""

from collections import OrderedDict

from torch import nn


def classifier(conv: nn.Conv2d, *rest: nn.Module) -> nn.Sequential:
    """The convolution, global pooling and a fully-connected layer: takes images of any size."""
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(conv.out_channels, 3))
    return nn.Sequential(OrderedDict(conv=conv, **{f"more{i}": m for i, m in enumerate((*rest, *head))}))
