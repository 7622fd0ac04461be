"""Which kernels a pre-train network has (Gusmão et al., section 3.2.1 and Table 1)."""

from collections.abc import Mapping

from torch import nn
from torch.nn.modules.utils import _pair

from rescaler.errors import ArgumentError, InputError, listed
from rescaler.method.kernels import two_thirds
from rescaler.method.layers import Size, margins, size_of
from rescaler.method.trace import Call


def smaller_kernels(
    target: nn.Module, convolutions: Mapping[str, nn.Conv2d], table: Mapping[int, int]
) -> dict[str, Size]:
    """Kernels by the table, but none smaller than its stride.

    Args:
        target: the network, for messages.
        convolutions: its convolutions by name.
        table: side of a target kernel -> side of its pre-train kernel.

    Raises:
        InputError: the table lacks a side, or no kernel becomes smaller.
    """
    missing = {name: _overlapping(conv) - table.keys() for name, conv in convolutions.items()}
    if sides := set().union(*missing.values()):
        layers = ", ".join(described(name, convolutions[name]) for name, lacks in missing.items() if lacks)
        raise ArgumentError(
            "table",
            f" has no kernel side for {layers}; it has {sorted(table)}; "
            f"two thirds would be {', '.join(f'{side}: {two_thirds(side)}' for side in sorted(sides))}",
        )
    kernels = {}
    for name, conv in convolutions.items():
        h, w = (
            side if side <= stride else max(table[side], stride)
            for side, stride in zip(conv.kernel_size, conv.stride, strict=True)
        )
        kernels[name] = (h, w)
    if all(kernels[name] == conv.kernel_size for name, conv in convolutions.items()):
        layers = listed(described(name, conv) for name, conv in convolutions.items())
        used = {side: table[side] for conv in convolutions.values() for side in _overlapping(conv)}
        if used:
            raise ArgumentError("table", f"={used} shrinks none of the network's kernels: {layers}")
        if not convolutions:
            raise InputError(f"{type(target).__name__} has no kernel to shrink: it never calls a Conv2d on an image")
        raise InputError(
            f"{type(target).__name__} has no kernel to shrink: none reaches beyond its stride, and a smaller one would "
            f"leave pixels out: {layers}"
        )
    return kernels


def _overlapping(conv: nn.Conv2d) -> set[int]:
    """Sides of the kernel that are longer than its stride."""
    return {side for side, stride in zip(conv.kernel_size, conv.stride, strict=True) if side > stride}


def described(name: str, conv: nn.Conv2d) -> str:
    """A convolution for a message."""
    (h, w), stride = size_of(conv), conv.stride
    return f"{name} ({h}x{w}, stride {stride[0] if stride[0] == stride[1] else stride})"


def image_side(convolutions: Mapping[str, nn.Conv2d], kernels: Mapping[str, Size], image_px: int) -> int:
    """Image side over s_1 (section 3.2.1), of the first layer that shrinks and its side that shrinks the most."""
    first = next(name for name, conv in convolutions.items() if kernels[name] != size_of(conv))
    sides = zip(convolutions[first].kernel_size, kernels[first], strict=True)
    large, small = max(sides, key=lambda side: side[0] / side[1])
    return round(image_px * small / large)


def whole_maps(target: nn.Module, calls: Mapping[str, Call]) -> set[str]:
    """Names of the convolutions and poolings that cover the whole feature map, without padding, in every call."""
    found = set()
    for name, call in calls.items():
        module = target.get_submodule(name)
        if isinstance(module, nn.Conv2d):
            unpadded = margins(module) == (0, 0, 0, 0)
        elif isinstance(module, nn.AvgPool2d | nn.MaxPool2d):
            unpadded = _pair(module.padding) == (0, 0) and getattr(module, "divisor_override", None) is None
        else:
            continue
        covers = _pair(module.kernel_size) == call.input_size != (1, 1)
        if unpadded and covers and call.positions == call.count:
            found.add(name)
    return found
