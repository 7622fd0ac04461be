"""Follow an image's shape through a network, without computing anything.

The network is copied to torch's meta device, where tensors have shapes but no values, and called once.
"""

import copy
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from rescaler.errors import InputError

FeatureMap = tuple[int, int, int]
"""Channels, height, width."""


@dataclass(frozen=True)
class Call:
    """What a layer received and gave when the network first called it; shapes without the batch axis."""

    input: tuple[int, ...]
    output: tuple[int, ...]
    flattened: FeatureMap | None
    """The feature map that the input was before it was flattened, if it was."""

    @property
    def output_size(self) -> tuple[int, int]:
        """Height and width of the output."""
        return self.output[-2], self.output[-1]


def meta_copy(network: nn.Module) -> nn.Module:
    """Copy a network's structure, but not its values, to the meta device."""
    tensors: dict[int, object] = {}  # what deepcopy takes instead of a copy of its own
    for parameter in network.parameters():
        tensors[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
    for buffer in network.buffers():
        tensors[id(buffer)] = buffer.to("meta")
    return copy.deepcopy(network, tensors)


def trace(network: nn.Module, channels: int, image_px: int, *, key: str) -> dict[str, Call]:
    """Call a network on square images and note its convolutions and fully-connected layers in order.

    A layer that is called several times counts where it is first. A fully-connected layer takes here any number of
    features and is changed to fit them: whether that number is the right one is for the caller to judge.

    Args:
        network: a network on the meta device; a throw-away copy.
        channels: channels of the image.
        image_px: side of the image.
        key: the setting that ``image_px`` comes from, for errors.

    Raises:
        InputError: a layer cannot take the feature map that reaches it.
    """
    tracer = _Tracer(network)
    dtype = next(network.parameters()).dtype
    images = torch.empty((2, channels, image_px, image_px), dtype=dtype, device="meta")  # 2: BatchNorm wants a batch
    # In training mode, so that auxiliary classifiers are called too; such networks may throw dice on the CPU.
    network.train()
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad(), tracer:
            network(images)
    except Exception as error:  # whatever a user's network raises
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{key}={image_px} does not suit the network: {tracer.position}: {reason}") from error
    return tracer.calls


class _Tracer(TorchFunctionMode):
    """Sees every layer through its hooks and every torch function, so that functional flattening is not missed."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.calls: dict[str, Call] = {}
        self.position = "before its first layer"
        self._maps: dict[Tensor, FeatureMap] = {}
        for name, module in network.named_modules():
            module.register_forward_pre_hook(self._before(name), prepend=True)
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_hook(self._after(name))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        source = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
        if source is None or not isinstance(result, Tensor):
            return result
        if source.dim() == 4 and result.shape == (source.shape[0], source.shape[1:].numel()):
            self._maps[result] = cast(FeatureMap, tuple(source.shape[1:]))
        elif source in self._maps and result.shape == source.shape and func is not F.linear:  # dropout, ReLU
            self._maps[result] = self._maps[source]
        return result

    def _before(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            if not args or not isinstance(args[0], Tensor):
                return
            size = "x".join(map(str, args[0].shape[1:]))
            self.position = f'in or after layer "{name}" ({size} input)' if name else self.position
            if isinstance(module, nn.Linear) and args[0].shape[-1] != module.in_features:
                weight = module.weight.new_empty((module.out_features, args[0].shape[-1]))
                module.weight = nn.Parameter(weight, requires_grad=False)

        return hook

    def _after(self, name: str) -> Any:
        def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            call = Call(tuple(args[0].shape[1:]), tuple(output.shape[1:]), self._maps.get(args[0]))
            self.calls.setdefault(name, call)

        return hook
