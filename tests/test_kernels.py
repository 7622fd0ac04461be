from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rescaler.errors import InputError
from rescaler.method.kernels import INTERPOLATIONS, KERNEL_TABLE, TABLE_1, rescale_kernel

PAIRS = [(small, large) for large, small in TABLE_1.items()]
every_mode = pytest.mark.parametrize("mode", INTERPOLATIONS)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_table_1_gives_the_papers_scale_factors() -> None:
    scales = {large: round(large / small, 2) for large, small in TABLE_1.items()}
    assert scales == {1: 1.0, 3: 1.5, 5: 1.67, 7: 1.4, 11: 1.57}


def test_the_kernel_table_continues_table_1() -> None:
    assert KERNEL_TABLE.keys() == set(range(1, 16))
    assert KERNEL_TABLE.items() >= TABLE_1.items()
    for side in range(3, 16):  # the side nearest to two thirds
        assert abs(3 * KERNEL_TABLE[side] - 2 * side) <= 1
    assert KERNEL_TABLE[2] == 2  # a pixel alone has no neighbours


@pytest.mark.parametrize(
    ("mode", "axis"),
    [
        ("bilinear", [1.0, 2.0, 3.0]),  # samples at -1/6 (clamped), 1/2 and 7/6 (clamped) of the taps 1 and 3
        ("area", [1.0, 2.0, 3.0]),  # means of the taps {1}, {1, 3} and {3}
        ("nearest", [1.0, 3.0, 3.0]),  # the middle lies on the border: the later tap
    ],
)
def test_2x2_to_3x3_by_hand(mode: str, axis: list[float]) -> None:
    small = torch.outer(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 3.0]))[None, None]
    expected = torch.outer(torch.tensor(axis), torch.tensor(axis)) * 4 / 9
    torch.testing.assert_close(rescale_kernel(small, (3, 3), mode=mode)[0, 0], expected)


@every_mode
@pytest.mark.parametrize(("small", "large"), [*PAIRS, (4, 6), (2, 7)])
def test_constant_kernel_keeps_its_total_weight(small: int, large: int, mode: str) -> None:
    levels = torch.randn(4, 3, 1, 1, dtype=torch.float64)
    rescaled = rescale_kernel(levels.expand(4, 3, small, small), (large, large), mode=mode)
    torch.testing.assert_close(rescaled.sum((2, 3)), levels[..., 0, 0] * small**2)
    if mode not in ("pinv", "embed"):
        torch.testing.assert_close(rescaled, rescaled[..., :1, :1].expand_as(rescaled))


@pytest.mark.parametrize(("small", "large"), [*PAIRS, (2, 5)])
def test_pinv_responds_to_an_enlarged_patch_as_to_the_patch(small: int, large: int) -> None:
    """FlexiViT's theorem, for any patch and any kernel."""
    weight = torch.randn(8, 3, small, small, dtype=torch.float64)
    patches = torch.randn(5, 3, small, small, dtype=torch.float64)
    enlarged = F.interpolate(patches, (large, large), mode="bilinear")
    responses = F.conv2d(enlarged, rescale_kernel(weight, (large, large), mode="pinv"))
    torch.testing.assert_close(responses, F.conv2d(patches, weight))


def test_pinv_is_blind_to_patches_that_enlarging_never_makes() -> None:
    """It is the smallest of all kernels with its theorem: blind to patches that no enlarged patch resembles."""
    enlarged = F.interpolate(torch.eye(4, dtype=torch.float64).reshape(4, 1, 2, 2), (3, 3), mode="bilinear").flatten(1)
    blind = torch.linalg.svd(enlarged).Vh[4:].reshape(-1, 1, 3, 3)
    kernel = rescale_kernel(torch.randn(6, 1, 2, 2, dtype=torch.float64), (3, 3), mode="pinv")
    responses = F.conv2d(blind, kernel)
    torch.testing.assert_close(responses, torch.zeros_like(responses))


def _smooth_images(side: int) -> Tensor:
    return F.interpolate(torch.randn(4, 3, 12, 12), (side, side), mode="bicubic", align_corners=False)


@pytest.mark.parametrize(("small", "large"), [(2, 3), (3, 5), (5, 7), (7, 11)])
def test_scaling_property_of_convolutions(small: int, large: int) -> None:
    """Eq. 1 and 2: the large kernel sees on the large image what the small kernel sees on the small image."""
    images = _smooth_images(24 * large)
    small_images = F.interpolate(images, (24 * small, 24 * small), mode="bilinear", antialias=True)
    kernel = torch.randn(16, 3, small, small)
    response = F.conv2d(images, rescale_kernel(kernel, (large, large)))
    expected = F.interpolate(F.conv2d(small_images, kernel), response.shape[-2:], mode="bilinear")
    gain = ((response * expected).sum() / expected.square().sum()).item()
    assert 0.95 < gain < 1.06  # 1.9 and more with the other readings of Eq. 5: no gain, or (large / small)²


@every_mode
def test_linear(mode: str) -> None:
    a, b = torch.randn(2, 3, 4, 5, 5, dtype=torch.float64)
    both = rescale_kernel(2 * a - 3 * b, (7, 7), mode=mode)
    apart = 2 * rescale_kernel(a, (7, 7), mode=mode) - 3 * rescale_kernel(b, (7, 7), mode=mode)
    torch.testing.assert_close(both, apart)


def test_unchanged_size_returns_the_weight_itself() -> None:
    weight = torch.randn(2, 2, 3, 3)
    assert rescale_kernel(weight, (3, 3)) is weight


@pytest.fixture(autouse=True)
def _users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A module of the user's."""
    (tmp_path / "users.py").write_text(
        "import torch.nn.functional as F\n"
        "def framed(weight, size):\n"
        "    assert weight.dtype.itemsize >= 4\n"
        "    return F.pad(weight, (0, size[1] - weight.shape[3], 0, size[0] - weight.shape[2]))\n"
        "def wrong(weight, size): return weight\n"
        "constant = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


def test_an_interpolation_of_the_users_own() -> None:
    weight = torch.randn(2, 1, 2, 2).half()
    assert torch.equal(rescale_kernel(weight, (3, 3), mode="users.framed"), F.pad(weight, (0, 1, 0, 1)))


KERNEL = torch.ones(1, 1, 3, 3)


@pytest.mark.parametrize(
    ("weight", "size", "mode", "message"),
    [
        (KERNEL[0, 0], (5, 5), "area", r"must be 4-D \(c_out, c_in, h, w\); got shape \(3, 3\)"),
        (KERNEL.long(), (5, 5), "area", r"floating dtype; got torch\.int64"),
        (KERNEL, 5, "area", "^size must be two integers, height and width; got 5"),
        (KERNEL, (5,), "area", "^size must be two integers"),
        (KERNEL, (5, 5.0), "area", "^size must be two integers"),
        (KERNEL, (2, 5), "area", "kernel of 3x3 can only grow; got the target size 2x5"),
        (KERNEL, (5, 2), "area", "kernel of 3x3 can only grow; got the target size 5x2"),
        (KERNEL, (5, 5), "cubic", "one of bilinear, bicubic, nearest, area, pinv, embed or .*; got 'cubic': "),
        (KERNEL, (5, 5), "users.wrong", r"must give a kernel of shape \(1, 1, 5, 5\); got \(1, 1, 3, 3\)"),
        (KERNEL, (5, 5), "users.constant", "got 'users.constant': it is no function"),
        (KERNEL, (5, 5), "users.absent", "got 'users.absent': .*absent"),
    ],
)
def test_wrong_arguments_are_refused(weight: Tensor, size: Any, mode: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        rescale_kernel(weight, size, mode=mode)


def test_memory_layout_changes_no_bit() -> None:
    weight = torch.rand(16, 3, 5, 5)
    other = weight.contiguous(memory_format=torch.channels_last)
    assert torch.equal(rescale_kernel(weight, (7, 7)), rescale_kernel(other, (7, 7)))


def test_half_precision_is_rounded_once() -> None:
    weight = torch.randn(4, 4, 2, 2).half()
    rescaled = rescale_kernel(weight, (3, 3))
    assert rescaled.dtype == torch.float16
    exact = rescale_kernel(weight.double(), (3, 3))
    half_a_step = np.spacing(exact.abs().numpy().astype(np.float16)).astype(np.float64) / 2
    assert (np.abs((rescaled.double() - exact).numpy()) <= 1.001 * half_a_step).all()


def test_gradients_flow_back() -> None:
    weight = torch.randn(1, 1, 2, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(rescale_kernel(weight, (3, 3)).sum(), weight)
    torch.testing.assert_close(gradient, torch.ones(1, 1, 2, 2))
