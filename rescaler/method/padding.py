"""How a pre-train network's convolutions are padded, so that its feature maps fit together as the target's do."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase

import torch
from torch import nn

from rescaler.errors import ArgumentError, InputError, listed, one_line
from rescaler.method.layers import Layer, Margins, Size, margins, pretrain_network
from rescaler.method.trace import Shapes


def wanted_padding(
    padding: Mapping[str, int], convolutions: Collection[str], shrunk: Collection[str], *, argument: str
) -> dict[str, int]:
    """Padding by convolution, from padding by name or pattern.

    Args:
        padding: pixels by name of a convolution, or by pattern (``layer4.*``) for all whose kernels shrink; a name goes
            before a pattern, a later pattern before an earlier one.
        convolutions: names of all convolutions.
        shrunk: names of those whose kernels shrink.
        argument: what the padding is called, for errors.

    Raises:
        ArgumentError: a name or pattern fits no convolution, or an amount is no number of pixels.
    """
    wanted = {}
    for pattern, amount in padding.items():
        if isinstance(amount, bool) or not isinstance(amount, int) or amount < 0:
            raise ArgumentError(argument, f"[{pattern!r}] must be a non-negative integer; got {amount!r}")
        if pattern in convolutions:
            continue
        fitting = [name for name in shrunk if fnmatchcase(name, pattern)]
        if not fitting:
            raise ArgumentError(
                argument, f": {pattern!r} fits no convolution whose kernel shrinks; there are {listed(shrunk)}"
            )
        wanted.update(dict.fromkeys(fitting, amount))
    return wanted | {name: amount for name, amount in padding.items() if name in convolutions}


def padded(layer: Layer, conv: nn.Conv2d, input_size: Size, drift: list[int]) -> Layer:
    """The layer with a padding by which its smaller kernel keeps the output size.

    Classes with a ``forward`` of their own may pad for themselves by the size of their kernel. Whether they do is found
    out by calling them: their padding is left alone where the output size then stays.

    Args:
        layer: with the target's padding.
        conv: the target's convolution, of an outlined network.
        input_size: height and width of the target's feature map.
        drift: of the features along each axis so far, in half pixels; an odd pixel goes against it and is added to it.

    Raises:
        InputError: the convolution's own way of padding changes the output size, or it cannot be called by itself.
    """
    kind = type(conv)
    special = kind.forward is not nn.Conv2d.forward or kind._conv_forward is not nn.Conv2d._conv_forward
    if special and not isinstance(conv.padding, str) and _keeps_output_size(conv, layer, input_size):
        return layer
    layer = replace(layer, pretrain_padding=_safe_padding(conv, layer.pretrain_kernel, drift))
    if special and not _keeps_output_size(conv, layer, input_size):
        raise InputError(
            f"layer {layer.name}: its class {kind.__name__} pads in its own way, by which a kernel of "
            f"{'x'.join(map(str, layer.pretrain_kernel))} gives another output size than the target's"
        )
    return layer


def _safe_padding(conv: nn.Conv2d, kernel: Size, drift: list[int]) -> Margins:
    """Padding of 2p - (k - k')d pixels an axis, which keeps the output size; the odd one against the drift."""
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
    height, width = input_size
    for more in range(max(conv.stride)):  # all remainders by the stride: other image sizes must fit too
        shape = (2, conv.in_channels, height + more, width + more)
        maps = torch.zeros(shape, dtype=conv.weight.dtype)
        try:
            with Shapes():
                changed = small(maps).shape != conv(maps).shape
        except Exception as error:  # whatever a user's class raises
            reason = one_line(error)
            raise InputError(
                f"layer {layer.name}: its class {type(conv).__name__} does not take a feature map alone: {reason}"
            ) from error
        if changed:
            return False
    return True
