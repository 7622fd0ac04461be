"""Networks: OverFeat-fast (Sermanet et al., 2014), ResNets (He et al., 2016), small ones; the loss, distillation.

torchvision takes seconds to import: only the functions that need it do so.
"""

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, kl_div, log_softmax

from rescaler.errors import InputError
from rescaler.method import ImageSize, height_width, size_text

_TEACHERS_WEIGHT, _TEMPERATURE = 0.5, 2.0
AUXILIARY_WEIGHT = 0.3  # of an auxiliary classifier's loss (Szegedy et al., 2015, section 5)


class Convolution(NamedTuple):
    """Convolution of an :class:`OverFeat`, its padding in the pre-train network, and whether 2x2 pooling follows."""

    channels: int
    kernel: int
    stride: int = 1
    padding: int = 0
    pretrain_padding: int = 0
    pool: bool = False


class OverFeat(nn.Sequential):
    """Convolutions with ReLU and max-pooling, then fully-connected layers with dropout.

    Torch's own initialisation is the paper's (section 4): uniform in ±1/sqrt(n), n the inputs of one neuron. ``hidden``
    are the widths of the fully-connected layers but the last, each with dropout.
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
        image_px: ImageSize,
        dropout: float = 0.5,
    ) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels, sides_px = in_channels, list(height_width(image_px))
        for number, spec in enumerate(convolutions, 1):
            layers[f"conv{number}"] = nn.Conv2d(channels, spec.channels, spec.kernel, spec.stride, spec.padding)
            channels = spec.channels
            sides_px = [(side + 2 * spec.padding - spec.kernel) // spec.stride + 1 for side in sides_px]
            if spec.pool:  # before the ReLU: the two commute, and this way round the ReLU has a quarter of the work
                layers[f"pool{number}"] = nn.MaxPool2d(2)
                sides_px = [side // 2 for side in sides_px]
            layers[f"relu{number}"] = nn.ReLU(inplace=True)
            if min(sides_px) < 1:
                raise InputError(f"image_px={size_text(image_px)} is too small: nothing is left of it at conv{number}")
        layers["flatten"] = nn.Flatten()
        features = channels * math.prod(sides_px)
        for number, width in enumerate(hidden, len(convolutions) + 1):
            layers[f"fc{number}"] = nn.Linear(features, width)
            layers[f"relu{number}"] = nn.ReLU(inplace=True)
            layers[f"dropout{number}"] = nn.Dropout(dropout)
            features = width
        layers[f"fc{len(convolutions) + len(hidden) + 1}"] = nn.Linear(features, num_classes)
        super().__init__(layers)
        self.pretrain_padding = {f"conv{number}": spec.pretrain_padding for number, spec in enumerate(convolutions, 1)}


def overfeat_fast(num_classes: int = 1000, in_channels: int = 3, image_px: ImageSize = 231) -> OverFeat:
    """Build OverFeat-fast: 146 M weights, 2.8 G multiplications at 231 px, pre-trained at 147 px (section 4)."""
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
    image_px: ImageSize = 28,
    widths: Sequence[int] = (8, 24, 32),
    hidden: int = 128,
    dropout: float = 0.2,
) -> OverFeat:
    """Build OverFeat in miniature for images of 28 to 32 px: 5x5 and 3x3 kernels, pooling, fully-connected layers."""
    if len(widths) != 3:
        raise InputError(f"model.widths must be the channels of 3 convolutions; got {list(widths)}")
    convolutions = (
        Convolution(widths[0], 5, pool=True),
        Convolution(widths[1], 3, padding=1, pretrain_padding=1),
        Convolution(widths[2], 3, padding=1, pretrain_padding=1, pool=True),
    )
    sizes = {"num_classes": num_classes, "in_channels": in_channels}
    return OverFeat(convolutions, (hidden,), **sizes, image_px=image_px, dropout=dropout)


def resnet18(num_classes: int = 1000, in_channels: int = 3) -> nn.Module:
    """Build torchvision's ResNet-18 with random weights; 224 px, pre-trained at 160 px."""
    return _torchvisions("resnet18", num_classes, in_channels)


def resnet34(num_classes: int = 1000, in_channels: int = 3) -> nn.Module:
    """Build torchvision's ResNet-34 with random weights (Table 4); 224 px, pre-trained at 160 px."""
    return _torchvisions("resnet34", num_classes, in_channels)


def resnet_small(
    num_classes: int = 10, in_channels: int = 1, blocks: int = 2, widths: Sequence[int] = (16, 32, 64)
) -> nn.Module:
    """Build a residual network for 28 to 32 px (He et al., section 4.2): a 3x3 stem, then groups of basic blocks.

    ``widths`` are the channels of each group of ``blocks``; each group but the first halves the feature map.
    """
    from torchvision.models.resnet import BasicBlock

    _check_groups(blocks, widths)
    channels = widths[0]
    stem = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
    layers = OrderedDict[str, nn.Module](conv1=stem, bn1=nn.BatchNorm2d(channels), relu=nn.ReLU(inplace=True))
    for number, width in enumerate(widths, 1):
        stride, shortcut = 1, None
        if number > 1:
            stride = 2
            shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        first = BasicBlock(channels, width, stride, shortcut)
        layers[f"layer{number}"] = nn.Sequential(first, *(BasicBlock(width, width) for _ in range(blocks - 1)))
        channels = width
    return _classifier(layers, channels, num_classes)


def _check_groups(blocks: int, widths: Sequence[int]) -> None:
    if blocks < 1:
        raise InputError(f"model.blocks must be at least 1; got {blocks}")
    if not widths:
        raise InputError("model.widths must name the channels of at least one group; got none")


def vgg_small(
    num_classes: int = 10,
    in_channels: int = 1,
    blocks: int = 2,
    widths: Sequence[int] = (8, 16, 32),
    kernels: Sequence[int] = (5, 5, 3),
) -> nn.Module:
    """Build a plain network with BatchNorm for 28 to 32 px (Simonyan and Zisserman, 2015), of 5x5 and 3x3 kernels.

    ``widths`` and ``kernels`` are the channels and the kernels' sides of each group of ``blocks`` convolutions; pooling
    halves the map between two groups.
    """
    _check_groups(blocks, widths)
    if len(kernels) != len(widths) or not all(side % 2 for side in kernels):
        raise InputError(f"model.kernels must be an odd side for each of model.widths; got {list(kernels)}")
    layers, channels = OrderedDict[str, nn.Module](), in_channels
    for group, (width, side) in enumerate(zip(widths, kernels, strict=True), 1):
        for block in range(1, blocks + 1):
            name = f"{group}_{block}"
            layers[f"conv{name}"] = nn.Conv2d(channels, width, side, padding=side // 2, bias=False)
            layers[f"bn{name}"] = nn.BatchNorm2d(width)
            layers[f"relu{name}"] = nn.ReLU(inplace=True)
            channels = width
        if group < len(widths):
            layers[f"pool{group}"] = nn.MaxPool2d(2)
    return _classifier(layers, channels, num_classes)


def _classifier(layers: OrderedDict[str, nn.Module], channels: int, num_classes: int) -> nn.Module:
    layers.update(avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(channels, num_classes))
    return nn.Sequential(layers).apply(_initialise)


def _torchvisions(name: str, num_classes: int, in_channels: int) -> nn.Module:
    from torchvision import models

    network: nn.Module = models.get_model(name, weights=None, num_classes=num_classes)
    if in_channels != 3:
        network.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        _initialise(network.conv1)
    return network


def _initialise(layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's ResNet


def loss_and_scores(
    output: object, labels: Tensor, *, label_smoothing: float = 0.0, class_weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute the loss of a network's output in training mode, and its own scores ``(images, classes)``.

    ``labels`` are classes, ``(images,)``, or their shares, ``(images, classes)``. ``output`` are scores, or a tuple of
    the network's scores and those of auxiliary classifiers. ``class_weights``, float32 ``(classes,)``, multiply the
    loss of each image; the mean is over images, not over their weights, so that parts of a batch add up.
    """
    scores = (output,) if isinstance(output, Tensor) else output
    if not isinstance(scores, tuple) or not scores or not all(isinstance(each, Tensor) for each in scores):
        rule = "in training, a network must return scores or a tuple of scores and auxiliary scores"
        raise InputError(f"{rule}; got a {type(output).__name__}")

    def loss_of(scores: Tensor) -> Tensor:
        if class_weights is None:
            return cross_entropy(scores, labels, label_smoothing=label_smoothing)
        options: dict[str, Any] = {"weight": class_weights, "label_smoothing": label_smoothing}
        return cross_entropy(scores.float(), labels, reduction="sum", **options) / len(labels)

    loss, *losses = map(loss_of, scores)
    return loss + AUXILIARY_WEIGHT * sum(losses) if losses else loss, scores[0]


class Teacher:
    """The network before a rescale, on images of its own size (Hinton, Vinyals and Dean, 2015).

    Args:
        network: in evaluation mode from here on; not changed.
        image_px: side of its images, or height and width.
    """

    def __init__(self, network: nn.Module, image_px: ImageSize) -> None:
        self._network, self._image_px = network.eval(), image_px

    def distill(self, loss: Tensor, scores: Tensor, images: Tensor) -> Tensor:
        """Return the mean of ``loss`` and the divergence of ``scores`` from the teacher's.

        Args:
            loss: of the labels, mean over the images.
            scores: of the network in training, ``(n, classes)``.
            images: that the scores are for, ``(n, channels, h, w)``; the teacher gets them resized.
        """
        with torch.no_grad():
            own = self._network(interpolate(images, self._image_px, mode="bilinear", antialias=True))
        soft, wanted = (log_softmax(one.float() / _TEMPERATURE, dim=1) for one in (scores, own))
        divergence = kl_div(soft, wanted, reduction="batchmean", log_target=True)
        return (1 - _TEACHERS_WEIGHT) * loss + _TEACHERS_WEIGHT * _TEMPERATURE**2 * divergence
