"""Pad even kernels without copies of feature maps.

A kernel of even side needs an odd number of pixels of padding to keep the size of its map, and torch's convolutions pad
both sides alike: another layer has to copy the map, which takes a large part of a small convolution's time. Instead
one convolution pads a pixel less, so that its map shrinks by one, and the convolution that takes this map pads one
more, or the other way around: the half pixels of shift cancel. Where no such pair is found, a pooling or a stride may
swallow the pixel.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from rescaler.errors import ArgumentError, InputError
from rescaler.method.layers import Layer, Margins
from rescaler.method.trace import OTHER, POOLING, Call

Calls = dict[str, Call]


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
        calls: of the pre-train network with them.
        consumers: what takes the output of each convolution.
        fixed: layers whose padding the user or the network gave.
        strided: convolutions with a stride, which may swallow a pixel as poolings do.
        calls_of: traces the pre-train network with other layers.

    Returns:
        The layers, and the calls of the pre-train network with them. No other layer's map has changed its size.
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
