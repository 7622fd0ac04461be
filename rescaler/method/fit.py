"""Fit the target network's kernels to the pre-train network's responses on images."""

import contextlib
import functools
from collections.abc import Callable, Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rescaler.errors import ArgumentError
from rescaler.method.kernels import Size
from rescaler.method.layers import Weighted, margins, received

MAX_ROWS = 4096  # positions of feature maps in the fit of a layer: bounds its memory and time
Rows = tuple[Tensor, Tensor, Tensor]
"""Positions in feature maps: image, row, column."""


@torch.no_grad()
def fit(pretrain: nn.Module, target: nn.Module, small: Tensor, large: Tensor, *, ridge: float = 10.0) -> None:
    """Fit the target's resized layers to the pre-train network's responses.

    A rescaled layer should respond to the large image as it did to the small one, enlarged: a linear least-squares
    problem in its weights and bias. Layers are fitted in the order of the forward pass, each on the output of the
    fitted layers before it, so that errors do not add up. A ridge pulls towards the rescaled weights: neighbouring
    pixels of feature maps correlate, and a weak one finds large weights that cancel, from which training diverges.

    Kept: layers of equal shape, those not called in evaluation mode (auxiliary classifiers), and those whose class
    changes torch's forward pass. A shared layer is fitted at its first call.

    Args:
        pretrain: network of smaller kernels; not changed.
        target: network filled by :func:`rescaler.rescale`, best with ``mode="pinv"``; changed in place.
        small: images of the pre-train network's size, ``(n, channels, px, px)``.
        large: the same images of the target's size.
        ridge: strength, relative to the mean square of a layer's inputs.

    Raises:
        ArgumentError: there is no image, or not the same number of both, or ``ridge`` is not positive.
    """
    if not 0 < len(small) == len(large):
        raise ArgumentError("small", f" and large must be the same images; got {len(small)} and {len(large)}")
    if not ridge > 0:
        raise ArgumentError("ridge", f" must be positive; got {ridge}")
    before = pretrain.state_dict()
    layers: dict[int, tuple[str, Weighted]] = {}  # tied weights are fitted once
    for name, module in target.named_modules():
        if isinstance(module, Weighted) and module.weight.shape != before[f"{name}.weight"].shape:
            layers.setdefault(id(module.weight), (name, module))
    names = [name for name, _ in layers.values()]
    rows: dict[str, Rows] = {}
    sizes: dict[str, Size] = {}
    wanted: dict[str, Tensor] = {}

    def choose(name: str, layer: Weighted, inputs: Tensor, output: Any) -> None:
        if isinstance(output, Tensor) and _is_plain(layer, inputs, output):
            sizes[name] = (output.shape[2], output.shape[3]) if output.dim() == 4 else (1, 1)
            rows[name] = _rows(len(large), sizes[name])

    def respond(name: str, _layer: nn.Module, _inputs: Any, output: Tensor) -> None:
        maps = output if output.dim() == 4 else output[..., None, None]
        image, y, x = rows[name]
        wanted[name] = F.interpolate(maps, sizes[name], mode="bilinear")[image, :, y, x]  # (rows, c_out)

    def solve(name: str, layer: Weighted, inputs: Tensor, _output: Any) -> None:
        _fit_layer(layer, inputs, rows[name], wanted[name], ridge)

    _visit(target, names, large[:1], choose)
    _visit(pretrain, list(rows), small, respond)
    _visit(target, list(wanted), large, solve, before=True)


def _visit(
    network: nn.Module, names: Collection[str], images: Tensor, visit: Callable[..., None], *, before: bool = False
) -> None:
    """Evaluate a network and call ``visit(name, layer, input, output)`` at, or before, each layer's first call."""
    left = set(names)

    def hook(name: str, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any = None) -> None:
        if name in left:
            left.remove(name)
            visit(name, layer, received(args, kwargs), output)

    training = [module for module in network.modules() if module.training]
    with contextlib.ExitStack() as stack:
        for name in names:
            layer = network.get_submodule(name)
            register = layer.register_forward_pre_hook if before else layer.register_forward_hook
            stack.enter_context(register(functools.partial(hook, name), with_kwargs=True))
        network.eval()  # no dropout, and BatchNorm with the statistics that it has
        try:
            network(images)
        finally:
            for module in training:
                module.training = True


def _is_plain(layer: Weighted, images: Tensor, output: Tensor) -> bool:
    """Whether a layer's output is that of torch's own class."""
    if isinstance(layer, nn.Linear):
        expected = F.linear(images, layer.weight, layer.bias)
    else:
        maps = _padded(layer, images)
        expected = F.conv2d(maps, layer.weight, layer.bias, layer.stride, 0, layer.dilation, layer.groups)
    if expected.shape != output.shape:
        return False
    return bool((expected - output).abs().max() <= 0.05 * expected.abs().max())  # TF32 and half precision round


def _padded(conv: nn.Conv2d, maps: Tensor) -> Tensor:
    return F.pad(maps, margins(conv), "constant" if conv.padding_mode == "zeros" else conv.padding_mode)


def _rows(images: int, size: Size) -> Rows:
    """Choose at most ``MAX_ROWS`` positions at random, with a fixed seed."""
    h, w = size
    chosen = torch.randperm(images * h * w, generator=torch.Generator().manual_seed(0))[:MAX_ROWS]
    return chosen // (h * w), chosen // w % h, chosen % w


def _fit_layer(layer: Weighted, images: Tensor, rows: Rows, wanted: Tensor, ridge: float) -> None:
    inputs = _patches(layer, images, rows) if isinstance(layer, nn.Conv2d) else images[rows[0], None]
    inputs, wanted = inputs.transpose(0, 1).double(), wanted.double()  # (groups, rows, inputs)
    weight = layer.weight.reshape(len(inputs), -1, inputs.shape[2]).mT.double()  # (groups, inputs, outputs)
    missing = wanted.reshape(len(wanted), len(inputs), -1).transpose(0, 1) - inputs @ weight
    if layer.bias is None:
        layer.weight.add_(ridge_regression(inputs, missing, ridge).mT.reshape(layer.weight.shape))
        return
    # The bias takes the mean residual.
    missing -= layer.bias.reshape(len(inputs), 1, -1)
    centre, lack = inputs.mean(1, keepdim=True), missing.mean(1, keepdim=True)
    change = ridge_regression(inputs - centre, missing - lack, ridge)
    layer.weight.add_(change.mT.reshape(layer.weight.shape))
    layer.bias.add_((lack - centre @ change).flatten())


def _patches(conv: nn.Conv2d, maps: Tensor, rows: Rows) -> Tensor:
    """Extract the patches under the kernel, ``(rows, groups, inputs)``."""
    image, *position = rows
    y, x = (
        (position[axis] * conv.stride[axis])[:, None] + torch.arange(conv.kernel_size[axis]) * conv.dilation[axis]
        for axis in range(2)
    )
    patches = _padded(conv, maps)[image[:, None, None], :, y[:, :, None], x[:, None, :]]  # (rows, h, w, channels)
    return patches.permute(0, 3, 1, 2).reshape(len(image), conv.groups, -1)


def ridge_regression(inputs: Tensor, outputs: Tensor, ridge: float) -> Tensor:
    """Solve each group's regression, primal or dual, for the weights ``(groups, inputs, outputs)``."""
    rows, width = inputs.shape[1:]
    strength = ridge * inputs.square().sum((1, 2)) / width
    strength = strength.clamp_min(torch.finfo(inputs.dtype).tiny)[:, None, None]  # a dead input determines nothing
    if width <= rows:
        gram = inputs.mT @ inputs + strength * torch.eye(width).to(inputs)
        return torch.cholesky_solve(inputs.mT @ outputs, torch.linalg.cholesky(gram))
    gram = inputs @ inputs.mT + strength * torch.eye(rows).to(inputs)
    return inputs.mT @ torch.cholesky_solve(outputs, torch.linalg.cholesky(gram))
