"""How a layer of the pre-train network differs from the target's, and the surgery that makes it so."""

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, NoReturn

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from rescaler.errors import InputError

Size = tuple[int, int]
"""Height, width."""
FeatureMap = tuple[int, int, int]
"""Channels, height, width."""
Margins = tuple[int, int, int, int]
"""Padding on the left, right, top and bottom, in ``F.pad``'s order; negative where the feature map is cropped."""
_FLATTENED, _PADDING = "_rescaler_flattened", "_rescaler_padding"
"""Attributes of a pre-train network's layers: the map that it receives flattened, and the hook that pads its input."""
_Weighted = nn.Conv2d | nn.Linear


@dataclass(frozen=True)
class Layer:
    """One layer with a kernel, in both networks.

    An interface covers the whole feature map that reaches it (section 3.3.2): a fully-connected layer behind a
    flattened map, or a convolution as large as its input. So does the fixed pooling that is listed here.
    """

    name: str
    kind: Literal["convolution", "interface", "pooling"]
    target_kernel: Size
    pretrain_kernel: Size
    pretrain_padding: Margins
    target_output: Size
    pretrain_output: Size


class Flattened(NamedTuple):
    """The feature map that a fully-connected layer receives flattened: the number of features alone does not tell."""

    target: FeatureMap
    pretrain: FeatureMap


def flattened_map(module: nn.Module) -> Flattened | None:
    """What map a pre-train network's layer receives flattened, if its size is not the target's."""
    found: Flattened | None = module.__dict__.get(_FLATTENED)
    return found


def size_of(conv: nn.Conv2d) -> Size:
    """Height and width of a convolution's kernel."""
    height, width = conv.kernel_size
    return height, width


def margins(conv: nn.Conv2d) -> Margins:
    """Padding that a convolution gives its input."""
    if conv.padding == "same":  # an odd pixel goes to the right/bottom, as in torch
        h, w = (d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True))
        return (w // 2, w - w // 2, h // 2, h - h // 2)
    if isinstance(conv.padding, str):  # "valid"
        return (0, 0, 0, 0)
    h, w = conv.padding
    return (w, w, h, h)


def received(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What a layer is called on, by position or by the name that torch's layers have for it; None: on nothing."""
    return args[0] if args else kwargs.get("input")


def refuse_computed(name: str) -> NoReturn:
    """Refuse a layer whose weight is computed from other parameters, so that it cannot be exchanged."""
    raise InputError(f"layer {name}: its weight is computed (a parametrization); remove that first")


def pretrain_network(target: nn.Module, layers: Iterable[Layer], *, shared: Iterable[nn.Parameter] = ()) -> nn.Module:
    """Copy a network with these layers made smaller, under the same names and on the same device.

    Args:
        target: the network; not changed.
        layers: what is to be made smaller or padded otherwise.
        shared: parameters that the copy may have in common with ``target``, but for those made smaller.

    Raises:
        InputError: the weight of a layer cannot be exchanged: it is computed from other parameters, a layer that keeps
            its kernel has it too, or the network copies itself in a way of its own.
    """
    layers = tuple(layers)
    smaller = _smaller_weights(target, layers)
    # What deepcopy takes instead of a copy of its own.
    memo: dict[int, object] = {id(parameter): parameter for parameter in shared}
    network = copy.deepcopy(target, memo | smaller)
    for layer in layers:
        module = network.get_submodule(layer.name)
        is_smaller = isinstance(module, _Weighted) and layer.target_kernel != layer.pretrain_kernel
        if is_smaller and module.weight is not smaller[id(target.get_submodule(layer.name).weight)]:
            raise InputError(f"layer {layer.name} cannot be exchanged: the network has a __deepcopy__ of its own")
        if isinstance(module, nn.Conv2d):
            _resize(module, layer)
        elif isinstance(module, nn.Linear):
            setattr(module, _FLATTENED, _flattened(module, layer))
            module.in_features = module.weight.shape[1]
        elif isinstance(module, nn.AvgPool2d | nn.MaxPool2d):
            module.kernel_size = layer.pretrain_kernel
    return network


def _smaller_weights(target: nn.Module, layers: Iterable[Layer]) -> dict[int, nn.Parameter]:
    """Weights of the layers made smaller, by the ``id`` of the target's.

    Raises:
        InputError: see :func:`pretrain_network`.
    """
    owners: dict[int, Layer] = {}
    found: dict[int, nn.Parameter] = {}
    for layer in layers:
        module = target.get_submodule(layer.name)
        if layer.target_kernel == layer.pretrain_kernel or not isinstance(module, _Weighted):
            continue
        if is_parametrized(module, "weight"):
            refuse_computed(layer.name)
        weight = module.weight
        owner = owners.setdefault(id(weight), layer)
        if owner.pretrain_kernel != layer.pretrain_kernel:
            _refuse_tied(owner, layer.name)
        kernel = weight.reshape(-1, *_flattened(module, layer).target) if isinstance(module, nn.Linear) else weight
        smaller = _centre(kernel.detach(), layer.pretrain_kernel)
        smaller = smaller.flatten(1) if isinstance(module, nn.Linear) else smaller
        found.setdefault(id(weight), nn.Parameter(smaller, weight.requires_grad))
    changed = {layer.name for layer in layers if layer.target_kernel != layer.pretrain_kernel}
    for name, module in target.named_modules():
        for parameter in module.parameters(recurse=False):
            if name not in changed and id(parameter) in owners:
                _refuse_tied(owners[id(parameter)], name)
    return found


def _refuse_tied(layer: Layer, other: str) -> NoReturn:
    kernel = "x".join(map(str, layer.pretrain_kernel))
    other = other or "the network itself"
    raise InputError(
        f"layers {layer.name} and {other} share a weight, which would become {kernel} for the first and of another "
        "size for the second: they must have a weight each"
    )


def _flattened(linear: nn.Linear, layer: Layer) -> Flattened:
    """The maps of an interface; ``linear`` is the target's."""
    channels = linear.in_features // math.prod(layer.target_kernel)
    return Flattened((channels, *layer.target_kernel), (channels, *layer.pretrain_kernel))


def _resize(conv: nn.Conv2d, layer: Layer) -> None:
    """Set kernel size and padding in place, so that the convolution's own class, hooks and settings stay."""
    same_padding = margins(conv) == layer.pretrain_padding
    if conv.kernel_size == layer.pretrain_kernel and same_padding:
        return
    conv.kernel_size = layer.pretrain_kernel
    if same_padding and not isinstance(conv.padding, str):
        return
    left, right, top, bottom = layer.pretrain_padding
    if left == right >= 0 and top == bottom >= 0 and conv.padding_mode == "zeros":
        conv.padding = (top, left)
        return
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    # The handle goes with the layer: another process that loads it must not give the hook's number to another hook.
    handle = conv.register_forward_pre_hook(_Pad(layer.pretrain_padding, mode), with_kwargs=True)
    setattr(conv, _PADDING, handle)
    conv.padding, conv.padding_mode = (0, 0), "zeros"


@dataclass(frozen=True)
class _Pad:
    """Forward pre-hook: pads or crops the input, each side by its own amount, which ``Conv2d`` cannot."""

    margins: Margins
    mode: str

    def __call__(
        self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Tensor], dict[str, Any]]:
        return (F.pad(received(args, kwargs), self.margins, self.mode),), {}


def _centre(weight: Tensor, size: Size) -> Tensor:
    """Central ``(c_out, c_in, *size)`` of kernels, with the variance that an initialisation of that size has."""
    (h, w), (small_h, small_w) = weight.shape[-2:], size
    top, left = (h - small_h) // 2, (w - small_w) // 2
    centre = weight[..., top : top + small_h, left : left + small_w]
    return centre * math.sqrt(h * w / (small_h * small_w))
