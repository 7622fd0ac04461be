"""Kernels of one size made kernels of another: Table 1 and Eq. 5 of Gusmão et al."""

import math
from collections.abc import Mapping, Sequence
from numbers import Integral
from types import MappingProxyType
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from rescaler.errors import ArgumentError, InputError

Interpolation = Literal["bilinear", "bicubic", "nearest", "area", "pinv"]
INTERPOLATIONS: tuple[Interpolation, ...] = get_args(Interpolation)

TABLE_1: Mapping[int, int] = MappingProxyType({1: 1, 3: 2, 5: 3, 7: 5, 11: 7})
"""Gusmão et al., Table 1: side of a target kernel -> side of its pre-train kernel, in pixels."""


def two_thirds(side: int) -> int:
    """Side of the pre-train kernel by the rule that Table 1 follows; 2 stays, as a pixel alone has no neighbours."""
    return max(round(2 * side / 3), min(side, 2))


KERNEL_TABLE: Mapping[int, int] = MappingProxyType({side: two_thirds(side) for side in range(1, 16)})
"""Table 1 and the sides between and beyond its own, up to 15."""


def rescale_kernel(weight: Tensor, size: tuple[int, int], *, mode: Interpolation = "bilinear") -> Tensor:
    """Resize a convolution kernel and keep the amplitude of its response.

    Stretching a kernel by s multiplies its total weight by s², so values are divided by the ratio of areas
    (Gusmão et al., Eq. 5; their s there is the reciprocal of Table 1's).

    Args:
        weight: kernel, ``(c_out, c_in, h, w)``, any floating dtype.
        size: target ``(h, w)`` in pixels.
        mode: interpolation; sample points are pixel centres. ``pinv`` instead gives the smallest kernel that responds
            to every enlarged patch as ``weight`` does to the patch itself (FlexiViT, Beyer et al., 2023, section 3.4).

    Returns:
        Kernel ``(c_out, c_in, *size)`` in ``weight``'s dtype; ``weight`` itself where the size is unchanged.

    Raises:
        ValueError: ``weight`` is not 4-D or not floating, ``size`` is smaller than the kernel, or ``mode`` is unknown.
    """
    if mode not in INTERPOLATIONS:
        raise ArgumentError("mode", f" must be one of {', '.join(INTERPOLATIONS)}; got {mode!r}")
    if not isinstance(weight, Tensor):
        raise ArgumentError("weight", f" must be a tensor; got a {type(weight).__name__}")
    if not isinstance(size, Sequence) or len(size) != 2 or not all(isinstance(side, Integral) for side in size):
        raise ArgumentError("size", f" must be two integers, height and width; got {size!r}")
    if weight.dim() != 4:
        raise InputError(f"a kernel must be 4-D (c_out, c_in, h, w); got shape {tuple(weight.shape)}")
    if not weight.is_floating_point():
        raise InputError(f"a kernel must have a floating dtype; got {weight.dtype}")
    (h, w), (target_h, target_w) = weight.shape[-2:], size
    if (h, w) == (target_h, target_w):
        return weight
    if target_h < h or target_w < w:
        raise InputError(f"a kernel of {h}x{w} can only grow; got the target size {target_h}x{target_w}")
    dtype = torch.promote_types(weight.dtype, torch.float32)  # half precision would round every product
    stretch = _stretch((h, w), (target_h, target_w), mode)
    # Contiguous: how the kernel lies in memory must not change the last bits of the product.
    with torch.autocast("cpu" if weight.is_meta else weight.device.type, enabled=False):
        values = weight.contiguous().flatten(2).to(dtype) @ stretch.to(weight.device, dtype)
    return values.to(weight.dtype).reshape(*weight.shape[:2], target_h, target_w)


def _stretch(size: tuple[int, int], target: tuple[int, int], mode: Interpolation) -> Tensor:
    """Matrix ``(h * w, H * W)`` from a small kernel to a large one; each of its columns is one tap of the large one."""
    if mode == "pinv":  # no gain: it asks for equal responses, which settles the amplitude
        inverse: Tensor = torch.linalg.pinv(_interpolation_matrix(size, target, "bilinear").T)
        return inverse
    return _interpolation_matrix(size, target, mode) * (math.prod(size) / math.prod(target))


def _interpolation_matrix(size: tuple[int, int], target: tuple[int, int], mode: Interpolation) -> Tensor:
    """Interpolation as a matrix ``(h * w, H * W)``: it is linear, and on small kernels this is 8 times faster."""
    pixels = torch.eye(size[0] * size[1], dtype=torch.float64).reshape(-1, 1, *size)
    if mode == "nearest":
        return F.interpolate(pixels, target, mode="nearest-exact").flatten(1)
    align_corners = None if mode == "area" else False
    return F.interpolate(pixels, target, mode=mode, align_corners=align_corners).flatten(1)
