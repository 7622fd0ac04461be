"""Derive the pre-train network from the target network (Gusmão et al., section 3.2)."""

import operator
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn
from torch.nn.modules.conv import _ConvNd

from rescaler.errors import ArgumentError, InputError, listed
from rescaler.method.kernel_sizes import described, image_side, smaller_kernels, whole_maps
from rescaler.method.kernels import KERNEL_TABLE
from rescaler.method.layers import Layer, Size, margins, pretrain_network, size_of
from rescaler.method.padding import padded, wanted_padding
from rescaler.method.shrinkable import check_network
from rescaler.method.trace import Call, outline, trace

__all__ = ["Layer", "Shrunk", "shrink"]


@dataclass(frozen=True)
class Shrunk:
    """A pre-train network, the side of its images and how its layers follow from the target's."""

    network: nn.Module
    image_px: int
    layers: tuple[Layer, ...]
    """Convolutions in the order of the forward pass, then what covers a whole feature map of another size."""
    notes: tuple[str, ...] = ()
    """What was left alone and why, and what may learn little, a sentence each."""


def shrink(
    target: nn.Module,
    image_px: int,
    *,
    table: Mapping[int, int] = KERNEL_TABLE,
    pretrain_px: int | None = None,
    padding: Mapping[str, int] | None = None,
    channels: int | None = None,
    input_only: bool = False,
) -> Shrunk:
    """Make the network with smaller kernels that is trained first, on smaller images.

    Modules and parameters keep their names. A shrunk convolution is padded (or its input cropped) so that it gives the
    output size that the target's would give for the same input; an odd pixel goes alternately to the right/bottom and
    to the left/top, or features would drift by half a pixel a layer. No kernel becomes smaller than its stride, which
    would leave pixels out: so patch embeddings stay. A fully-connected layer behind a flattened feature map takes the
    map that reaches it in the pre-train network, and so does a convolution or a fixed pooling that covers its input.

    Nothing is learnt yet, so no weights move: each smaller kernel is the centre of the target's, made larger by the
    root of the ratio of their areas. For every random initialisation that is scaled by the layer's fan-in or fan-out
    this is the distribution of the smaller layer's own initialisation. All else is copied.

    Args:
        target: network of ``Conv2d`` layers, on any device; not changed.
        image_px: side of the target's images.
        table: side of a target kernel -> side of its pre-train kernel; default: the paper's Table 1, continued to 15.
        pretrain_px: side of the pre-train images; default: ``image_px`` / s_1, rounded, with s_1 of the first layer
            whose kernel shrinks.
        padding: padding of pre-train convolutions by name, or by pattern (``*``, ``layer4.*``) of those whose kernels
            shrink; a convolution named here is never taken for a fully-connected layer. Goes before the target's
            attribute ``pretrain_padding`` of the same form, of which those count whose kernel shrinks, before the rule
            above.
        channels: of the images; default: what the first convolution takes.
        input_only: progressive resizing instead, to compare with: kernels and padding stay, only images (and what
            covers whole feature maps) become smaller.

    Raises:
        InputError: the target cannot be shrunk this way, or the images are too small for either network.
    """
    convolutions = check_network(target)
    _check(image_px, table, pretrain_px, channels)
    padding = _mapping({} if padding is None else padding, "padding")
    if input_only and padding:
        raise ArgumentError("padding", f" must be empty with input_only, which keeps it; got {dict(padding)}")
    channels = channels or next(iter(convolutions.values())).in_channels
    outlined = outline(target)
    target_calls, functional, borrowed = trace(outlined, channels, image_px, argument="image_px")
    whole = whole_maps(target, target_calls) - padding.keys()
    usual = {name: convolutions[name] for name in target_calls if name in convolutions and name not in whole}
    kernels = {name: size_of(conv) for name, conv in usual.items()}
    if pretrain_px is None or not input_only:
        smaller = smaller_kernels(target, usual, table)
        pretrain_px = pretrain_px or image_side(usual, smaller, image_px)
        kernels = kernels if input_only else smaller
    smaller_ones = whole | {name for name, kernel in kernels.items() if kernel != size_of(convolutions[name])}
    if torn := sorted(borrowed & smaller_ones):
        raise InputError(
            f"layer {torn[0]}: a function of the network takes its weight, too, which would become smaller"
        )
    layers = _plan(outlined, kernels, target_calls, _wanted(target, convolutions, kernels, padding))
    outlined_pretrain = pretrain_network(outlined, layers, shared=outlined.parameters())
    pretrain_calls = trace(outlined_pretrain, channels, pretrain_px, argument="pretrain_px", fitted=whole).calls
    if pretrain_calls.keys() != target_calls.keys():
        raise InputError(f"the network calls other layers on images of {pretrain_px} px than on {image_px} px")
    layers = [replace(layer, pretrain_output=pretrain_calls[layer.name].output_size) for layer in layers]
    layers += _interfaces(target, target_calls, pretrain_calls, whole)
    del outlined, outlined_pretrain  # they would stand beside the network that is made next
    notes = () if input_only else _notes(target, kernels, pretrain_calls, functional, table)
    return Shrunk(pretrain_network(target, layers), pretrain_px, tuple(layers), notes)


def _check(image_px: int, table: Mapping[int, int], pretrain_px: int | None, channels: int | None) -> None:
    for argument, number in (("image_px", image_px), ("channels", channels)):
        if number is not None and not (_is_integer(number) and number >= 1):
            raise ArgumentError(argument, f" must be a positive integer; got {number!r}")
    if pretrain_px is not None and not (_is_integer(pretrain_px) and 1 <= pretrain_px <= image_px):
        allowed = f"an integer from 1 to {image_px}, the side of the target's images"
        raise ArgumentError("pretrain_px", f" must be {allowed}; got {pretrain_px!r}")
    for large, small in _mapping(table, "table").items():
        if not (_is_integer(large) and _is_integer(small) and 1 <= small <= large):
            raise ArgumentError(
                "table", f" maps a kernel side to one from 1 to itself, both integers; got {large!r}: {small!r}"
            )


def _mapping(value: Any, argument: str) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise ArgumentError(argument, f" must be a mapping; got {value!r}")
    return value


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _wanted(
    target: nn.Module,
    convolutions: Mapping[str, nn.Conv2d],
    kernels: Mapping[str, Size],
    padding: Mapping[str, int],
) -> dict[str, int]:
    shrunk = [name for name, kernel in kernels.items() if kernel != convolutions[name].kernel_size]
    own = _mapping(getattr(target, "pretrain_padding", {}), "pretrain_padding")
    own = {name: amount for name, amount in own.items() if name in shrunk or name not in convolutions}
    return wanted_padding(own, convolutions, shrunk, argument="pretrain_padding") | wanted_padding(
        padding, convolutions, shrunk, argument="padding"
    )


def _plan(
    outlined: nn.Module, kernels: Mapping[str, Size], calls: Mapping[str, Call], wanted: Mapping[str, int]
) -> list[Layer]:
    """Choose the padding in the order of the forward pass; the pre-train output sizes are not known yet."""
    layers = []
    drift = [0, 0]  # of the features along each axis, in half pixels
    for name, kernel in kernels.items():
        conv, call = outlined.get_submodule(name), calls[name]
        assert isinstance(conv, nn.Conv2d)
        layer = Layer(name, "convolution", size_of(conv), kernel, margins(conv), call.output_size, call.output_size)
        if name in wanted:
            layer = replace(layer, pretrain_padding=(wanted[name],) * 4)
        elif kernel != conv.kernel_size:
            layer = padded(layer, conv, call.input_size, drift)
        layers.append(layer)
    return layers


def _interfaces(
    target: nn.Module, target_calls: Mapping[str, Call], pretrain_calls: Mapping[str, Call], whole: Collection[str]
) -> list[Layer]:
    """Find the layers that cover a whole feature map, which has another size in the pre-train network."""
    found = []
    for name, call in target_calls.items():
        module, pretrain_call = target.get_submodule(name), pretrain_calls[name]
        if isinstance(module, nn.Linear):
            sizes = _flattened_sizes(name, module, call, pretrain_call)
        elif name in whole:
            sizes = call.input_size, pretrain_call.input_size
        else:
            continue
        large, small = sizes
        if large == small:
            continue
        if small[0] > large[0] or small[1] > large[1]:
            raise InputError(
                f"layer {name} gets a feature map of {small[0]}x{small[1]} in the pre-train network, larger than the "
                f"target's {large[0]}x{large[1]}: give it smaller images or less padding"
            )
        kind: Literal["interface", "pooling"] = "interface" if hasattr(module, "weight") else "pooling"
        found.append(Layer(name, kind, large, small, (0, 0, 0, 0), (1, 1), (1, 1)))
    return found


def _flattened_sizes(name: str, linear: nn.Linear, call: Call, pretrain_call: Call) -> tuple[Size, Size]:
    """Height and width of the map that a fully-connected layer gets, in the target and in the pre-train network."""
    features, pretrain_features = call.input[-1], pretrain_call.input[-1]
    if features != linear.in_features:
        raise ArgumentError(
            "image_px",
            f" does not suit the network: layer {name} takes {linear.in_features} features, but these images give "
            f"{features}",
        )
    large, small = call.flattened, pretrain_call.flattened
    if features == pretrain_features and large == small:
        return (1, 1), (1, 1)
    if large is None or small is None or large[0] != small[0]:
        raise InputError(
            f"layer {name} gets {pretrain_features} features instead of {features} in the pre-train network, and "
            "they are not one flattened (channels, height, width) feature map"
        )
    return large[1:], small[1:]


def _has_kernel(module: nn.Module) -> bool:
    weight = module._parameters.get("weight")
    if isinstance(module, _ConvNd) or weight is None:
        return isinstance(module, _ConvNd)
    return weight.dim() == 4 and max(weight.shape[2:]) > 1 and not any(module.children())


def _notes(
    target: nn.Module,
    kernels: Mapping[str, Size],
    calls: Mapping[str, Call],
    functional: Sequence[str],
    table: Mapping[int, int],
) -> tuple[str, ...]:
    """Say what was left alone and why, and what may learn little; ``calls`` are the pre-train network's."""
    bound, blind, uncalled, other = [], [], [], []
    for name, module in target.named_modules():
        if name in kernels:
            assert isinstance(module, nn.Conv2d)
            sides = zip(module.kernel_size, kernels[name], module.stride, strict=True)
            if any(large > 1 and (large <= stride or small > table[large]) for large, small, stride in sides):
                bound.append(described(name, module))
            reaches = (gap * (small - 1) for gap, small in zip(module.dilation, kernels[name], strict=True))
            if max(module.dilation) > 1 and any(map(operator.ge, reaches, calls[name].input_size)):
                blind.append(described(name, module))
        elif not isinstance(module, nn.Conv2d) and _has_kernel(module):
            other.append(f"{name} ({type(module).__name__})")
        elif isinstance(module, nn.Conv2d) and name not in calls:
            uncalled.append(described(name, module))
    reasons = (
        (bound, "as large as the stride, since a smaller kernel would leave pixels out"),
        (blind, "sees little but padding on the pre-train images: it is dilated, and its map small"),
        (uncalled, "left as it is, since the network never calls it on an image"),
        (other, "left as it is, since only Conv2d is shrunk"),
        (functional, "a convolution called as a function, left as it is and not counted: only layers are seen"),
    )
    return tuple(f"{listed(names)}: {reason}" for names, reason in reasons if names)
