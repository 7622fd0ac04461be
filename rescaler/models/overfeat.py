"""OverFeat-fast (Sermanet et al., 2014), the network of Tables 2 and 3, and a small network built the same way."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from rescaler.errors import InputError


@dataclass(frozen=True)
class Convolution:
    """One convolution of an :class:`OverFeat`, its 2x2 max-pooling and its padding in the pre-train network."""

    channels: int
    kernel: int
    stride: int = 1
    padding: int = 0
    pretrain_padding: int = 0
    pool: bool = False


class OverFeat(nn.Sequential):
    """Convolutions with ReLU and max-pooling, then fully-connected layers with dropout.

    Weights and biases start uniform in ±1/sqrt(n) as in the paper (section 4), n the inputs of one neuron: torch's own
    initialisation of ``Conv2d`` and ``Linear``.

    Args:
        convolutions: the layers ``conv1``, ``conv2``, ... in order.
        hidden: widths of the fully-connected layers but the last.
        num_classes: number of classes.
        in_channels: channels of the images.
        image_px: side of the images.
        dropout: probability, after each hidden fully-connected layer.

    Raises:
        InputError: ``image_px`` leaves no feature map to classify.
    """

    pretrain_padding: Mapping[str, int]
    """Padding of the pre-train network's convolutions by name, for :func:`rescaler.shrink`."""

    def __init__(
        self,
        convolutions: Sequence[Convolution],
        hidden: Sequence[int],
        *,
        num_classes: int,
        in_channels: int,
        image_px: int,
        dropout: float = 0.5,
    ) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels, side_px = in_channels, image_px
        for number, spec in enumerate(convolutions, 1):
            layers[f"conv{number}"] = nn.Conv2d(channels, spec.channels, spec.kernel, spec.stride, spec.padding)
            channels, side_px = spec.channels, (side_px + 2 * spec.padding - spec.kernel) // spec.stride + 1
            if spec.pool:  # before the ReLU: the two commute, and this way round the ReLU has a quarter of the work
                layers[f"pool{number}"] = nn.MaxPool2d(2)
                side_px //= 2
            layers[f"relu{number}"] = nn.ReLU(inplace=True)
            if side_px < 1:
                raise InputError(f"image_px={image_px} is too small: nothing is left of it at conv{number}")
        layers["flatten"] = nn.Flatten()
        features = channels * side_px**2
        for number, width in enumerate(hidden, len(convolutions) + 1):
            layers[f"fc{number}"] = nn.Linear(features, width)
            layers[f"relu{number}"] = nn.ReLU(inplace=True)
            layers[f"dropout{number}"] = nn.Dropout(dropout)
            features = width
        layers[f"fc{len(convolutions) + len(hidden) + 1}"] = nn.Linear(features, num_classes)
        super().__init__(layers)
        self.pretrain_padding = {f"conv{number}": spec.pretrain_padding for number, spec in enumerate(convolutions, 1)}


def overfeat_fast(num_classes: int = 1000, in_channels: int = 3, image_px: int = 231) -> OverFeat:
    """OverFeat's fast variant: 146 M weights, 2.8 G multiplications at 231 px, pre-trained at 147 px (section 4)."""
    convolutions = (
        Convolution(96, 11, stride=4, pool=True),
        Convolution(256, 5, pool=True),
        Convolution(512, 3, padding=1, pretrain_padding=1),
        Convolution(1024, 3, padding=1, pretrain_padding=1),
        Convolution(1024, 3, padding=1, pool=True),
    )
    return OverFeat(convolutions, (3072, 4096), num_classes=num_classes, in_channels=in_channels, image_px=image_px)


def overfeat_small(
    num_classes: int = 10,
    in_channels: int = 1,
    image_px: int = 28,
    widths: Sequence[int] = (8, 24, 32),
    hidden: int = 128,
    dropout: float = 0.2,
) -> OverFeat:
    """OverFeat in miniature for images of 28 to 32 px: 5x5 and 3x3 kernels, pooling, fully-connected layers."""
    if len(widths) != 3:
        raise InputError(f"model.widths must be the channels of 3 convolutions; got {list(widths)}")
    convolutions = (
        Convolution(widths[0], 5, pool=True),
        Convolution(widths[1], 3, padding=1, pretrain_padding=1),
        Convolution(widths[2], 3, padding=1, pretrain_padding=1, pool=True),
    )
    return OverFeat(
        convolutions,
        (hidden,),
        num_classes=num_classes,
        in_channels=in_channels,
        image_px=image_px,
        dropout=dropout,
    )
