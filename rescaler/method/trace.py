"""Follow an image's shape through a network, computing next to nothing.

The network's structure is copied, with one zero for all of a weight, and called once; what is expensive is called on no
images at all, which tells the shape of its result. Torch's meta device would do the same, but imports half of torch's
compiler for it, which takes longer than everything else before a run's first training step.
"""

import contextlib
import copy
import math
import sys
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.parametrize import is_parametrized
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from rescaler.errors import ArgumentError, InputError, one_line
from rescaler.method.layers import FeatureMap, Size, received, refuse_computed

_IMAGES = 2
"""Images in the one batch: BatchNorm wants several."""


@dataclass(frozen=True)
class Call:
    """What a layer received and gave when the network first called it; shapes without the batch axis."""

    input: tuple[int, ...]
    output: tuple[int, ...]
    flattened: FeatureMap | None
    """The feature map that the input was before it was flattened, if it was."""
    positions: int
    """How often the layer applies its weights to one image: pixels of its output, or of its input if transposed."""
    count: int = 1
    """Number of calls."""

    @property
    def input_size(self) -> Size:
        """Height and width of the input."""
        return self.input[-2], self.input[-1]

    @property
    def output_size(self) -> Size:
        """Height and width of the output."""
        return self.output[-2], self.output[-1]


class Traced(NamedTuple):
    """What was seen of a network."""

    calls: dict[str, Call]
    """By the name of the layer, in the order of the first calls."""
    functional: list[str]
    """Where a convolution was called as a function, which has no layer."""
    borrowed: set[str]
    """Layers whose weight such a function took."""


def outline(network: nn.Module) -> nn.Module:
    """Copy a network's structure to the CPU, with zeros that take no memory: to be called in :class:`Shapes`.

    Raises:
        InputError: the network keeps what cannot be copied.
    """
    tensors: dict[int, object] = {}  # what deepcopy takes instead of a copy of its own
    for parameter in network.parameters():
        zeros = torch.zeros((), dtype=parameter.dtype).expand(parameter.shape)
        tensors[id(parameter)] = nn.Parameter(zeros, parameter.requires_grad)
    for buffer in network.buffers():
        tensors[id(buffer)] = torch.zeros_like(buffer, device="cpu")
    try:
        return copy.deepcopy(network, tensors)
    except Exception as error:  # whatever a user's network keeps
        reason = one_line(error)
        raise InputError(f"the network ({type(network).__name__}) cannot be copied: {reason}") from error


class Shapes(TorchFunctionMode):
    """A mode in which the outline of a network can be called: results have the right shapes and meaningless values."""

    def __enter__(self) -> Self:
        self._stack = contextlib.ExitStack()
        # Auxiliary classifiers and dropout are called in training mode, and throw dice.
        self._stack.enter_context(torch.random.fork_rng(devices=[]))
        self._stack.enter_context(torch.no_grad())
        if "torch._dynamo" in sys.modules:  # else nothing is compiled; it is slow to import
            self._stack.enter_context(torch.compiler.set_stance("force_eager"))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._stack.close()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        try:
            return _shape(func, args, kwargs)
        except RuntimeError:
            # A constant that is no buffer of the network has stayed on its own device, or a parameter is written to.
            args, kwargs = tree_map_only(Tensor, lambda tensor: torch.zeros_like(tensor, device="cpu"), (args, kwargs))
            return _shape(func, args, kwargs)


_CONVOLUTIONS = frozenset((F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d))
_WEIGHTED = _CONVOLUTIONS | {F.linear}
_VIEWS = frozenset(
    getattr(home, name)
    for home in (torch, Tensor)
    for name in ("view", "reshape", "permute", "transpose", "unflatten", "unsqueeze")
    if hasattr(home, name)
)
"""What may give four axes that are not images, channels, height and width."""
_REORDERING = frozenset((F.linear, Tensor.__getitem__, torch.index_select, Tensor.index_select, torch.flip, torch.roll))
"""What may give as many features as before that do not lie as before."""


def _shape(func: Any, args: Any, kwargs: Any) -> Any:
    """Call a torch function; if it is expensive, on as little of the images as tells the shape of its result."""
    if func is F.batch_norm and args:
        images, *others = args
        few_pixels = images[:, :, *[slice(2)] * (images.dim() - 2)]
        return func(few_pixels, *others, **kwargs).new_zeros(images.shape)
    if func in _WEIGHTED and len(args) >= 2 and args[0].dim() >= max(2, args[1].dim()):
        images, *others = args
        result = func(images[:0], *others, **kwargs)
        return result.new_zeros((len(images), *result.shape[1:]))
    return func(*args, **kwargs)


def trace(network: nn.Module, channels: int, image_px: int, *, argument: str, fitted: Collection[str] = ()) -> Traced:
    """Call a network on square images and note its convolutions, poolings and fully-connected layers in order.

    A layer that is called several times counts where it is first. A fully-connected layer takes here any number of
    features and is changed to fit them: whether that number is the right one is for the caller to judge.

    Args:
        network: the outline of a network; in training mode afterwards, or in evaluation mode.
        channels: channels of the image.
        image_px: side of the image.
        argument: what ``image_px`` is called where it comes from, for errors.
        fitted: names of convolutions and poolings whose kernels become as large as the feature map that reaches them.

    Raises:
        InputError: a layer cannot take the feature map that reaches it.
    """
    convolutions = _convolutions(network)
    dtype = next((conv.weight for conv in convolutions.values()), next(network.parameters())).dtype
    images = torch.zeros((_IMAGES, channels, image_px, image_px), dtype=dtype)
    network.train()  # auxiliary classifiers are called too
    traced = _seen(network, images, argument, fitted)
    if convolutions.keys() <= traced.calls.keys():
        return traced
    network.eval()  # some are left out at random in training (stochastic depth), some always
    try:
        evaluated = _seen(network, images, argument, fitted)
    except InputError:
        return traced
    only_in_training = {name: call for name, call in traced.calls.items() if name not in evaluated.calls}
    functional = list(dict.fromkeys([*traced.functional, *evaluated.functional]))
    return Traced(evaluated.calls | only_in_training, functional, traced.borrowed | evaluated.borrowed)


def _convolutions(network: nn.Module) -> dict[str, nn.Conv2d]:
    return {name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}


def _seen(network: nn.Module, images: Tensor, argument: str, fitted: Collection[str]) -> Traced:
    tracer = _Tracer(network, fitted)
    try:
        with tracer:
            network(images)
    except InputError:
        raise
    except Exception as error:  # whatever a user's network raises
        problem = f"={images.shape[-1]} does not suit the network: {tracer.position}: {one_line(error)}"
        raise ArgumentError(argument, problem) from error
    return Traced(tracer.calls, tracer.functional, tracer.borrowed)


class _Tracer(Shapes):
    """Sees every layer through its hooks and every torch function, so that functional flattening is not missed."""

    def __init__(self, network: nn.Module, fitted: Collection[str]) -> None:
        super().__init__()
        self.calls: dict[str, Call] = {}
        self.functional: list[str] = []
        self.borrowed: set[str] = set()
        self.position = "before its first layer, called on a batch of images alone"
        self._fitted = fitted
        self._convolving = 0
        self._maps: dict[Tensor, FeatureMap] = {}
        self._sizes: set[tuple[int, ...]] = set()
        self._kernels = {
            id(weight): name
            for name, conv in _convolutions(network).items()
            if (weight := conv._parameters.get("weight")) is not None  # not computed
        }
        self._hooks = []
        for name, module in network.named_modules():
            self._hooks.append(module.register_forward_pre_hook(self._before(name), prepend=True, with_kwargs=True))
            if isinstance(module, _ConvNd | nn.Linear | nn.AvgPool2d | nn.MaxPool2d):
                self._hooks.append(module.register_forward_hook(self._after(name), with_kwargs=True))

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for hook in self._hooks:
            hook.remove()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _CONVOLUTIONS and not self._convolving:
            self.functional.append(self.position)
            weights = (*args[1:2], *(kwargs or {}).values())
            self.borrowed |= {self._kernels[id(weight)] for weight in weights if id(weight) in self._kernels}
        result = super().__torch_function__(func, types, args, kwargs)
        source = next((value for value in (*args, *(kwargs or {}).values()) if isinstance(value, Tensor)), None)
        if source is None or not isinstance(result, Tensor):
            return result
        if result.dim() == 4 and func not in _VIEWS:
            self._sizes.add(tuple(result.shape[2:]))
        if source.dim() == 4 and result.shape == (source.shape[0], source.shape[1:].numel()):
            if tuple(source.shape[2:]) in self._sizes:
                self._maps[result] = cast(FeatureMap, tuple(source.shape[1:]))
        elif source in self._maps and result.shape == source.shape and func not in _REORDERING:  # dropout, ReLU
            self._maps[result] = self._maps[source]
        return result

    def _before(self, name: str) -> Any:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._convolving += isinstance(module, _ConvNd)
            images = received(args, kwargs)
            if not isinstance(images, Tensor):
                return
            shape = images.shape[1:]
            if not name:
                self._sizes.add(tuple(shape[1:]))
            self.position = f'in or after layer "{name}" ({"x".join(map(str, shape))} input)' if name else self.position
            if isinstance(module, nn.Linear) and images.shape[-1] != module.in_features:
                _exchange_weight(name, module, (module.out_features, images.shape[-1]))
            elif name in self._fitted:
                module.kernel_size = tuple(shape[-2:])
                if isinstance(module, nn.Conv2d):
                    _exchange_weight(name, module, (*module.weight.shape[:2], *shape[-2:]))

        return hook

    def _after(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
            self._convolving -= isinstance(module, _ConvNd)
            images = received(args, kwargs)
            taken, given = (tuple(tensor.shape[1:] or tensor.shape) for tensor in (images, output))  # or a lone vector
            if isinstance(module, nn.Linear):
                positions = math.prod(output.shape[:-1])
            else:
                maps = images if isinstance(module, _ConvTransposeNd) else output
                positions = len(maps) * math.prod(maps.shape[2:])
            positions = math.ceil(positions / _IMAGES)  # several of an image may stand in the batch, or one for all
            call = self.calls.get(name, Call(taken, given, self._maps.get(images), positions=0, count=0))
            self.calls[name] = replace(call, positions=call.positions + positions, count=call.count + 1)

        return hook


def _exchange_weight(name: str, layer: nn.Conv2d | nn.Linear, shape: tuple[int, ...]) -> None:
    if is_parametrized(layer, "weight"):
        refuse_computed(name)
    layer.weight = nn.Parameter(layer.weight.new_zeros(shape), requires_grad=False)
