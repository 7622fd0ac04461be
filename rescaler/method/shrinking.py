"""Derive the pre-train network from the target network (Gusmão et al., section 3.2)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from operator import gt
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.utils import _pair
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils.parametrize import is_parametrized

from rescaler.errors import ArgumentError, InputError, listed
from rescaler.method import (
    MAX_IMAGE_PX,
    SIZE_RULE,
    ImageSize,
    check_integer,
    height_width,
    image_size,
    is_image_size,
    size_text,
)
from rescaler.method.kernels import KERNEL_TABLE, Size, two_thirds
from rescaler.method.layers import Layer, Weighted, margins, pretrain_network, refuse_computed, size_of
from rescaler.method.padding import named_padding, planned_layers, without_copies
from rescaler.method.trace import Call, Trace, outline, trace

_NEAR = 0.08
"""How much another size of the pre-train images may differ from the derived one."""
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Shrunk:
    """A pre-train network, the size of its images and its layers beside the target's."""

    network: nn.Module
    image_px: int | Any  # no union, as who has squares alone need not tell them from pairs
    """Side of square images in pixels, else ``(height, width)``."""
    layers: tuple[Layer, ...]
    """Convolutions in the order of the forward pass, then the layers that cover a whole feature map."""
    notes: tuple[str, ...] = ()
    """Layers left as they are and why, a sentence each."""


def shrink(
    target: nn.Module,
    image_px: ImageSize,
    *,
    table: Mapping[int, int] = KERNEL_TABLE,
    pretrain_px: ImageSize | None = None,
    padding: Mapping[str, int] | None = None,
    channels: int | None = None,
    input_only: bool = False,
    trained: bool = False,
) -> Shrunk:
    """Make the pre-train network, with smaller kernels for smaller images.

    Names stay. A shrunk convolution is padded (or its input cropped) to keep the target's output size; where that takes
    an odd number of pixels, :mod:`rescaler.method.padding` avoids a copy of the map, or the odd pixel goes alternately
    to the right/bottom and to the left/top, or features would drift by half a pixel a layer. No kernel becomes smaller
    than its stride, which would leave pixels out: so patch embeddings stay. A layer that covers a whole feature map
    (fully-connected behind a flattened one, or a convolution or fixed pooling as large as it) takes the smaller map.

    Each smaller kernel is the centre of the target's, times the root of the ratio of their areas: for initialisations
    scaled by fan-in or fan-out, the distribution of the smaller layer's own. All else is copied.

    Args:
        target: network of ``Conv2d`` layers, on any device; not changed.
        image_px: side of the target's images, or ``(height, width)``.
        table: side of a target kernel -> side of its pre-train kernel; default: the paper's Table 1, continued to 15.
        pretrain_px: side of the pre-train images, or ``(height, width)``; default: each side of ``image_px`` / s_1,
            rounded, with s_1 of the first layer whose kernel shrinks; where that does not fit, or copies maps to pad
            them, a multiple of the network's stride within 8 % may take its place.
        padding: padding of pre-train convolutions by name, or by pattern (``*``, ``layer4.*``) of those that shrink; a
            convolution named here is never an interface. Overrides the target's attribute ``pretrain_padding`` of the
            same form, which overrides the rule above.
        channels: of the images; default: what the first convolution takes.
        input_only: progressive resizing, for comparison: kernels and padding stay, only images become smaller.
        trained: the target has trained weights: kernels are resized by the least-squares inverse of
            :func:`rescaler.rescale` (bilinear), as the centre of a trained kernel responds to something else.

    Raises:
        InputError: the target cannot be shrunk this way, or the images are too small for either network.
    """
    convolutions = _find_convolutions(target)
    padding = {} if padding is None else padding
    image_px = _checked_size("image_px", image_px, MAX_IMAGE_PX)
    if pretrain_px is not None:
        pretrain_px = _checked_size("pretrain_px", pretrain_px, image_px)
    channels = next(iter(convolutions.values())).in_channels if channels is None else channels
    check_integer("channels", channels, 1)
    if not isinstance(table, Mapping) or not (table or input_only and pretrain_px):
        raise ArgumentError("table", f" must map target to pre-train kernel sides, such as {{3: 2}}; got {table!r}")
    for large, small in table.items():
        check_integer("table", large, 1, key=": a side")
        check_integer("table", small, 1, large, key=f"[{large}]")
    if not isinstance(padding, Mapping) or input_only and padding:
        rule = "be empty with input_only, which keeps it" if input_only else "map names of layers to pixels"
        raise ArgumentError("padding", f" must {rule}; got {padding!r}")
    outlined = outline(target)
    traced = trace(outlined, channels, image_px, argument="image_px")
    calls = traced.calls
    whole = {name for name, call in calls.items() if _covers_map(target.get_submodule(name), call)} - padding.keys()
    usual = {name: convolutions[name] for name in calls if name in convolutions and name not in whole}
    kernels = {name: size_of(conv) for name, conv in usual.items()}
    if not input_only:
        kernels = _smaller_kernels(target, usual, table)
    elif pretrain_px is None:
        pretrain_px = shrink(target, image_px, table=table, channels=channels).image_px
    sizes = [pretrain_px] if pretrain_px else _sizes(_pretrain_px(usual, kernels, image_px), image_px, calls)
    shrunk = [name for name, kernel in kernels.items() if kernel != size_of(convolutions[name])]
    if borrowed := sorted(traced.borrowed & whole.union(shrunk)):
        raise InputError(f"layer {borrowed[0]}: a function of the network takes its weight, too, which would shrink")
    own = getattr(target, "pretrain_padding", {})
    own = {name: amount for name, amount in own.items() if name in shrunk or name not in convolutions}
    fixed = named_padding(own, convolutions, kernels, shrunk, argument="pretrain_padding")
    fixed |= named_padding(padding, convolutions, kernels, shrunk, argument="padding")
    planned = planned_layers(outlined, kernels, calls, fixed)
    strided = {name for name, conv in usual.items() if max(conv.stride) > 1}

    def fit(px: ImageSize) -> list[Layer]:
        def calls_of(layers: Sequence[Layer]) -> dict[str, Call]:
            small = pretrain_network(outlined, layers, share=True)
            return trace(small, channels, px, argument="pretrain_px", fitted=whole).calls

        layers, found = planned, calls_of(planned)
        if found.keys() != calls.keys():
            both = f"{size_text(px)} px than on {size_text(image_px)} px"
            raise InputError(f"the network calls other layers on images of {both}")
        if not input_only:
            layers, found = without_copies(planned, found, traced.consumers, fixed.keys(), strided, calls_of)
        layers = [replace(layer, pretrain_output=found[layer.name].output_size) for layer in layers]
        return layers + _interfaces(target, calls, found, whole)

    pretrain_px, layers = _first_without_copies(sizes, fit)
    notes = () if input_only else _notes(target, kernels, traced, table)
    return Shrunk(pretrain_network(target, layers, trained=trained), pretrain_px, tuple(layers), notes)


def _find_convolutions(target: nn.Module) -> Mapping[str, nn.Conv2d]:
    """Find the convolutions by name, and check that weights are plain floating-point parameters."""
    if not isinstance(target, nn.Module):
        raise InputError(f"the target network must be a torch.nn.Module; got a {type(target).__name__}")
    for name, module in target.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, UninitializedParameter):
            raise InputError(f"layer {name} has no weights yet: call the network once, on images of the target's size")
        computed = isinstance(weight, Tensor) and not isinstance(weight, nn.Parameter) and not is_parametrized(module)
        if computed and (isinstance(module, Weighted) or getattr(weight, "grad_fn", None) is not None):
            refuse_computed(name)  # by a hook, as in torch.nn.utils.weight_norm: it cannot be copied
        if isinstance(module, nn.Conv2d) and module.weight.dtype not in _DTYPES:
            allowed = ", ".join(map(str, _DTYPES))
            raise InputError(f"layer {name} has weights of {module.weight.dtype}; kernels are shrunk in {allowed}")
    found = {name: module for name, module in target.named_modules() if isinstance(module, nn.Conv2d)}
    if not found:
        raise InputError(f"the target network ({type(target).__name__}) has no Conv2d: there is nothing to shrink")
    return found


def _checked_size(argument: str, value: Any, most: ImageSize) -> ImageSize:
    size: ImageSize = image_size(value)
    if not is_image_size(size) or any(map(gt, height_width(size), height_width(most))):
        raise ArgumentError(argument, f" must be {SIZE_RULE} {size_text(most)}; got {value!r}")
    return size


def _covers_map(layer: nn.Module, call: Call) -> bool:
    """Whether a convolution or pooling covers its whole unpadded input in every call."""
    if isinstance(layer, nn.Conv2d):
        unpadded = margins(layer) == (0, 0, 0, 0)
    elif isinstance(layer, nn.AvgPool2d | nn.MaxPool2d):
        unpadded = _pair(layer.padding) == (0, 0) and getattr(layer, "divisor_override", None) is None
    else:
        return False
    return unpadded and _pair(layer.kernel_size) == call.input_size != (1, 1) and call.positions == call.times


def _smaller_kernels(
    target: nn.Module, convolutions: Mapping[str, nn.Conv2d], table: Mapping[int, int]
) -> dict[str, Size]:
    """Look up kernels in the table, none smaller than its stride."""
    kernels: dict[str, Size] = {}
    used: dict[int, int] = {}
    lacking: dict[str, set[int]] = {}
    for name, conv in convolutions.items():
        sides = list(zip(conv.kernel_size, conv.stride, strict=True))
        overlapping = {side for side, stride in sides if side > stride}
        used |= {side: table[side] for side in overlapping & table.keys()}
        if overlapping - table.keys():
            lacking[name] = overlapping - table.keys()
        else:
            h, w = (side if side <= stride else max(table[side], stride) for side, stride in sides)
            kernels[name] = (h, w)
    if lacking:
        rule = ", ".join(f"{side}: {two_thirds(side)}" for side in sorted(set().union(*lacking.values())))
        layers = listed(_described(name, convolutions[name]) for name in lacking)
        raise ArgumentError("table", f" has no kernel side for {layers}; it has {sorted(table)}; two thirds: {rule}")
    if any(kernels[name] != conv.kernel_size for name, conv in convolutions.items()):
        return kernels
    layers = listed(_described(name, conv) for name, conv in convolutions.items())
    if used:
        raise ArgumentError("table", f"={used} shrinks none of the network's kernels: {layers}")
    reason = f"none reaches beyond its stride, and a smaller one would leave pixels out: {layers}"
    reason = reason if convolutions else "it never calls a Conv2d on an image"
    raise InputError(f"{type(target).__name__} has no kernel to shrink: {reason}")


def _described(name: str, conv: nn.Conv2d) -> str:
    (h, w), stride = size_of(conv), conv.stride
    return f"{name} ({h}x{w}, stride {stride[0] if stride[0] == stride[1] else stride})"


def _pretrain_px(convolutions: Mapping[str, nn.Conv2d], kernels: Mapping[str, Size], image_px: ImageSize) -> Size:
    """Divide the images' sides by s_1 (section 3.2.1), of the first shrunk layer's axis that shrinks the most."""
    first = next(name for name, conv in convolutions.items() if kernels[name] != size_of(conv))
    sides = zip(convolutions[first].kernel_size, kernels[first], strict=True)
    large, small = max(sides, key=lambda side: side[0] / side[1])
    h, w = (round(side * small / large) for side in height_width(image_px))
    return h, w


def _sizes(derived: Size, image_px: ImageSize, calls: Mapping[str, Call]) -> list[ImageSize]:
    """List sizes of images to try: the derived one, and those with multiples of the network's stride near it."""
    whole = height_width(image_px)
    maps = [call.output_size for call in calls.values() if len(call.output) == 3]
    stride = max([1, *(round(px / side) for size in maps for px, side in zip(whole, size, strict=True) if side > 1)])
    each = []
    for px, most in zip(derived, whole, strict=True):
        multiples = (px // stride * stride, (px // stride + 1) * stride)
        each.append([px, *(side for side in multiples if 0 < abs(side - px) <= _NEAR * px and side <= most)])
    pairs = zip(*each, strict=True) if isinstance(image_px, int) else product(*each)  # those of squares are squares
    nearest = sorted(pairs, key=lambda pair: abs(pair[0] - derived[0]) + abs(pair[1] - derived[1]))
    return [image_size(pair) for pair in nearest]


def _first_without_copies(
    sizes: Sequence[ImageSize], fit: Callable[[ImageSize], list[Layer]]
) -> tuple[ImageSize, list[Layer]]:
    """Return the first size whose layers copy no map, else that with the fewest that do; raise if none fits."""
    fitting: list[tuple[ImageSize, list[Layer]]] = []
    refusals: list[InputError] = []
    for px in sizes:
        try:
            fitting.append((px, fit(px)))
        except InputError as error:
            refusals.append(error)
            continue
        if not any(layer.copies_map for layer in fitting[-1][1]):
            break
    if not fitting:
        raise refusals[0]
    return min(fitting, key=lambda one: sum(layer.copies_map for layer in one[1]))


def _interfaces(
    target: nn.Module, calls: Mapping[str, Call], pretrain_calls: Mapping[str, Call], whole: set[str]
) -> list[Layer]:
    """Find the layers that cover a whole feature map of another size in the pre-train network."""
    found = []
    for name, call in calls.items():
        module, pretrain_call = target.get_submodule(name), pretrain_calls[name]
        sizes = (call.input_size, pretrain_call.input_size) if name in whole else None
        if isinstance(module, nn.Linear):
            sizes = _flattened_sizes(name, module, call, pretrain_call)
        if sizes is None or sizes[0] == sizes[1]:
            continue
        large, small = sizes
        if small[0] > large[0] or small[1] > large[1]:
            raise InputError(
                f"layer {name} gets a feature map of {small[0]}x{small[1]} in the pre-train network, larger than the "
                f"target's {large[0]}x{large[1]}: give it smaller images or less padding"
            )
        kind: Literal["interface", "pooling"] = "interface" if hasattr(module, "weight") else "pooling"
        found.append(Layer(name, kind, *sizes, (0, 0, 0, 0), (1, 1), (1, 1)))
    return found


def _flattened_sizes(name: str, linear: nn.Linear, call: Call, pretrain_call: Call) -> tuple[Size, Size] | None:
    """Find the sizes of a fully-connected layer's flattened maps; None where its features are the same."""
    features, pretrain_features = call.input[-1], pretrain_call.input[-1]
    if features != linear.in_features:
        problem = f"layer {name} takes {linear.in_features} features, but these images give {features}"
        raise ArgumentError("image_px", f" does not suit the network: {problem}")
    large, small = call.flattened, pretrain_call.flattened
    if features == pretrain_features and large == small:
        return None
    if large is None or small is None or large[0] != small[0]:
        raise InputError(
            f"layer {name} gets {pretrain_features} features instead of {features} in the pre-train network, and "
            "they are not one flattened (channels, height, width) feature map"
        )
    return large[1:], small[1:]


def _notes(target: nn.Module, kernels: Mapping[str, Size], traced: Trace, table: Mapping[int, int]) -> tuple[str, ...]:
    bound, uncalled, other = [], [], []
    for name, module in target.named_modules():
        if isinstance(module, nn.Conv2d) and name in kernels:
            sides = zip(module.kernel_size, kernels[name], module.stride, strict=True)
            if any(large > 1 and (large <= stride or small > table[large]) for large, small, stride in sides):
                bound.append(_described(name, module))
        elif isinstance(module, nn.Conv2d):
            uncalled += [_described(name, module)] if name not in traced.calls else []
        elif isinstance(module, _ConvNd) or _has_kernel(module):
            other.append(f"{name} ({type(module).__name__})")
    reasons = (
        (bound, "as large as the stride, since a smaller kernel would leave pixels out"),
        (uncalled, "left as it is, since the network never calls it on an image"),
        (other, "left as it is, since only Conv2d is shrunk"),
        (traced.functional, "a convolution called as a function, left as it is and not counted: only layers are seen"),
    )
    return tuple(f"{listed(names)}: {reason}" for names, reason in reasons if names)


def _has_kernel(module: nn.Module) -> bool:
    weight = module._parameters.get("weight")
    return weight is not None and weight.dim() == 4 and max(weight.shape[2:]) > 1 and not any(module.children())
