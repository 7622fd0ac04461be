"""Kernel sizes (Table 1) and the interpolation of kernels (Eq. 5) of Gusmão et al."""

import functools
import math
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from rescaler.errors import ArgumentError, InputError, one_line

Size = tuple[int, int]
"""Height, width in pixels."""
Interpolation = Callable[[Tensor, Size], Tensor]
"""Resizes a kernel ``(c_out, c_in, h, w)`` in float32 or float64 to ``(c_out, c_in, *size)``."""

TABLE_1: Mapping[int, int] = MappingProxyType({1: 1, 3: 2, 5: 3, 7: 5, 11: 7})
"""Gusmão et al., Table 1: side of a target kernel -> side of its pre-train kernel, in pixels."""


def two_thirds(side: int) -> int:
    """Pre-train side by the rule of Table 1; 2 stays, as a single pixel has no neighbours."""
    return max(round(2 * side / 3), min(side, 2))


KERNEL_TABLE: Mapping[int, int] = MappingProxyType({side: two_thirds(side) for side in range(1, 16)})
"""Table 1 and the sides between and beyond its own, up to 15."""


def rescale_kernel(weight: Tensor, size: Size, *, mode: str = "bilinear") -> Tensor:
    """Resize a convolution kernel and keep the amplitude of its response.

    Stretching a kernel by s multiplies its total weight by s², so values are divided by the ratio of areas
    (Gusmão et al., Eq. 5; their s there is the reciprocal of Table 1's).

    Args:
        weight: kernel, ``(c_out, c_in, h, w)``, any floating dtype.
        size: target ``(h, w)`` in pixels.
        mode: interpolation; sample points are pixel centres. ``pinv`` instead gives the smallest kernel that responds
            to every enlarged patch as ``weight`` does to the patch itself (FlexiViT, Beyer et al., 2023, section 3.4).
            ``embed`` surrounds the kernel with zeros: the same responses on images of the same size.
            Any other: the import path, ``package.module.function``, of an :data:`Interpolation`.

    Returns:
        Kernel ``(c_out, c_in, *size)`` in ``weight``'s dtype; ``weight`` itself where the size is unchanged.

    Raises:
        ValueError: ``weight`` is not 4-D or not floating, ``size`` is smaller than the kernel, or ``mode`` is unknown.
    """
    interpolate = interpolation(mode)
    if not isinstance(weight, Tensor):
        raise ArgumentError("weight", f" must be a tensor; got a {type(weight).__name__}")
    if not isinstance(size, Sequence) or len(size) != 2 or not all(isinstance(side, Integral) for side in size):
        raise ArgumentError("size", f" must be two integers, height and width; got {size!r}")
    if weight.dim() != 4:
        raise InputError(f"a kernel must be 4-D (c_out, c_in, h, w); got shape {tuple(weight.shape)}")
    if not weight.is_floating_point():
        raise InputError(f"a kernel must have a floating dtype; got {weight.dtype}")
    (h, w), (target_h, target_w) = weight.shape[2:], map(int, size)
    if (h, w) == (target_h, target_w):
        return weight
    if target_h < h or target_w < w:
        raise InputError(f"a kernel of {h}x{w} can only grow; got the target size {target_h}x{target_w}")
    dtype = torch.promote_types(weight.dtype, torch.float32)  # half precision would round every product
    # Contiguous: how the kernel lies in memory must not change the last bits of the product.
    with torch.autocast("cpu" if weight.is_meta else weight.device.type, enabled=False):
        kernel = interpolate(weight.contiguous().to(dtype), (target_h, target_w))
    wanted = (*weight.shape[:2], target_h, target_w)
    if not isinstance(kernel, Tensor) or kernel.shape != wanted:
        got = tuple(kernel.shape) if isinstance(kernel, Tensor) else f"a {type(kernel).__name__}"
        raise ArgumentError("mode", f"={mode} must give a kernel of shape {wanted}; got {got}")
    return kernel.to(weight.dtype)


def shrink_kernel(weight: Tensor, size: Size) -> Tensor:
    """Resize a trained kernel to the smaller one that the bilinear :func:`rescale_kernel` takes back to it.

    It is the least-squares solution: a kernel that was rescaled comes back exactly.
    """
    dtype = torch.promote_types(weight.dtype, torch.float32)
    matrix = _matrix(size, (weight.shape[2], weight.shape[3]), "bilinear")
    matrix = torch.linalg.pinv(matrix * (len(matrix) / matrix.shape[1]))
    kernel: Tensor = weight.flatten(2).to(dtype) @ matrix.to(weight.device, dtype)
    return kernel.reshape(*weight.shape[:2], *size).to(weight.dtype)


def interpolation(mode: str) -> Interpolation:
    """Find an interpolation by its name or its import path."""
    try:
        found: Interpolation = INTERPOLATIONS.get(mode) or pkgutil.resolve_name(mode)
        if not callable(found):
            raise TypeError("it is no function")
    except Exception as error:  # whatever a custom module raises
        rule = f"must be one of {', '.join(INTERPOLATIONS)} or the import path of a function (weight, size) -> kernel"
        raise ArgumentError("mode", f" {rule}; got {mode!r}: {one_line(error)}") from error
    return found


def embed(weight: Tensor, size: Size, start: Size | None = None) -> Tensor:
    """Surround a kernel with zeros; it begins at row and column ``start``, by default in the middle."""
    (h, w), (target_h, target_w) = weight.shape[2:], size
    top, left = start or ((target_h - h) // 2, (target_w - w) // 2)
    return F.pad(weight, (left, target_w - w - left, top, target_h - h - top))


def _interpolate(weight: Tensor, size: Size, *, mode: str, inverse: bool = False) -> Tensor:
    matrix = _matrix((weight.shape[2], weight.shape[3]), size, mode)
    # The pseudo-inverse keeps responses, so it needs no Eq. 5.
    matrix = torch.linalg.pinv(matrix.T) if inverse else matrix * (len(matrix) / math.prod(size))
    return (weight.flatten(2) @ matrix.to(weight.device, weight.dtype)).reshape(*weight.shape[:2], *size)


def _matrix(small: Size, large: Size, mode: str) -> Tensor:
    """Return an interpolation as a matrix ``(h * w, H * W)``: on small kernels 8 times faster than each by itself."""
    pixels = torch.eye(math.prod(small), dtype=torch.float64).reshape(-1, 1, *small)
    return F.interpolate(pixels, large, mode=mode).flatten(1)


INTERPOLATIONS: dict[str, Interpolation] = {
    "bilinear": functools.partial(_interpolate, mode="bilinear"),
    "bicubic": functools.partial(_interpolate, mode="bicubic"),
    "nearest": functools.partial(_interpolate, mode="nearest-exact"),
    "area": functools.partial(_interpolate, mode="area"),
    "pinv": functools.partial(_interpolate, mode="bilinear", inverse=True),
    "embed": embed,
}
