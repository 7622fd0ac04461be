"""Trace the shapes of a network's feature maps without computing them.

A copy of the network, with one zero for all of a weight, is called once; expensive functions are called on no images at
all, which gives the shape of their result. Torch's meta device would do, but imports half of torch's compiler, which
takes longer than all else before a run's first step.
"""

import contextlib
import copy
import functools
import math
import sys
from collections.abc import Collection
from typing import Any, NamedTuple, Self, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.parametrize import is_parametrized
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from rescaler.errors import ArgumentError, InputError, one_line
from rescaler.method import ImageSize, height_width, size_text
from rescaler.method.kernels import Size
from rescaler.method.layers import FeatureMap, memory_of, received, refuse_computed

_IMAGES = 2  # in the batch: BatchNorm needs several


class Call(NamedTuple):
    """Shapes of a layer's first call, without the batch axis, and totals over all its calls."""

    input: tuple[int, ...]
    output: tuple[int, ...]
    flattened: FeatureMap | None  # the feature map that the input was before it was flattened
    positions: int = 0  # where the weights are applied to one image: pixels of the output, or of a transposed input
    times: int = 0

    @property
    def input_size(self) -> Size:
        """Height and width of the input."""
        return self.input[-2], self.input[-1]

    @property
    def output_size(self) -> Size:
        """Height and width of the output."""
        return self.output[-2], self.output[-1]


def outline(network: nn.Module) -> nn.Module:
    """Copy a network to the CPU with zeros that take no memory, to call it in :class:`Shapes`."""
    zeros: dict[object, Tensor] = {}
    memo: dict[int, object] = {}  # of deepcopy
    try:
        for value in network.parameters():
            zero = zeros.setdefault((memory_of(value), value.dtype), torch.zeros((), dtype=value.dtype))
            memo[id(value)] = nn.Parameter(zero.expand(value.shape), value.requires_grad)
        for buffer in network.buffers():
            memo[id(buffer)] = torch.zeros_like(buffer, device="cpu")
        return copy.deepcopy(network, memo)
    except Exception as error:  # whatever a custom network raises
        raise InputError(f"the network ({type(network).__name__}) cannot be copied: {one_line(error)}") from error


class Shapes(TorchFunctionMode):
    """Mode for calling an outline: results have the right shapes and meaningless values."""

    def __enter__(self) -> Self:
        self._stack = contextlib.ExitStack()
        for context in (torch.random.fork_rng(devices=[]), torch.no_grad()):  # dropout draws
            self._stack.enter_context(context)
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


_CONVOLUTIONS = {f"conv{kind}{axes}d" for kind in ("", "_transpose") for axes in (1, 2, 3)}
_WEIGHTED = _CONVOLUTIONS | {"linear"}
POOLING, OTHER = "(pooling)", "(other)"
"""What takes a convolution's output, where it is no convolution."""
_VIEWS = {"view", "reshape", "permute", "transpose", "unflatten", "unsqueeze"}
"""Functions whose four axes may not be images, channels, height and width."""
_REORDERING = {"linear", "__getitem__", "index_select", "flip", "roll"}
"""Functions that may change the order of features but not their number."""


def first_tensor(output: Any) -> Tensor | None:
    """Find the feature map in a layer's output, which may be a tuple or mapping."""
    return next((leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)), None)


def _name(func: Any) -> str:
    return getattr(func, "__name__", "")


def _shape(func: Any, args: Any, kwargs: Any) -> Any:
    """Call a torch function, an expensive one on the fewest images that give the shape of its result."""
    if _name(func) == "batch_norm" and args:
        few_pixels = args[0][:, :, *[slice(2)] * (args[0].dim() - 2)]
        return func(few_pixels, *args[1:], **kwargs).new_zeros(args[0].shape)
    if _name(func) in _WEIGHTED and len(args) >= 2 and args[0].dim() >= max(2, args[1].dim()):
        result = func(args[0][:0], *args[1:], **kwargs)
        return result.new_zeros((len(args[0]), *result.shape[1:]))
    return func(*args, **kwargs)


def trace(
    network: nn.Module, channels: int, image_px: ImageSize, *, argument: str, fitted: Collection[str] = ()
) -> "Trace":
    """Call an outline on images of a size and record its convolutions, poolings and fully-connected layers in order.

    A fully-connected layer takes any number of features here, and the kernels of the layers in ``fitted`` become as
    large as their input. ``argument`` is the name of ``image_px`` in errors.
    """
    convolutions = {name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}
    traced = _call(network.train(), channels, image_px, argument, fitted)  # auxiliary classifiers are called too
    if convolutions <= traced.calls.keys():
        return traced
    try:  # some are left out at random in training (stochastic depth), some always
        evaluated = _call(network.eval(), channels, image_px, argument, fitted)
    except InputError:
        return traced
    evaluated.calls |= {name: call for name, call in traced.calls.items() if name not in evaluated.calls}
    evaluated.functional = list(dict.fromkeys([*traced.functional, *evaluated.functional]))
    evaluated.borrowed |= traced.borrowed
    return evaluated


def _call(network: nn.Module, channels: int, image_px: ImageSize, argument: str, fitted: Collection[str]) -> "Trace":
    weights = [module.weight for module in network.modules() if isinstance(module, nn.Conv2d)]
    dtype = (weights or list(network.parameters()))[0].dtype
    tracer = Trace(network, fitted)
    try:
        with tracer:
            network(torch.zeros((_IMAGES, channels, *height_width(image_px)), dtype=dtype))
    except InputError:
        raise
    except Exception as error:  # whatever a custom network raises
        problem = f"={size_text(image_px)} does not suit the network: {tracer.position}: {one_line(error)}"
        raise ArgumentError(argument, problem) from error
    return tracer


class Trace(Shapes):
    """Calls of a network's layers, recorded by hooks, and of torch's functions, which may flatten a map."""

    def __init__(self, network: nn.Module, fitted: Collection[str]) -> None:
        super().__init__()
        self.calls: dict[str, Call] = {}  # by the name of the layer, in the order of the first calls
        self.functional: list[str] = []  # where a convolution was called as a function
        self.borrowed: set[str] = set()  # layers whose weight, or a rearrangement of it, a function took
        self.consumers: dict[str, list[str]] = {}  # by convolution: what takes its output, through pointwise functions
        self.position = "before its first layer, called on a batch of images alone"
        self._fitted = fitted
        self._convolving = 0
        self._maps: dict[Tensor, FeatureMap] = {}
        self._sources: dict[Tensor, str] = {}
        self._sizes: set[tuple[int, ...]] = set()
        self._rearranged: dict[Tensor, str] = {}
        self._kernels: dict[int, str] = {}
        self._hooks = []
        for name, module in network.named_modules():
            before, after = functools.partial(self._before, name), functools.partial(self._after, name)
            self._hooks.append(module.register_forward_pre_hook(before, prepend=True, with_kwargs=True))
            if isinstance(module, _ConvNd | nn.Linear | nn.AvgPool2d | nn.MaxPool2d):
                self._hooks.append(module.register_forward_hook(after, with_kwargs=True))
            if isinstance(module, nn.Conv2d) and module._parameters.get("weight") is not None:  # not computed
                self._kernels[memory_of(module.weight)] = name

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for hook in self._hooks:
            hook.remove()
        self._maps, self._rearranged, self._sources = {}, {}, {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(func, types, args, kwargs)
        tensors = [value for value in (*args, *(kwargs or {}).values()) if isinstance(value, Tensor)]
        if not self._convolving:
            self._follow_weights(_name(func), tensors, result)
            self._follow_outputs(_name(func), tensors, result)
        if not tensors or not isinstance(result, Tensor):
            return result
        source = tensors[0]
        if result.dim() == 4 and _name(func) not in _VIEWS:
            self._sizes.add(tuple(result.shape[2:]))
        if source.dim() == 4 and result.shape == (source.shape[0], source.shape[1:].numel()):
            if tuple(source.shape[2:]) in self._sizes:
                self._maps[result] = cast(FeatureMap, tuple(source.shape[1:]))
        elif source in self._maps and result.shape == source.shape and _name(func) not in _REORDERING:  # dropout, ReLU
            self._maps[result] = self._maps[source]
        return result

    def _follow_weights(self, function: str, tensors: list[Tensor], result: Any) -> None:
        """Record kernels that are used outside of their layers, as they are, rearranged or scaled."""
        if function in _CONVOLUTIONS:
            self.functional.append(self.position)
        for tensor in tensors:
            # In an outline, all views of a weight begin at its one zero.
            name = self._rearranged.get(tensor) or self._kernels.get(memory_of(tensor))
            if name is not None and function in _WEIGHTED:
                self.borrowed.add(name)
            elif name is not None and isinstance(result, Tensor) and result.numel() == tensor.numel():
                self._rearranged[result] = name

    def _follow_outputs(self, function: str, tensors: list[Tensor], result: Any) -> None:
        """Record what takes a convolution's output, itself or after pointwise functions."""
        maps = [tensor for tensor in tensors if tensor.dim() == 4]
        for tensor in maps if first_tensor(result) is not None else []:  # not of `shape`, `dim` and the like
            source = self._sources.get(tensor)
            if source is None or tensor is result:
                continue
            if len(maps) == 1 and isinstance(result, Tensor) and result.shape == tensor.shape:
                self._sources[result] = source
            else:
                swallows = "pool" in function and isinstance(result, Tensor)  # with indices, the size counts
                self.consumers[source].append(POOLING if swallows else OTHER)

    def _before(self, name: str, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._convolving += isinstance(module, _ConvNd)
        images = received(args, kwargs)
        if not isinstance(images, Tensor):
            return
        if isinstance(module, nn.Conv2d) and images in self._sources:
            self.consumers[self._sources[images]].append(name)
        shape = images.shape[1:]
        if name:
            self.position = f'in or after layer "{name}" ({"x".join(map(str, shape))} input)'
        else:
            self._sizes.add(tuple(shape[1:]))
        if isinstance(module, nn.Linear) and images.shape[-1] != module.in_features:
            _exchange_weight(name, module, (module.out_features, images.shape[-1]))
        elif name in self._fitted:
            module.kernel_size = tuple(shape[-2:])
            if isinstance(module, nn.Conv2d):
                _exchange_weight(name, module, (*module.weight.shape[:2], *shape[-2:]))

    def _after(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        self._convolving -= isinstance(module, _ConvNd)
        images = received(args, kwargs)
        given = first_tensor(output)
        if not isinstance(images, Tensor) or given is None:
            return
        if isinstance(module, nn.Linear):
            positions = math.prod(given.shape[:-1])
        else:
            maps = images if isinstance(module, _ConvTransposeNd) else given
            positions = len(maps) * math.prod(maps.shape[2:])
        if isinstance(module, nn.Conv2d):
            self.consumers[name] = [OTHER] if name in self.consumers else []  # called twice
            self._sources[given] = name
        positions = math.ceil(positions / _IMAGES)  # several of an image may stand in the batch, or one for all
        taken, shape = (tuple(tensor.shape[1:] or tensor.shape) for tensor in (images, given))  # or a lone vector
        call = self.calls.get(name) or Call(taken, shape, self._maps.get(images))
        self.calls[name] = call._replace(positions=call.positions + positions, times=call.times + 1)


def _exchange_weight(name: str, layer: nn.Conv2d | nn.Linear, shape: tuple[int, ...]) -> None:
    if is_parametrized(layer, "weight"):
        refuse_computed(name)
    layer.weight = nn.Parameter(layer.weight.new_zeros(shape), requires_grad=False)
