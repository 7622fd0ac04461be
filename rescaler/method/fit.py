"""Fit the target network's kernels to the pre-train network's responses on images."""

import contextlib
import functools
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rescaler.errors import ArgumentError
from rescaler.method import RIDGE
from rescaler.method.kernels import Size
from rescaler.method.layers import Weighted, margins, received

MAX_ROWS = 4096  # positions of feature maps in the fit of a layer: bounds its memory and time
Rows = tuple[Tensor, Tensor, Tensor]
"""Positions in feature maps: image, row, column."""
RIDGES = (0.1, 1.0, RIDGE, 100.0)
"""Strengths to choose from."""
SHIFTS = (0.0, -0.5, 0.5)
"""Pixels of the small map, in both directions, to choose from."""


@torch.no_grad()
def fit(
    pretrain: nn.Module,
    target: nn.Module,
    small: Tensor,
    large: Tensor,
    *,
    ridge: float | None = RIDGE,
    align: bool = False,
) -> None:
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
        ridge: strength, relative to the mean square of a layer's inputs; None: of each layer the one of ``RIDGES``
            whose fit to three images of four errs least on the fourth; 10 where there are fewer than four.
        align: undo the half pixel by which an even kernel moves its map, in the layers where that errs least so.

    Raises:
        ArgumentError: there is no image, or not the same number of both, or ``ridge`` is not positive.
    """
    if not 0 < len(small) == len(large):
        raise ArgumentError("small", f" and large must be the same images; got {len(small)} and {len(large)}")
    if ridge is not None and not ridge > 0:
        raise ArgumentError("ridge", f" must be positive; got {ridge}")
    ridges, shifts = RIDGES if ridge is None else (ridge,), SHIFTS if align else (0.0,)
    before = pretrain.state_dict()
    layers: dict[int, tuple[str, Weighted]] = {}  # tied weights are fitted once
    for name, module in target.named_modules():
        if isinstance(module, Weighted) and module.weight.shape != before[f"{name}.weight"].shape:
            layers.setdefault(id(module.weight), (name, module))
    names = [name for name, _ in layers.values()]
    rows: dict[str, Rows] = {}
    sizes: dict[str, Size] = {}
    wanted: dict[str, dict[float, Tensor]] = {}

    def choose(name: str, layer: Weighted, inputs: Tensor, output: Any) -> None:
        if isinstance(output, Tensor) and _is_plain(layer, inputs, output):
            sizes[name] = (output.shape[2], output.shape[3]) if output.dim() == 4 else (1, 1)
            rows[name] = _rows(len(large), sizes[name])

    def respond(name: str, _layer: nn.Module, _inputs: Any, output: Tensor) -> None:
        maps = output if output.dim() == 4 else output[..., None, None]
        image, y, x = rows[name]
        own = shifts if maps.shape[2:].numel() > 1 else (0.0,)
        wanted[name] = {shift: _enlarged(maps, sizes[name], shift)[image, :, y, x] for shift in own}  # (rows, c_out)

    def solve(name: str, layer: Weighted, inputs: Tensor, _output: Any) -> None:
        _fit_layer(layer, inputs, rows[name], wanted[name], ridges)

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


def _enlarged(maps: Tensor, size: Size, shift: float) -> Tensor:
    """Enlarge maps, read ``shift`` of their own pixels further to the right and down."""
    if shift == 0.0:
        return F.interpolate(maps, size, mode="bilinear")
    h, w = maps.shape[2:]
    move = torch.tensor([[1.0, 0.0, 2 * shift / w], [0.0, 1.0, 2 * shift / h]], device=maps.device)
    grid = F.affine_grid(move.expand(len(maps), 2, 3), [*maps.shape[:2], *size], align_corners=False)
    return F.grid_sample(maps.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)


def _fit_layer(
    layer: Weighted, images: Tensor, rows: Rows, wanted: dict[float, Tensor], ridges: Sequence[float]
) -> None:
    inputs = _patches(layer, images, rows) if isinstance(layer, nn.Conv2d) else images[rows[0], None]
    inputs = inputs.transpose(0, 1).double()  # (groups, rows, inputs)
    weight = layer.weight.reshape(len(inputs), -1, inputs.shape[2]).mT.double()  # (groups, inputs, outputs)
    bias, has_bias = (0.0, False) if layer.bias is None else (layer.bias.reshape(len(inputs), 1, -1), True)
    targets = {shift: one.double().reshape(len(one), len(inputs), -1).transpose(0, 1) for shift, one in wanted.items()}
    missing = {shift: one - inputs @ weight - bias for shift, one in targets.items()}
    ridge, shift = RIDGE if RIDGE in ridges else ridges[0], 0.0
    held = rows[0] % 4 == 3  # by image: neighbours in a map are alike
    if len(ridges) * len(missing) > 1 and held.any():
        errors = _held_out_errors(inputs, targets, missing, ridges, held, has_bias)
        ridge, shift = min(errors, key=lambda one: errors[one], default=(ridge, shift))
    change, offset = _solve(inputs, missing[shift], ridge, has_bias)
    layer.weight.add_(change.mT.reshape(layer.weight.shape))
    if layer.bias is not None:
        layer.bias.add_(offset.flatten())


def _solve(inputs: Tensor, missing: Tensor, ridge: float, has_bias: bool) -> tuple[Tensor, Tensor]:
    """Return the change of the weights and of the bias, which takes the mean residual."""
    if not has_bias:
        return ridge_regression(inputs, missing, ridge), missing.new_zeros(())
    centre, lack = inputs.mean(1, keepdim=True), missing.mean(1, keepdim=True)
    change = ridge_regression(inputs - centre, missing - lack, ridge)
    return change, lack - centre @ change


def _held_out_errors(
    inputs: Tensor,
    targets: dict[float, Tensor],
    missing: dict[float, Tensor],
    ridges: Sequence[float],
    held: Tensor,
    has_bias: bool,
) -> dict[tuple[float, float], float]:
    """Return for each ridge and shift how much a fit to the other rows errs on the ``held``, by share of variance."""
    spreads = [one.var(1).sum().clamp_min(torch.finfo(one.dtype).tiny) for one in targets.values()]
    stacked = torch.cat(list(missing.values()), dim=2)
    errors = {}
    for ridge in ridges:
        change, offset = _solve(inputs[:, ~held], stacked[:, ~held], ridge, has_bias)
        left = stacked[:, held] - inputs[:, held] @ change - offset
        for shift, own, spread in zip(missing, left.chunk(len(missing), 2), spreads, strict=True):
            errors[ridge, shift] = float(own.square().mean(1).sum() / spread)
    return {choice: error for choice, error in errors.items() if math.isfinite(error)}


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
