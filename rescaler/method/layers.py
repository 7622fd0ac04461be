"""How a layer of the pre-train network differs from the target's, and the surgery that makes it so."""

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from rescaler.errors import InputError

Size = tuple[int, int]
"""Height, width."""
Margins = tuple[int, int, int, int]
"""Padding on the left, right, top and bottom, in ``F.pad``'s order; negative where the feature map is cropped."""


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


class InterfaceLinear(nn.Linear):
    """A pre-train network's fully-connected layer that receives a flattened feature map.

    It knows that map, ``(channels, height, width)``, in both networks: the number of features alone does not tell.
    """

    def __init__(self, target: nn.Linear, target_size: Size, pretrain_size: Size) -> None:
        channels = target.in_features // math.prod(target_size)
        in_features = channels * math.prod(pretrain_size)
        super().__init__(in_features, target.out_features, target.bias is not None, device="meta")
        self.target_map = (channels, *target_size)
        self.pretrain_map = (channels, *pretrain_size)
        kernel = target.weight.detach().reshape(-1, *self.target_map)
        self.weight = nn.Parameter(_centre(kernel, pretrain_size).flatten(1), target.weight.requires_grad)
        self.bias = copy.deepcopy(target.bias)
        self.train(target.training)


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
        InputError: the weight of a layer is computed from other parameters, so that it cannot be exchanged.
    """
    layers = tuple(layers)
    # What deepcopy takes instead of a copy of its own.
    memo: dict[int, object] = {id(parameter): parameter for parameter in shared}
    for layer in layers:
        module = target.get_submodule(layer.name)
        if layer.target_kernel == layer.pretrain_kernel:
            continue
        if is_parametrized(module, "weight"):
            refuse_computed(layer.name)
        if isinstance(module, nn.Linear):
            memo[id(module)] = InterfaceLinear(module, layer.target_kernel, layer.pretrain_kernel)
        elif isinstance(module, nn.Conv2d):
            smaller = _centre(module.weight.detach(), layer.pretrain_kernel)
            memo[id(module.weight)] = nn.Parameter(smaller, module.weight.requires_grad)
    network = copy.deepcopy(target, memo)
    for layer in layers:
        module = network.get_submodule(layer.name)
        if isinstance(module, nn.Conv2d):
            _resize(module, layer)
        elif isinstance(module, nn.AvgPool2d | nn.MaxPool2d):
            module.kernel_size = layer.pretrain_kernel
    return network


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
    conv.register_forward_pre_hook(_Pad(layer.pretrain_padding, mode), with_kwargs=True)
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
