"""A layer in both networks, and rows of a table of layers: how much of a network fits into a terminal."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from rescaler.method.cost import bounds
from rescaler.method.layers import Margins

COLUMNS = ("Layer", "Kind", "Kernel", "Padding", "Map", "Multiplications", "Ratio", "s", "s²", "s⁴")
WORDS = ("Kind", "Kernel", "Padding", "Map")
_NAME_WIDTH = 36

Sides = tuple[int, ...]
"""Height and width, in pixels; one side or three for the other convolutions."""
Kind = Literal["convolution", "grouped", "depthwise", "transposed", "interface", "linear"]
"""``interface``: a fully-connected layer that receives a flattened feature map of another size."""


@dataclass(frozen=True)
class DescribedLayer:
    """One layer in both networks. A fully-connected layer is a 1x1 convolution, an interface one as large as its map.

    Multiplications are those of one image's forward pass, over all calls of the layer.
    """

    name: str
    kind: Kind
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
        """Table 1's s: ratio of the kernels' sides; their geometric mean where the axes differ, so that s² holds."""
        return math.sqrt(math.prod(self.target_kernel) / math.prod(self.pretrain_kernel))

    @property
    def ratio(self) -> float:
        """Target's multiplications over the pre-train network's: by Eq. 4 at least s² and less than s⁴."""
        return self.target_macs / self.pretrain_macs

    @property
    def bounds_macs(self) -> tuple[float, float]:
        """Eq. 4's bounds of ``pretrain_macs``."""
        return bounds(self.target_macs, self.scale)


def alike(layers: Iterable[DescribedLayer]) -> list[list[DescribedLayer]]:
    """Layers of the same kind, kernel, padding (on whichever sides) and feature maps; channels may differ."""
    groups: dict[object, list[DescribedLayer]] = {}
    for layer in layers:
        unsided = [(*sorted(sides[:2]), *sorted(sides[2:])) for sides in paddings([layer])]
        kernels, maps = (layer.target_kernel, layer.pretrain_kernel), (layer.target_output, layer.pretrain_output)
        key = (layer.kind, kernels, maps, *unsided)
        groups.setdefault(key, []).append(layer)
    return list(groups.values())


def paddings(layers: Iterable[DescribedLayer]) -> list[Margins]:
    """Paddings of all layers, in both networks."""
    return [padding for layer in layers for padding in (layer.target_padding, layer.pretrain_padding)]


def row(layers: Sequence[DescribedLayer]) -> list[str]:
    """Cells of one row, for layers that are alike; ``*`` where the ratio is outside of Eq. 4's bounds."""
    first = layers[0]
    target_macs = sum(layer.target_macs for layer in layers)
    pretrain_macs = sum(layer.pretrain_macs for layer in layers)
    ratio, square = target_macs / pretrain_macs, first.scale**2
    # Up to rounding: s comes by way of a root.
    outside = "*" if square > 1 and not 1 - 1e-9 < ratio / square < square * (1 + 1e-9) else ""
    return [
        _name(layers),
        first.kind,
        _arrow(_size(first.target_kernel), _size(first.pretrain_kernel)),
        _arrow(_padding(first.target_padding), _padding(first.pretrain_padding)),
        _arrow(_size(first.target_output), _size(first.pretrain_output)),
        change(target_macs, pretrain_macs),
        f"{outside}{ratio:.2f}",
        f"{first.scale:.2f}",
        f"{square:.2f}",
        f"{square**2:.2f}",
    ]


def _name(layers: Sequence[DescribedLayer]) -> str:
    more = f" and {len(layers) - 1} more" if len(layers) > 1 else ""
    name, width = layers[0].name, _NAME_WIDTH - len(more)
    return (name if len(name) <= width else f"…{name[1 - width :]}") + more


def _size(size: Sides) -> str:
    return "x".join(map(str, size))


def _padding(sides: Margins) -> str:
    left, right, top, bottom = sides
    vertical, horizontal = (str(a) if a == b else f"{a},{b}" for a, b in ((top, bottom), (left, right)))
    return vertical if vertical == horizontal else f"{vertical} x {horizontal}"


def change(target_macs: int, pretrain_macs: int) -> str:
    """Multiplications of both networks."""
    return f"{quantity(target_macs)} -> {quantity(pretrain_macs)}"


def _arrow(target: str, pretrain: str) -> str:
    return target if target == pretrain else f"{target} -> {pretrain}"


def quantity(value: float) -> str:
    """Three digits and a prefix: ``2.80 G``."""
    for unit, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * unit:
            whole = len(str(int(value / unit * 1.0005)))
            return f"{value / unit:.{max(0, 3 - whole)}f} {prefix}"
    return f"{value:.0f}"
