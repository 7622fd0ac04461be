"""Residual networks (He et al., 2016): torchvision's, and a small one of the same blocks.

torchvision takes seconds to import, so only the functions that need it do so.
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from rescaler.errors import InputError


def resnet18(num_classes: int = 1000, in_channels: int = 3) -> nn.Module:
    """ResNet-18 as torchvision builds it, with random weights; 224 px, pre-trained at 160 px."""
    from torchvision.models import resnet18 as make

    return _with_channels(make(weights=None, num_classes=num_classes), in_channels)


def resnet34(num_classes: int = 1000, in_channels: int = 3) -> nn.Module:
    """ResNet-34 as torchvision builds it, with random weights (Table 4); 224 px, pre-trained at 160 px."""
    from torchvision.models import resnet34 as make

    return _with_channels(make(weights=None, num_classes=num_classes), in_channels)


def resnet_small(
    num_classes: int = 10, in_channels: int = 1, blocks: int = 2, widths: Sequence[int] = (16, 32, 64)
) -> nn.Module:
    """Residual network for images of 28 to 32 px (He et al., section 4.2): a 3x3 stem, then groups of basic blocks.

    Args:
        num_classes: number of classes.
        in_channels: channels of the images.
        blocks: blocks of two convolutions in each group.
        widths: channels of each group; each group but the first halves the feature map.
    """
    if blocks < 1:
        raise InputError(f"model.blocks must be at least 1; got {blocks}")
    if not widths:
        raise InputError("model.widths must name the channels of at least one group; got none")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv1"] = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
    layers["bn1"] = nn.BatchNorm2d(widths[0])
    layers["relu"] = nn.ReLU(inplace=True)
    channels = widths[0]
    for number, width in enumerate(widths, 1):
        layers[f"layer{number}"] = _group(channels, width, blocks, stride=1 if number == 1 else 2)
        channels = width
    layers["avgpool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(channels, num_classes)
    network = nn.Sequential(layers)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            _initialise(module)
    return network


def _group(in_channels: int, channels: int, blocks: int, *, stride: int) -> nn.Sequential:
    from torchvision.models.resnet import BasicBlock

    downsample = None
    if stride != 1 or in_channels != channels:
        downsample = nn.Sequential(
            nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False), nn.BatchNorm2d(channels)
        )
    first = BasicBlock(in_channels, channels, stride, downsample)
    return nn.Sequential(first, *(BasicBlock(channels, channels) for _ in range(blocks - 1)))


def _with_channels(network: nn.Module, in_channels: int) -> nn.Module:
    stem = network.conv1
    if isinstance(stem, nn.Conv2d) and stem.in_channels != in_channels:
        network.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        _initialise(network.conv1)
    return network


def _initialise(convolution: nn.Conv2d) -> None:
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's ResNet
