"""Describe the layers that shrink, and copy a network with them changed."""

import copy
import functools
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, cast

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from rescaler.errors import InputError
from rescaler.method.kernels import Size, shrink_kernel

FeatureMap = tuple[int, int, int]
"""Channels, height, width."""
Margins = tuple[int, int, int, int]
"""Padding on the left, right, top and bottom, in ``F.pad``'s order; negative where the feature map is cropped."""
Flattened = tuple[FeatureMap, FeatureMap]
"""Feature map that a fully-connected layer receives flattened, in the target and in the pre-train network."""
Weighted = nn.Conv2d | nn.Linear
_FLATTENED, _PADDING = "_rescaler_flattened", "_rescaler_padding"  # attributes of a pre-train network's layers


@dataclass(frozen=True)
class Layer:
    """One layer with a kernel, in both networks.

    An interface covers the whole feature map that reaches it (section 3.3.2): a fully-connected layer behind a
    flattened map, or a convolution as large as its input.
    """

    name: str
    kind: Literal["convolution", "interface", "pooling"]
    target_kernel: Size
    pretrain_kernel: Size
    pretrain_padding: Margins
    target_output: Size
    pretrain_output: Size

    @property
    def shrinks(self) -> bool:
        """Whether the kernel is smaller in the pre-train network."""
        return self.target_kernel != self.pretrain_kernel

    @property
    def copies_map(self) -> bool:
        """Whether the pre-train network copies its input to pad it."""
        return copies_map(self.pretrain_padding)


def flattened_map(module: nn.Module) -> Flattened | None:
    """Find the feature map that a pre-train network's layer receives flattened, if it differs from the target's."""
    return cast("Flattened | None", module.__dict__.get(_FLATTENED))


def copies_map(padding: Margins) -> bool:
    """Return whether padding differs between sides: convolutions cannot do that, so the feature map is copied."""
    left, right, top, bottom = padding
    return left != right or top != bottom


def size_of(conv: nn.Conv2d) -> Size:
    """Height and width of a convolution's kernel."""
    return cast(Size, conv.kernel_size)


def margins(conv: nn.Conv2d) -> Margins:
    """Padding of a convolution's input."""
    if conv.padding == "same":  # an odd pixel goes to the right/bottom, as in torch
        h, w = (d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True))
        return (w // 2, w - w // 2, h // 2, h - h // 2)
    h, w = (0, 0) if isinstance(conv.padding, str) else conv.padding  # "valid"
    return (w, w, h, h)


def pretrain_margins(conv: nn.Conv2d) -> Margins:
    """Padding of an input, where a pre-train network's copies the map too."""
    if (handle := getattr(conv, _PADDING, None)) is None:
        return margins(conv)
    return cast(Margins, cast("functools.partial[Any]", conv._forward_pre_hooks[handle.id]).args[0])


def received(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Input of a layer's call, by position or keyword; None without one."""
    return args[0] if args else kwargs.get("input")


def memory_of(tensor: Tensor) -> int:
    """Identify a tensor's memory, which tied weights share; on the meta device, the tensor."""
    return tensor.data_ptr() or id(tensor)


def refuse_computed(name: str) -> NoReturn:
    """Raise for a weight that is computed from other parameters."""
    raise InputError(f"layer {name}: its weight is computed (a parametrization); remove that first")


def pretrain_network(
    target: nn.Module, layers: Iterable[Layer], *, share: bool = False, trained: bool = False
) -> nn.Module:
    """Copy a network with these layers shrunk or padded; with ``share``, all other parameters are the target's."""
    layers = tuple(layers)
    weights = _smaller_weights(target, layers, trained)
    memo: dict[int, Any] = {id(value): value for value in target.parameters()} if share else _tied(target, weights)
    network = copy.deepcopy(target, memo | weights)
    for layer in layers:
        module = network.get_submodule(layer.name)
        smaller = weights.get(id(getattr(target.get_submodule(layer.name), "weight", None)))
        if smaller is not None and module.weight is not smaller:
            raise InputError(f"layer {layer.name} cannot be exchanged: the network has a __deepcopy__ of its own")
        if isinstance(module, nn.Conv2d):
            _set_kernel(module, layer)
        elif isinstance(module, nn.Linear):
            channels = module.in_features // math.prod(layer.target_kernel)
            setattr(module, _FLATTENED, ((channels, *layer.target_kernel), (channels, *layer.pretrain_kernel)))
            module.in_features = module.weight.shape[1]
        elif isinstance(module, nn.AvgPool2d | nn.MaxPool2d):
            module.kernel_size = layer.pretrain_kernel
    return network


def _smaller_weights(target: nn.Module, layers: Iterable[Layer], trained: bool) -> dict[int, nn.Parameter]:
    """Make the weights of the shrunk layers, by ``id`` of the target's; tied ones stay tied."""
    owners: dict[int, tuple[Layer, Tensor, Tensor]] = {}
    found: dict[int, nn.Parameter] = {}
    changed = {layer.name: layer for layer in layers if layer.shrinks}
    for name, layer in changed.items():
        module = target.get_submodule(name)
        if not isinstance(module, Weighted):
            continue
        if is_parametrized(module, "weight"):
            refuse_computed(name)
        weight = module.weight
        if memory_of(weight) not in owners:
            owners[memory_of(weight)] = layer, weight, _smaller_weight(weight.detach(), layer, trained)
        owner, tied, smaller = owners[memory_of(weight)]
        same = tied.shape == weight.shape and tied.stride() == weight.stride()
        if owner.pretrain_kernel != layer.pretrain_kernel or not same:
            _refuse_tied(owner, name)
        found.setdefault(id(weight), nn.Parameter(smaller, weight.requires_grad))
    extents = {start: (*_extent(weight), layer) for start, (layer, weight, _) in owners.items()}
    for name, module in target.named_modules():
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            start, end = _extent(tensor)
            for owner_start, owner_end, layer in extents.values():
                apart = start >= owner_end or end <= owner_start
                is_weight = name in changed and start == owner_start and isinstance(tensor, nn.Parameter)
                if not apart and not is_weight:
                    _refuse_tied(layer, name)
    return found


def _extent(tensor: Tensor) -> tuple[int, int]:
    """First and last address of a tensor's memory; those of views of one storage may overlap."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    start = memory_of(tensor)
    return start, start + (last * tensor.element_size() if tensor.data_ptr() else 0) + 1


def _smaller_weight(weight: Tensor, layer: Layer, trained: bool) -> Tensor:
    """Resize trained kernels; crop others to their centre, with the variance of an initialisation of that size."""
    (h, w), (small_h, small_w) = layer.target_kernel, layer.pretrain_kernel
    kernel = weight.reshape(len(weight), -1, h, w)
    if trained:
        smaller = shrink_kernel(kernel, layer.pretrain_kernel)
    else:
        top, left = (h - small_h) // 2, (w - small_w) // 2
        smaller = kernel[..., top : top + small_h, left : left + small_w] * math.sqrt(h * w / (small_h * small_w))
    return smaller if weight.dim() == 4 else smaller.flatten(1)


def _refuse_tied(layer: Layer, other: str) -> NoReturn:
    kernel = "x".join(map(str, layer.pretrain_kernel))
    raise InputError(
        f"layers {layer.name} and {other or 'the network itself'} share a weight, which would become {kernel} for the "
        "first and of another size for the second: they must have a weight each"
    )


def _tied(target: nn.Module, weights: Mapping[int, nn.Parameter]) -> dict[int, nn.Parameter]:
    """Copy distinct parameters that share memory, which deepcopy would separate."""
    views = {id(value): (memory_of(value), value.shape, value.stride()) for value in target.parameters()}
    users = Counter(views.values())
    tied = [value for value in target.parameters() if users[views[id(value)]] > 1 and id(value) not in weights]
    copies = copy.deepcopy([value.data for value in tied])  # of plain tensors, which keep shared memory
    return {id(value): nn.Parameter(copied, value.requires_grad) for value, copied in zip(tied, copies, strict=True)}


def _set_kernel(conv: nn.Conv2d, layer: Layer) -> None:
    same_padding = margins(conv) == layer.pretrain_padding
    if same_padding and not layer.shrinks:
        return
    conv.kernel_size = layer.pretrain_kernel
    if same_padding and not isinstance(conv.padding, str):
        return
    left, right, top, bottom = layer.pretrain_padding
    if left == right >= 0 and top == bottom >= 0 and conv.padding_mode == "zeros":
        conv.padding = (top, left)
        return
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    # The layer keeps the handle: a process that loads it must not reuse the hook's number.
    handle = conv.register_forward_pre_hook(functools.partial(_pad, layer.pretrain_padding, mode), with_kwargs=True)
    setattr(conv, _PADDING, handle)
    conv.padding, conv.padding_mode = (0, 0), "zeros"


def _pad(sides: Margins, mode: str, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return (F.pad(received(args, kwargs), sides, mode),), {}
