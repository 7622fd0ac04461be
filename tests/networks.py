"""Small networks that several tests shrink."""

from collections import OrderedDict

from torch import nn


def classifier(conv: nn.Conv2d, *rest: nn.Module) -> nn.Sequential:
    """The convolution, global pooling and a fully-connected layer: takes images of any size."""
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(conv.out_channels, 3))
    return nn.Sequential(OrderedDict(conv=conv, **{f"more{i}": m for i, m in enumerate((*rest, *head))}))


def two_layers(image_px: int = 9) -> nn.Sequential:
    """3x3 convolutions without padding, then the interface: 9 px give 5x5 maps, 6 px (pre-train) give 4x4 maps."""
    side = image_px - 4
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(2, 4, 3),
            relu=nn.ReLU(),
            conv2=nn.Conv2d(4, 5, 3),
            flatten=nn.Flatten(),
            drop=nn.Dropout(),
            fc=nn.Linear(5 * side**2, 3),
        )
    )
