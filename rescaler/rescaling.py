"""Carry weights from the pre-train network to the target network (Gusmão et al., section 3.3)."""

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from rescaler.errors import InputError
from rescaler.kernels import Interpolation, rescale_kernel
from rescaler.layers import InterfaceLinear
from rescaler.trace import FeatureMap

Network = TypeVar("Network", bound=nn.Module)


def rescale(pretrain: nn.Module, target: Network, *, mode: Interpolation = "bilinear") -> Network:
    """Fill the target network's weights with the pre-train network's, rescaled (Eq. 5 and 6).

    Args:
        pretrain: network made by :func:`rescaler.shrink`, trained or not; not changed.
        target: network of the target's shapes and names; all its weights are overwritten.
        mode: interpolation of the kernels.

    Returns:
        ``target``.

    Raises:
        InputError: the networks do not belong together, or a weight is not finite; ``target`` is not changed then.
    """
    state, wanted = pretrain.state_dict(), target.state_dict()
    if state.keys() != wanted.keys():
        differing = sorted(state.keys() ^ wanted.keys())
        more = f" and {len(differing) - 4} more" if len(differing) > 4 else ""
        raise InputError(
            f"the pre-train and the target network must have the same parameters; not in both: "
            f"{', '.join(differing[:4])}{more}"
        )
    target.load_state_dict(rescale_tensors(state, pretrain, target, mode=mode))
    return target


@torch.no_grad()
def rescale_tensors(
    tensors: Mapping[str, Tensor], pretrain: nn.Module, target: nn.Module, *, mode: Interpolation = "bilinear"
) -> dict[str, Tensor]:
    """Rescale tensors that belong to parameters: the parameters themselves, their momentum, their moving average.

    A tensor whose parameter has the same shape in both networks is returned as it is: biases (Eq. 6), BatchNorm, 1x1
    kernels and the fully-connected layers but the first. A kernel is rescaled (Eq. 5), and so is the first
    fully-connected layer, as the kernel over the whole feature map that it is (section 3.3.2).

    Args:
        tensors: by parameter name, in the pre-train network's shapes.
        pretrain: network made by :func:`rescaler.shrink`.
        target: network of the target's shapes and names.
        mode: interpolation of the kernels.

    Returns:
        Tensors by the same names, in the target network's shapes.

    Raises:
        InputError: a name or a shape does not fit the networks, or a value is not finite.
    """
    before, after = pretrain.state_dict(), target.state_dict()
    maps = {
        f"{name}.weight": (module.pretrain_map, module.target_map)
        for name, module in pretrain.named_modules(remove_duplicate=False)
        if isinstance(module, InterfaceLinear)
    }
    rescaled = {}
    for name, tensor in tensors.items():
        if name not in before or name not in after:
            raise InputError(f"{name!r} is no parameter of both the pre-train and the target network")
        if tensor.shape != before[name].shape:
            raise InputError(
                f"{name} must be {tuple(before[name].shape)} as in the pre-train network; got {tuple(tensor.shape)}"
            )
        if not torch.isfinite(tensor).all():
            raise InputError(f"{name} has values that are not finite: there is nothing to rescale")
        try:
            rescaled[name] = _fit(tensor, after[name].shape, maps.get(name), mode)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
    return rescaled


def _fit(tensor: Tensor, shape: torch.Size, maps: tuple[FeatureMap, FeatureMap] | None, mode: Interpolation) -> Tensor:
    if tensor.shape == shape:
        return tensor
    if tensor.dim() == len(shape) == 4 and tensor.shape[:2] == shape[:2]:
        return rescale_kernel(tensor, (shape[2], shape[3]), mode=mode)
    if maps is not None:
        pretrain_map, (channels, h, w) = maps
        if shape == (len(tensor), channels * h * w):
            return rescale_kernel(tensor.reshape(-1, *pretrain_map), (h, w), mode=mode).flatten(1)
    raise InputError(f"no rescaling leads from shape {tuple(tensor.shape)} to the target's {tuple(shape)}")
