"""Choose the padding of shrunk layers, such that even kernels copy no feature maps.

A kernel of even side needs an odd number of pixels of padding to keep the size of its map, and torch's convolutions pad
both sides alike: another layer has to copy the map, which takes a large part of a small convolution's time. Instead
one convolution pads a pixel less, so that its map shrinks by one, and the convolution that takes this map pads one
more, or the other way around: the half pixels of shift cancel. Where no such pair is found, a pooling or a stride may
swallow the pixel.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import torch
from torch import nn

from rescaler.errors import ArgumentError, InputError, listed, one_line
from rescaler.method import check_integer
from rescaler.method.kernels import Size
from rescaler.method.layers import Layer, Margins, margins, pretrain_network, size_of
from rescaler.method.trace import OTHER, POOLING, Call, Shapes, first_tensor

Calls = dict[str, Call]


def named_padding(
    padding: Mapping[str, int],
    convolutions: Mapping[str, nn.Conv2d],
    kernels: Mapping[str, Size],
    shrunk: list[str],
    argument: str,
) -> dict[str, int]:
    """Resolve patterns: a name overrides a pattern, a later pattern an earlier one."""
    found = {}
    for pattern, amount in sorted(padding.items(), key=lambda item: item[0] in convolutions):
        fitting = [pattern] if pattern in convolutions else [name for name in shrunk if fnmatchcase(name, pattern)]
        if not fitting:
            allowed = f"there are {listed(shrunk)}"
            raise ArgumentError(argument, f": {pattern!r} fits no convolution whose kernel shrinks; {allowed}")
        for name in fitting:
            conv = convolutions[name]
            reach = (
                gap * (side - 1) for gap, side in zip(conv.dilation, kernels.get(name, size_of(conv)), strict=True)
            )
            # With more, a kernel would see nothing but padding.
            check_integer(argument, amount, 0, max(*reach, *margins(conv)), key=f"[{pattern!r}]")
            found[name] = amount
    return found


def planned_layers(
    outlined: nn.Module, kernels: Mapping[str, Size], calls: Mapping[str, Call], fixed: Mapping[str, int]
) -> list[Layer]:
    """Choose the padding in the order of the forward pass; the pre-train output sizes follow later."""
    layers = []
    drift = [0, 0]  # of the features along each axis, in half pixels
    for name, kernel in kernels.items():
        conv, call = outlined.get_submodule(name), calls[name]
        assert isinstance(conv, nn.Conv2d)
        layer = Layer(name, "convolution", size_of(conv), kernel, margins(conv), call.output_size, call.output_size)
        # A class with its own forward may pad by its kernel size, which a call shows.
        own = any(getattr(type(conv), each) is not getattr(nn.Conv2d, each) for each in ("forward", "_conv_forward"))
        pads = own and layer.shrinks and not isinstance(conv.padding, str)
        if name in fixed:
            layer = replace(layer, pretrain_padding=(fixed[name],) * 4)
        elif layer.shrinks and not (pads and _keeps_output_size(conv, layer, call.input_size)):
            layer = replace(layer, pretrain_padding=_safe_padding(conv, kernel, drift))
            if own and not _keeps_output_size(conv, layer, call.input_size):
                reason = f"pads in its own way, by which a kernel of {kernel[0]}x{kernel[1]} gives another output size"
                raise InputError(f"layer {name}: its class {type(conv).__name__} {reason} than the target's")
        layers.append(layer)
    return layers


def _safe_padding(conv: nn.Conv2d, kernel: Size, drift: list[int]) -> Margins:
    """Pad by 2p - (k - k')d pixels an axis, which keeps the output size; the odd one against the drift."""
    left, right, top, bottom = margins(conv)
    sides = []
    for axis, padding in ((1, left + right), (0, top + bottom)):
        less, odd = divmod(padding - (conv.kernel_size[axis] - kernel[axis]) * conv.dilation[axis], 2)
        before, after = (less + odd, less) if drift[axis] > 0 else (less, less + odd)
        drift[axis] += after - before
        sides.append((before, after))
    return (*sides[0], *sides[1])


def _keeps_output_size(conv: nn.Conv2d, layer: Layer, input_size: Size) -> bool:
    small = pretrain_network(conv, [replace(layer, name="")])
    try:
        with Shapes():
            for more in range(max(conv.stride)):  # all remainders by the stride: other image sizes must fit too
                shape = (2, conv.in_channels, input_size[0] + more, input_size[1] + more)
                maps = torch.zeros(shape, dtype=conv.weight.dtype)
                given, wanted = first_tensor(small(maps)), first_tensor(conv(maps))
                if given is None or wanted is None or given.shape != wanted.shape:
                    return False
    except Exception as error:  # whatever a custom class raises
        reason = f"its class {type(conv).__name__} does not take a feature map alone: {one_line(error)}"
        raise InputError(f"layer {layer.name}: {reason}") from error
    return True


def without_copies(
    layers: Sequence[Layer],
    calls: Calls,
    consumers: Mapping[str, Sequence[str]],
    fixed: Collection[str],
    strided: Collection[str],
    calls_of: Callable[[Sequence[Layer]], Calls],
) -> tuple[list[Layer], Calls]:
    """Change the padding of shrunk layers so that as few as possible pad their sides differently.

    Args:
        layers: the planned layers, in the order of the forward pass.
        calls: of the pre-train network with them; returned with the new layers.
        consumers: what takes the output of each convolution.
        fixed: layers whose padding the user or the network gave.
        strided: convolutions with a stride, which may swallow a pixel as poolings do.
        calls_of: traces the pre-train network with other layers.
    """
    found = {layer.name: layer for layer in layers}
    candidates = [one.name for one in layers if one.shrinks and one.name not in fixed and one.copies_map]
    pairs: dict[str, str] = {}
    for name in candidates:
        takes = consumers.get(name, [OTHER])
        if name in pairs.values() or len(takes) != 1 or takes[0] not in candidates or takes[0] in pairs:
            continue
        if _odd_axes(found[name]) == _odd_axes(found[takes[0]]):
            pairs[name] = takes[0]
    changes = []
    for name, other in pairs.items():
        first = 1 if name in strided else -1  # a smaller map between the two is cheaper; a stride swallows the pixel
        changes.append({name: _symmetric(found[name], first), other: _symmetric(found[other], -first)})
    every = {name: layer for change in changes for name, layer in change.items()}
    # All at once; where that fails, one after the other.
    for change in [every, *changes] if len(changes) > 1 else changes:
        calls = _try(found, change, pairs.keys(), calls, calls_of) or calls
        if change is every and not any(found[name].copies_map for name in every):
            break
    for name in candidates:
        takes = consumers.get(name, [OTHER])
        swallowed = len(takes) == 1 and (takes[0] == POOLING or takes[0] in strided)
        if found[name].copies_map and (swallowed or name in strided):
            for sign in (-1, 1):
                may_move = {name} if swallowed else set()
                tried = _try(found, {name: _symmetric(found[name], sign)}, may_move, calls, calls_of)
                if tried is not None:
                    calls = tried
                    break
    return list(found.values()), calls


def _odd_axes(layer: Layer) -> tuple[bool, bool]:
    left, right, top, bottom = layer.pretrain_padding
    return (left + right) % 2 == 1, (top + bottom) % 2 == 1


def _symmetric(layer: Layer, sign: int) -> Layer:
    """Pad a pixel more (1) or less (-1) along each axis whose padding is odd."""
    left, right, top, bottom = layer.pretrain_padding
    sides = [(one + other + sign * ((one + other) % 2)) // 2 for one, other in ((left, right), (top, bottom))]
    padding: Margins = (sides[0], sides[0], sides[1], sides[1])
    return replace(layer, pretrain_padding=padding)


def _try(
    found: dict[str, Layer],
    change: Mapping[str, Layer],
    may_move: Collection[str],
    calls: Calls,
    calls_of: Callable[[Sequence[Layer]], Calls],
) -> Calls | None:
    """Take over changed layers, and return the calls with them, if only maps of ``may_move`` change their size."""
    if any(min(layer.pretrain_padding) < 0 for layer in change.values()):
        return None
    try:
        tried = calls_of([change.get(name, layer) for name, layer in found.items()])
    except (ArgumentError, InputError):  # maps that no longer fit each other, or are empty
        return None
    if tried.keys() != calls.keys():
        return None
    last = next(reversed(tried))
    for name, call in tried.items():
        flat = len(call.input) == 1  # what a fully-connected layer takes: an interface keeps its map
        if flat and (call.input, call.flattened) != (calls[name].input, calls[name].flattened):
            return None
        if (name not in may_move or name == last) and call.output != calls[name].output:
            return None
    found.update(change)
    return tried
