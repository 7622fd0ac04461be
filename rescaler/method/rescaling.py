"""Carry weights from the pre-train network to the target network (Gusmão et al., section 3.3)."""

import math
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from rescaler.errors import ArgumentError, InputError, listed
from rescaler.method.kernels import Size, embed, rescale_kernel
from rescaler.method.layers import FeatureMap, flattened_map, pretrain_margins

Network = TypeVar("Network", bound=nn.Module)


def rescale(pretrain: nn.Module, target: Network, *, mode: str = "bilinear") -> Network:
    """Fill the target network's weights with the pre-train network's, rescaled (Eq. 5 and 6).

    Args:
        pretrain: network made by :func:`rescaler.shrink`; not changed.
        target: network of the target's shapes and names, or a pre-train network of a size between; overwritten.
        mode: interpolation, as for :func:`rescaler.rescale_kernel`.

    Returns:
        ``target``.

    Raises:
        InputError: the networks do not belong together, or a weight is not finite; ``target`` is not changed then.
    """
    pair = _Pair(pretrain, target, mode)
    if odd := sorted(pair.before.keys() ^ pair.after.keys()):
        wrapped = any(name.startswith(("module.", "_orig_mod.")) for name in odd)
        hint = "; unwrap networks first (DataParallel, AveragedModel, torch.compile)" if wrapped else ""
        rule = "the pre-train and the target network must have the same parameters"
        raise InputError(f"{rule}; not in both: {listed(odd)}{hint}")
    # A network of its own state_dict() may give copies there.
    own = pair.after | dict(target.named_parameters()) | dict(target.named_buffers())
    tensors = {name: value for name, value in pair.before.items() if isinstance(value, Tensor)}
    for name, tensor in tensors.items():
        pair.check(name, tensor, own[name].dtype)
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(pair.resize(name, tensor))
    if extra := {name: value for name, value in pair.before.items() if name not in tensors}:  # of get_extra_state()
        target.load_state_dict(extra, strict=False)
    return target


@torch.no_grad()
def rescale_tensors(
    tensors: Mapping[str, Tensor], pretrain: nn.Module, target: nn.Module, *, mode: str = "bilinear"
) -> dict[str, Tensor]:
    """Rescale tensors of parameters: the parameters themselves, their momentum, their moving average.

    A kernel is rescaled (Eq. 5), and so is the first fully-connected layer, a kernel over the whole feature map
    (section 3.3.2). All else is returned as it is: biases (Eq. 6), BatchNorm, 1x1 kernels. Tensors that are not linear
    in the parameters, such as Adam's second moments (``exp_avg_sq``), are for :func:`rescaler.rescale_optimizer`.

    Args:
        tensors: by parameter name, in the pre-train network's shapes.
        pretrain: network made by :func:`rescaler.shrink`.
        target: as for :func:`rescale`.
        mode: interpolation, as for :func:`rescaler.rescale_kernel`.

    Raises:
        InputError: a name or a shape does not fit the networks, or a value is not finite.
    """
    if not isinstance(tensors, Mapping):
        raise ArgumentError("tensors", f" must be a mapping of names to tensors; got a {type(tensors).__name__}")
    pair = _Pair(pretrain, target, mode)
    for name, tensor in tensors.items():
        pair.check(name, tensor)
    return {name: pair.resize(name, tensor) for name, tensor in tensors.items()}


class _Pair:
    def __init__(self, pretrain: nn.Module, target: nn.Module, mode: str) -> None:
        for argument, network in (("pretrain", pretrain), ("target", target)):
            if not isinstance(network, nn.Module):
                hint = "; pass its .network" if hasattr(network, "network") else ""
                raise ArgumentError(argument, f" must be a torch.nn.Module; got a {type(network).__name__}{hint}")
        self.before, self.after = pretrain.state_dict(), target.state_dict()
        self._buffers = dict(target.named_buffers()).keys()
        self._maps = _maps(pretrain, target)
        self._starts = _starts(pretrain, target) if mode == "embed" else {}
        # What padding does not place sees a map as a whole: zeros around would leave most of it out.
        self._mode = "bilinear" if mode == "embed" else mode

    def check(self, name: str, tensor: Tensor, dtype: torch.dtype | None = None) -> None:
        """Raise if the tensor cannot be rescaled, or is not finite in ``dtype`` or its own."""
        if not isinstance(tensor, Tensor):
            raise InputError(f"{name} must be a tensor; got a {type(tensor).__name__}")
        if name not in self.before or name not in self.after:
            raise InputError(f"{name!r} is no parameter of both the pre-train and the target network")
        shape = self.before[name].shape
        if tensor.shape != shape:
            raise InputError(f"{name} must be {tuple(shape)} as in the pre-train network; got {tuple(tensor.shape)}")
        dtype = dtype or tensor.dtype
        if not _is_finite(tensor, dtype):
            after = self.after[name]  # a mask is as infinite in the target
            if name not in self._buffers or not torch.equal(tensor.isfinite().cpu(), after.isfinite().cpu()):
                raise InputError(f"{name} has values that are not finite in {dtype}: there is nothing to rescale")
        try:
            self.resize(name, tensor, slice(1))
        except InputError as error:
            raise InputError(f"{name}: {error}") from None

    def resize(self, name: str, tensor: Tensor, filters: slice = slice(None)) -> Tensor:
        shape = self.after[name].shape
        if name in self._maps:
            before, after = self._maps[name]
            if tensor.shape[1:].numel() == math.prod(before) and shape == (len(tensor), math.prod(after)):
                kernels = tensor[filters].reshape(-1, *before)
                return rescale_kernel(kernels, after[1:], mode=self._mode).flatten(1)
        elif tensor.shape == shape:
            return tensor
        elif tensor.dim() == len(shape) == 4 and tensor.shape[:2] == shape[:2]:
            if name in self._starts:
                return embed(tensor[filters], (shape[2], shape[3]), self._starts[name])
            return rescale_kernel(tensor[filters], (shape[2], shape[3]), mode=self._mode)
        raise InputError(f"no rescaling leads from shape {tuple(tensor.shape)} to the target's {tuple(shape)}")


def _maps(pretrain: nn.Module, target: nn.Module) -> dict[str, tuple[FeatureMap, FeatureMap]]:
    """Find the feature maps that fully-connected layers take in both networks, by the names of their weights."""
    found = []
    for network in (pretrain, target):
        modules = network.named_modules(remove_duplicate=False)
        found.append({f"{name}.weight": maps for name, module in modules if (maps := flattened_map(module))})
    # A layer that is no interface of its network takes the full-size target's map.
    full = {name: target_map for maps in found for name, (target_map, _) in maps.items()}
    small, large = ({**full, **{name: own for name, (_, own) in maps.items()}} for maps in found)
    return {name: (small[name], large[name]) for name in full}


def _starts(pretrain: nn.Module, target: nn.Module) -> dict[str, Size]:
    """Find where kernels stand in larger ones that respond alike, by the names of weights: padding shifts them."""
    found = {}
    convolutions = dict(target.named_modules(remove_duplicate=False))
    for name, small in pretrain.named_modules(remove_duplicate=False):
        large = convolutions.get(name)
        if not isinstance(small, nn.Conv2d) or not isinstance(large, nn.Conv2d):
            continue
        (left, _, top, _), (large_left, _, large_top, _) = pretrain_margins(small), pretrain_margins(large)
        if not any((left, top, large_left, large_top)):
            continue  # a kernel over a whole map, as a rule
        start = ((large_top - top) // small.dilation[0], (large_left - left) // small.dilation[1])
        room = [b - a for a, b in zip(small.kernel_size, large.kernel_size, strict=True)]
        if all(0 <= place <= most for place, most in zip(start, room, strict=True)):
            found[f"{name}.weight"] = start
    return found


def _is_finite(tensor: Tensor, dtype: torch.dtype) -> bool:
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    if tensor.is_meta or not tensor.is_floating_point() or not tensor.numel():
        return True
    # Propagates NaN; 40 times faster than `isfinite`, which needs memory, too.
    largest = torch.finfo(dtype if dtype.is_floating_point or dtype.is_complex else tensor.dtype).max
    return all(abs(extreme.item()) <= largest for extreme in torch.aminmax(tensor))
