"""Small networks that several tests shrink."""

from collections import OrderedDict

from torch import Tensor, nn


def classifier(conv: nn.Conv2d, *rest: nn.Module) -> nn.Sequential:
    """The convolution, global pooling and a fully-connected layer: takes images of any size."""
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(conv.out_channels, 3))
    return nn.Sequential(OrderedDict(conv=conv, **{f"more{i}": m for i, m in enumerate((*rest, *head))}))


class _Fickle(nn.Module):
    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv, self.calls = nn.Conv2d(in_channels, num_classes, 5, padding=2), 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        scores: Tensor = self.conv(images).mean((2, 3))
        return scores * (1 if self.calls % 7 else 2)


def fickle(num_classes: int, in_channels: int) -> nn.Module:
    """Changes its mind every few calls, so that torch.compile must begin again."""
    return _Fickle(num_classes, in_channels)
