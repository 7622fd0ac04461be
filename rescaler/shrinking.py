"""Derive the pre-train network from the target network (Gusmão et al., section 3.2)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from torch import nn

from rescaler.errors import InputError
from rescaler.kernels import TABLE_1
from rescaler.layers import InterfaceLinear, Layer, Margins, Size, margins, pretrain_network
from rescaler.trace import Call, meta_copy, trace

__all__ = ["InterfaceLinear", "Layer", "Shrunk", "shrink"]


@dataclass(frozen=True)
class Shrunk:
    """A pre-train network, the side of its images and how its layers follow from the target's."""

    network: nn.Module
    image_px: int
    layers: tuple[Layer, ...]
    """Convolutions in the order of the forward pass, then interfaces."""


def shrink(
    target: nn.Module,
    image_px: int,
    *,
    table: Mapping[int, int] = TABLE_1,
    pretrain_px: int | None = None,
    padding: Mapping[str, int] | None = None,
    channels: int | None = None,
) -> Shrunk:
    """Make the network with smaller kernels that is trained first, on smaller images.

    Modules and parameters keep their names. A shrunk convolution is padded (or its input cropped) so that it gives the
    output size that the target's would give for the same input; an odd pixel goes alternately to the right/bottom and
    to the left/top, or features would drift by half a pixel a layer.

    Nothing is learnt yet, so no weights move: each smaller kernel is the centre of the target's, made larger by the
    root of the ratio of their areas. For every random initialisation that is scaled by the layer's fan-in or fan-out
    this is the distribution of the smaller layer's own initialisation. All else is copied.

    Args:
        target: network of ``Conv2d`` layers, on any device; not changed.
        image_px: side of the target's images.
        table: side of a target kernel -> side of its pre-train kernel; default: the paper's Table 1.
        pretrain_px: side of the pre-train images; default: ``image_px`` / s_1, rounded, with s_1 of the first layer
            whose kernel shrinks.
        padding: padding of single pre-train convolutions by name. Goes before the target's attribute
            ``pretrain_padding`` of the same form, of which those count whose kernel shrinks, before the rule above.
        channels: of the images; default: what the first convolution takes.

    Raises:
        InputError: the target cannot be shrunk this way, or the images are too small for either network.
    """
    convolutions = _convolutions(target)
    _check(image_px, table, pretrain_px)
    wanted = _wanted_padding(target, convolutions, table, padding or {})
    channels = channels or next(iter(convolutions.values())).in_channels
    target_calls = trace(meta_copy(target), channels, image_px, key="data.image_px")
    called = {name: convolutions[name] for name in target_calls if name in convolutions}
    layers = _plan(called, target_calls, table, wanted)
    if pretrain_px is None:
        pretrain_px = _pretrain_px(layers, image_px)
    pretrain_calls = trace(pretrain_network(meta_copy(target), layers), channels, pretrain_px, key="shrink.image_px")
    if pretrain_calls.keys() != target_calls.keys():
        raise InputError(f"the network calls other layers on images of {pretrain_px} px than on {image_px} px")
    layers = [replace(layer, pretrain_output=pretrain_calls[layer.name].output_size) for layer in layers]
    layers += _interfaces(target, target_calls, pretrain_calls)
    return Shrunk(pretrain_network(target, layers), pretrain_px, tuple(layers))


def _convolutions(target: object) -> dict[str, nn.Conv2d]:
    if not isinstance(target, nn.Module):
        raise InputError(f"the target network must be a torch.nn.Module; got a {type(target).__name__}")
    found = {name: module for name, module in target.named_modules() if isinstance(module, nn.Conv2d)}
    if not found:
        raise InputError(f"the target network ({type(target).__name__}) has no Conv2d: there is nothing to shrink")
    return found


def _check(image_px: int, table: Mapping[int, int], pretrain_px: int | None) -> None:
    if not _is_integer(image_px) or image_px < 1:
        raise InputError(f"data.image_px must be a positive integer; got {image_px!r}")
    if pretrain_px is not None and not (_is_integer(pretrain_px) and 1 <= pretrain_px <= image_px):
        raise InputError(f"shrink.image_px must be an integer from 1 to data.image_px={image_px}; got {pretrain_px!r}")
    for large, small in table.items():
        if not (_is_integer(large) and _is_integer(small) and 1 <= small <= large):
            raise InputError(
                f"shrink.table maps a kernel side to one from 1 to itself, both integers; got {large!r}: {small!r}"
            )


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _wanted_padding(
    target: nn.Module, convolutions: Mapping[str, nn.Conv2d], table: Mapping[int, int], padding: Mapping[str, int]
) -> dict[str, int]:
    kept = {name for name, conv in convolutions.items() if all(table.get(side) == side for side in conv.kernel_size)}
    own: Mapping[str, int] = getattr(target, "pretrain_padding", {})
    wanted = {name: amount for name, amount in own.items() if name not in kept} | dict(padding)
    for name, amount in wanted.items():
        if name not in convolutions:
            raise InputError(f"shrink.padding: there is no convolution {name!r}; there are {', '.join(convolutions)}")
        if not _is_integer(amount) or amount < 0:
            raise InputError(f"shrink.padding.{name} must be a non-negative integer; got {amount!r}")
    return wanted


def _plan(
    convolutions: Mapping[str, nn.Conv2d],
    calls: Mapping[str, Call],
    table: Mapping[int, int],
    wanted: Mapping[str, int],
) -> list[Layer]:
    """Choose kernels and padding in the order of the forward pass; the pre-train output sizes are not known yet."""
    sizes = {name: conv.kernel_size for name, conv in convolutions.items()}
    missing = [f"{name} ({h}x{w})" for name, (h, w) in sizes.items() if not {h, w} <= table.keys()]
    if missing:
        raise InputError(f"shrink.table has no kernel side for {', '.join(missing)}; it has {sorted(table)}")
    if all(table[side] == side for size in sizes.values() for side in size):
        kernels = ", ".join(sorted({f"{h}x{w}" for h, w in sizes.values()}))
        raise InputError(f"shrink.table={dict(table)} shrinks none of the network's kernels ({kernels})")
    layers = []
    drift = [0, 0]  # of the features along each axis, in half pixels
    for name, conv in convolutions.items():
        (h, w), output = conv.kernel_size, calls[name].output_size
        kernel = table[h], table[w]
        if name in wanted:
            padding: Margins = (wanted[name],) * 4
        elif kernel == (h, w):
            padding = margins(conv)
        else:
            padding = _safe_padding(conv, kernel, drift)
        layers.append(Layer(name, "convolution", (h, w), kernel, padding, output, output))
    return layers


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


def _pretrain_px(layers: Iterable[Layer], image_px: int) -> int:
    """Image side over s_1 (section 3.2.1), of the first layer that shrinks and its side that shrinks the most."""
    first = next(layer for layer in layers if layer.pretrain_kernel != layer.target_kernel)
    sides = zip(first.target_kernel, first.pretrain_kernel, strict=True)
    large, small = max(sides, key=lambda side: side[0] / side[1])
    return round(image_px * small / large)


def _interfaces(target: nn.Module, target_calls: Mapping[str, Call], pretrain_calls: Mapping[str, Call]) -> list[Layer]:
    """Find the fully-connected layers whose input is a flattened feature map of another size."""
    found = []
    for name, call in target_calls.items():
        linear, pretrain_call = target.get_submodule(name), pretrain_calls[name]
        if not isinstance(linear, nn.Linear):
            continue
        features, pretrain_features = call.input[-1], pretrain_call.input[-1]
        if features != linear.in_features:
            raise InputError(
                f"data.image_px does not suit the network: layer {name} takes {linear.in_features} features, "
                f"but these images give {features}"
            )
        large, small = call.flattened, pretrain_call.flattened
        if features == pretrain_features and large == small:
            continue
        if large is None or small is None or large[0] != small[0]:
            raise InputError(
                f"layer {name} gets {pretrain_features} features instead of {features} in the pre-train network, and "
                "they are not one flattened (channels, height, width) feature map"
            )
        if small[1] > large[1] or small[2] > large[2]:
            raise InputError(
                f"layer {name} gets a feature map of {small[1]}x{small[2]} in the pre-train network, larger than the "
                f"target's {large[1]}x{large[2]}: take a smaller shrink.image_px or shrink.padding"
            )
        found.append(Layer(name, "interface", large[1:], small[1:], (0, 0, 0, 0), (1, 1), (1, 1)))
    return found
