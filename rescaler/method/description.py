"""Compare the target and the pre-train network layer by layer: kernels, feature maps, multiplications."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd

from rescaler.method import ImageSize, height_width, image_size
from rescaler.method.layers import Layer, Margins, copies_map, margins
from rescaler.method.shrinking import Shrunk, shrink
from rescaler.method.trace import Call, outline, trace
from rescaler.text import TextTable

COLUMNS = ("Layer", "Kind", "Kernel", "Padding", "Map", "Multiplications", "Ratio", "s", "s²", "s⁴")
_NAME_WIDTH = 36
Sides = tuple[int, ...]
"""Height and width in pixels; one side or three for the other convolutions."""


@dataclass(frozen=True)
class DescribedLayer:
    """One layer in both networks, and the multiplications of one image's forward pass over all its calls.

    A fully-connected layer is a 1x1 convolution, an interface one as large as its map.
    """

    name: str
    kind: str  # convolution, grouped, depthwise, transposed, interface or linear
    target_kernel: Sides
    pretrain_kernel: Sides
    target_padding: Margins
    pretrain_padding: Margins
    target_output: Sides
    pretrain_output: Sides
    target_macs: int
    pretrain_macs: int

    @property
    def scale(self) -> float:
        """Table 1's s, the ratio of the kernels' sides; their geometric mean where the axes differ."""
        return math.sqrt(math.prod(self.target_kernel) / math.prod(self.pretrain_kernel))

    @property
    def ratio(self) -> float:
        """Ratio of the multiplications: by Eq. 4 at least s² and less than s⁴."""
        return self.target_macs / self.pretrain_macs

    @property
    def bounds_macs(self) -> tuple[float, float]:
        """Exclusive lower and inclusive upper bound of ``pretrain_macs`` (Eq. 4)."""
        return self.target_macs / self.scale**4, self.target_macs / self.scale**2


@dataclass(frozen=True)
class Description:
    """A target network beside its pre-train network; prints as a table."""

    network: str
    target_px: ImageSize
    pretrain_px: ImageSize
    layers: tuple[DescribedLayer, ...]
    target_parameters: int
    pretrain_parameters: int
    notes: tuple[str, ...]  # layers left as they are, and why

    @property
    def target_macs(self) -> int:
        """Multiplications of the target network's forward pass on one image."""
        return sum(layer.target_macs for layer in self.layers)

    @property
    def pretrain_macs(self) -> int:
        """Multiplications of the pre-train network's forward pass on one image."""
        return sum(layer.pretrain_macs for layer in self.layers)

    @property
    def ratio(self) -> float:
        """Speed-up of the pre-train network, if multiplications alone take time."""
        return self.target_macs / self.pretrain_macs

    @property
    def bounds_macs(self) -> tuple[float, float]:
        """Sums of Eq. 4's bounds of ``pretrain_macs``; layers that keep their kernel count as they are."""
        kept = sum(layer.pretrain_macs for layer in self.layers if layer.scale == 1)
        low, high = (sum(layer.bounds_macs[end] for layer in self.layers if layer.scale > 1) for end in (0, 1))
        return kept + low, kept + high

    def __str__(self) -> str:
        return str(self.table())

    def table(self, *, every: bool = False) -> TextTable:
        """Tabulate the layers; unless ``every``, those that differ in channels alone share a row."""
        groups: dict[object, list[DescribedLayer]] = {}
        for layer in self.layers:
            groups.setdefault((layer.name if every else "", *_sizes(layer)), []).append(layer)
        macs, pretrain_macs = quantity(self.target_macs), quantity(self.pretrain_macs)
        total = ["total", "", "", "", "", f"{macs} -> {pretrain_macs}", f"{self.ratio:.2f}", "", "", ""]
        low, high = map(quantity, self.bounds_macs)
        heading = (
            f"{self.network}: target {_sides(height_width(self.target_px))}, {macs} multiplications, "
            f"{quantity(self.target_parameters)} parameters; pre-train {_sides(height_width(self.pretrain_px))}, "
            f"{pretrain_macs}, {quantity(self.pretrain_parameters)}: {self.ratio:.2f} times fewer"
        )
        notes = [
            f"Multiplications of one image, forward (Eq. 3). Eq. 4: smaller kernels save between s² and s⁴, so "
            f"{low} to {high} in all; * is outside: its map does not shrink as its kernel does.",
            "Padding 0,1: 1 px on the right and at the bottom, or on the left and at the top; -1: cropped.",
        ]
        convolutions = [layer for layer in self.layers if layer.kind not in ("interface", "linear")]
        even = [each for each in convolutions if any(side % 2 == 0 for side in each.pretrain_kernel)]
        if even:  # needs an odd number of pixels of padding
            copied = sum(copies_map(layer.pretrain_padding) for layer in even)
            notes.append(f"{copied} of {len(even)} even kernels copy their map to pad it.")
        return TextTable(heading, COLUMNS, [*map(_row, groups.values()), total], [*notes, *self.notes], COLUMNS[1:5])


def describe(network: nn.Module, image_px: ImageSize, *, channels: int | None = None, **options: Any) -> Description:
    """Describe the pre-train network of :func:`rescaler.shrink` and its multiplications by shapes alone.

    Arguments are those of :func:`rescaler.shrink`. Auxiliary classifiers, which only training calls, count.
    """
    target = outline(network) if isinstance(network, nn.Module) else network  # shrink raises
    shrunk = shrink(target, image_px, channels=channels, **options)
    channels = channels or next(module for module in target.modules() if isinstance(module, nn.Conv2d)).in_channels
    return compare(network, shrunk, image_size(image_px), channels=channels)


def compare(network: nn.Module, shrunk: Shrunk, image_px: ImageSize, *, channels: int) -> Description:
    """Describe a network beside its pre-train network."""
    pretrain = shrunk.network
    target_calls = trace(outline(network), channels, image_px, argument="image_px").calls
    pretrain_calls = trace(outline(pretrain), channels, shrunk.image_px, argument="pretrain_px").calls
    changed = {layer.name: layer for layer in shrunk.layers}
    layers = tuple(
        _describe_layer(name, network, pretrain, call, pretrain_calls[name], changed.get(name))
        for name, call in target_calls.items()
        if hasattr(network.get_submodule(name), "weight")  # pooling multiplies nothing
    )
    large, small = (sum(p.numel() for p in each.parameters()) for each in (network, pretrain))
    return Description(type(network).__name__, image_px, shrunk.image_px, layers, large, small, shrunk.notes)


def _describe_layer(
    name: str, network: nn.Module, pretrain: nn.Module, call: Call, pretrain_call: Call, changed: Layer | None
) -> DescribedLayer:
    target = network.get_submodule(name)
    kernel: Sides = target.kernel_size if isinstance(target, _ConvNd) else (1, 1)
    padding: tuple[Margins, Margins] = ((0, 0, 0, 0), (0, 0, 0, 0))
    if isinstance(target, nn.Conv2d) and changed is not None and changed.kind == "convolution":
        padding = margins(target), changed.pretrain_padding
    kernels = (changed.target_kernel, changed.pretrain_kernel) if changed else (kernel, kernel)
    calls = ((network, call), (pretrain, pretrain_call))
    axes = slice(None, -1) if isinstance(target, nn.Linear) else slice(1, None)  # the channels are last, or first
    output, pretrain_output = (each.output[axes] or (1, 1) for _, each in calls)
    # Eq. 3 counts (h - k + 1)² positions, without stride or padding; here they are traced.
    macs, pretrain_macs = (made.get_parameter(f"{name}.weight").numel() * each.positions for made, each in calls)
    sizes = *kernels, *padding, output, pretrain_output
    return DescribedLayer(name, _kind(target, changed), *sizes, macs, pretrain_macs)


def _kind(target: nn.Module, changed: Layer | None) -> str:
    if changed is not None and changed.kind == "interface":
        return "interface"
    if not isinstance(target, _ConvNd):
        return "linear"
    kind = "convolution" if target.groups == 1 else "depthwise" if target.groups == target.in_channels else "grouped"
    return "transposed" if target.transposed else kind


def _sizes(layer: DescribedLayer) -> list[str]:
    pairs = (
        (_sides(layer.target_kernel), _sides(layer.pretrain_kernel)),
        (_padding(layer.target_padding), _padding(layer.pretrain_padding)),
        (_sides(layer.target_output), _sides(layer.pretrain_output)),
    )
    return [layer.kind, *(target if target == pretrain else f"{target} -> {pretrain}" for target, pretrain in pairs)]


def _sides(sides: Sides) -> str:
    return "x".join(map(str, sides))


def _padding(sides: Margins) -> str:
    horizontal, vertical = (str(a) if a == b else f"{a},{b}" for a, b in (sorted(sides[:2]), sorted(sides[2:])))
    return vertical if vertical == horizontal else f"{vertical} x {horizontal}"


def _row(layers: Sequence[DescribedLayer]) -> list[str]:
    """Cells of layers that are alike; ``*`` where the ratio is outside of Eq. 4's bounds."""
    first, more = layers[0], f" and {len(layers) - 1} more" if len(layers) > 1 else ""
    macs, pretrain_macs = (sum(x.target_macs for x in layers), sum(x.pretrain_macs for x in layers))
    ratio, square = macs / pretrain_macs, first.scale**2
    # Up to rounding, since s is a root.
    outside = "*" if square > 1 and not 1 - 1e-9 < ratio / square < square * (1 + 1e-9) else ""
    name, width = first.name, _NAME_WIDTH - len(more)
    name = (name if len(name) <= width else f"…{name[1 - width :]}") + more
    figures = [f"{outside}{ratio:.2f}", *(f"{first.scale**power:.2f}" for power in (1, 2, 4))]
    return [name, *_sizes(first), f"{quantity(macs)} -> {quantity(pretrain_macs)}", *figures]


def quantity(value: float) -> str:
    """Format a number with three digits and a prefix: ``2.80 G``."""
    for unit, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * unit:
            whole = len(str(int(value / unit * 1.0005)))
            return f"{value / unit:.{max(0, 3 - whole)}f} {prefix}"
    return f"{value:.0f}"
