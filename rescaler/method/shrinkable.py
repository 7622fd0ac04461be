"""What a target network must be like to be shrunk."""

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils.parametrize import is_parametrized

from rescaler.errors import InputError
from rescaler.method.layers import refuse_computed

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def check_network(target: object) -> dict[str, nn.Conv2d]:
    """Find the convolutions of a network that can be shrunk, by name.

    Raises:
        InputError: it is no network, has no convolution, or its weights are not plain floating-point parameters.
    """
    if not isinstance(target, nn.Module):
        raise InputError(f"the target network must be a torch.nn.Module; got a {type(target).__name__}")
    for name, module in target.named_modules():
        _check_weight(name, module)
    found = {name: module for name, module in target.named_modules() if isinstance(module, nn.Conv2d)}
    if not found:
        raise InputError(f"the target network ({type(target).__name__}) has no Conv2d: there is nothing to shrink")
    return found


def _check_weight(name: str, module: nn.Module) -> None:
    weight = getattr(module, "weight", None)
    if type(module).__module__.startswith("torch.ao.nn") and callable(weight):
        raise InputError(f"layer {name} is quantised ({weight().dtype}): shrink the network as it was before that")
    if isinstance(weight, UninitializedParameter):
        raise InputError(f"layer {name} has no weights yet: call the network once, on images of the target's size")
    if isinstance(weight, Tensor) and not isinstance(weight, nn.Parameter) and not is_parametrized(module):
        exchanged = isinstance(module, nn.Conv2d | nn.Linear)
        if exchanged or weight.grad_fn is not None:  # by a hook, as in torch.nn.utils.weight_norm: it cannot be copied
            refuse_computed(name)
    if isinstance(module, nn.Conv2d) and module.weight.dtype not in _DTYPES:
        allowed = ", ".join(str(dtype) for dtype in _DTYPES)
        raise InputError(f"layer {name} has weights of {module.weight.dtype}; kernels are shrunk in {allowed}")
