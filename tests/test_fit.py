import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import classifier
from torch import Tensor, nn

from rescaler.errors import ArgumentError
from rescaler.method import fit as fitting
from rescaler.method.fit import fit
from rescaler.method.rescaling import rescale
from rescaler.method.shrinking import shrink


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class Two(nn.Module):
    """Two convolutions and a fully-connected layer, of every kind that a fit must tell apart."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1, stride=2, padding_mode="reflect")
        self.second = nn.Conv2d(4, 8, 3, padding=2, dilation=2, groups=4, bias=False)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(8 * 6 * 6, 5)

    def forward(self, images: Tensor) -> Any:
        maps = F.relu(self.second(F.relu(self.first(images), inplace=True)))
        return self.last(self.drop(maps.flatten(1)))


def _images(count: int, small_px: int, large_px: int) -> tuple[Tensor, Tensor]:
    """The same smooth images in two sizes."""
    images = F.interpolate(torch.randn(count, 2, 5, 5), (large_px, large_px), mode="bicubic")
    return F.interpolate(images, (small_px, small_px), mode="bilinear", antialias=True), images


def _error(pretrain: nn.Module, target: nn.Module, small: Tensor, large: Tensor) -> float:
    with torch.no_grad():
        return F.mse_loss(target.eval()(large), pretrain.eval()(small)).item()


def _fitted(target: nn.Module) -> set[str]:
    """Names of the tensors that a fit on twenty images changes."""
    shrunk = shrink(target, 12)
    rescale(shrunk.network, target)
    before, pretrain = copy.deepcopy(target.state_dict()), copy.deepcopy(shrunk.network.state_dict())
    fit(shrunk.network, target, *_images(20, shrunk.image_px, 12))
    assert all(torch.equal(tensor, pretrain[name]) for name, tensor in shrunk.network.state_dict().items())
    return {name for name, tensor in target.state_dict().items() if not torch.equal(tensor, before[name])}


def test_responses_come_closer_on_images_that_it_has_not_seen() -> None:
    target = Two()
    shrunk = shrink(target, 12)
    small, large = _images(400, shrunk.image_px, 12)
    rescale(shrunk.network, target, mode="pinv")
    before = _error(shrunk.network, target, small[300:], large[300:])
    fit(shrunk.network, target, small[:300], large[:300], ridge=0.1)
    assert _error(shrunk.network, target, small[300:], large[300:]) < before / 2


def test_finds_the_kernel_where_there_is_one_that_answers_exactly() -> None:
    """The small images are the middle pixels of the large ones, so a kernel with only a centre repeats a 1x1."""
    target, pretrain = nn.Sequential(nn.Conv2d(2, 3, 3)), nn.Sequential(nn.Conv2d(2, 3, 1))
    large = torch.randn(500, 2, 3, 3)
    fit(pretrain, target, large[:, :, 1:2, 1:2], large, ridge=1e-9)
    found, known = target.state_dict(), pretrain.state_dict()
    expected = F.pad(known["0.weight"], (1, 1, 1, 1))
    torch.testing.assert_close(found["0.weight"], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["0.bias"], known["0.bias"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("noise", "ridges"), [(0.0, [0.1]), (20.0, [10.0, 100.0])])
def test_the_ridge_is_chosen_by_held_out_responses(noise: float, ridges: list[float]) -> None:
    """Weak where a kernel answers exactly, strong where the small network's answers follow from nothing."""
    pretrain, start = nn.Conv2d(2, 3, 1), nn.Conv2d(2, 3, 3)
    nn.init.zeros_(start.weight)
    large = torch.randn(40, 2, 3, 3)
    small = large[:, :, 1:2, 1:2] + noise * torch.randn(40, 2, 1, 1)
    found = {}
    for ridge in (None, *fitting.RIDGES):
        target = copy.deepcopy(start)
        fit(nn.Sequential(pretrain), nn.Sequential(target), small, large, ridge=ridge)
        found[ridge] = target.weight
    assert [ridge for ridge in ridges if torch.equal(found[ridge], found[None])]


def test_three_images_are_too_few_to_hold_one_out() -> None:
    """Then the ridge is the one given, 10 where none is."""
    pretrain, chosen = nn.Sequential(nn.Conv2d(2, 3, 1)), nn.Conv2d(2, 3, 3)
    expected, large = copy.deepcopy(chosen), torch.randn(3, 2, 3, 3)
    given = copy.deepcopy(chosen), copy.deepcopy(chosen)
    fit(pretrain, nn.Sequential(chosen), large[:, :, :1, :1], large, ridge=None, align=True)
    fit(pretrain, nn.Sequential(expected), large[:, :, :1, :1], large)
    assert torch.equal(chosen.weight, expected.weight)
    for one, align in zip(given, (False, True), strict=True):
        fit(pretrain, nn.Sequential(one), large[:, :, :1, :1], large, ridge=1.0, align=align)
    assert torch.equal(given[0].weight, given[1].weight)
    assert not torch.equal(given[0].weight, expected.weight)


def test_one_held_out_row_does() -> None:
    """Of four images and a map of one pixel: torch would warn of the spread of a single row."""
    pretrain, start = nn.Sequential(nn.Conv2d(2, 3, 1)), nn.Conv2d(2, 3, 3)
    small, large = torch.randn(4, 2, 1, 1), torch.randn(4, 2, 3, 3)
    found = {}
    for ridge in (None, *fitting.RIDGES):
        target = copy.deepcopy(start)
        fit(pretrain, nn.Sequential(target), small, large, ridge=ridge)
        found[ridge] = target.weight
    assert any(torch.equal(found[None], found[ridge]) for ridge in fitting.RIDGES)


@pytest.mark.parametrize("shift", [-1, 0, 1])
def test_the_half_pixel_of_an_even_kernel_is_undone(shift: int) -> None:
    """A 2x2 mean, padded on one side alone, lies half a pixel beside the mean of maps twice as large."""
    pad = {-1: (1, 0, 1, 0), 0: (1, 1, 1, 1), 1: (0, 1, 0, 1)}[shift]
    small_mean, large_mean = nn.Conv2d(1, 1, 2 + (shift == 0), bias=False), nn.Conv2d(1, 1, 5, padding=2, bias=False)
    for conv in (small_mean, large_mean):
        nn.init.constant_(conv.weight, 1 / conv.weight.numel())
    pretrain, large = nn.Sequential(nn.ZeroPad2d(pad), small_mean), torch.randn(64, 1, 6, 6)
    large = F.interpolate(large, (24, 24), mode="bicubic")
    centres = []
    for align in (False, True):
        grown = copy.deepcopy(large_mean)
        fit(pretrain, nn.Sequential(nn.Identity(), grown), F.avg_pool2d(large, 2), large, ridge=1.0, align=align)
        kernel = grown.weight[0, 0].detach().abs()
        centres.append(float((kernel * torch.arange(-2.0, 3.0)).sum() / kernel.sum()))
    plain, undone = centres
    assert abs(undone) < 0.1
    assert shift == 0 or abs(plain) > 0.5


@pytest.mark.parametrize(("rows", "width"), [(40, 6), (6, 40)])
def test_ridge_regression_is_where_its_gradient_vanishes(rows: int, width: int) -> None:
    inputs, outputs = torch.randn(3, rows, width, dtype=torch.float64), torch.randn(3, rows, 2, dtype=torch.float64)
    weights = fitting.ridge_regression(inputs, outputs, 0.5).requires_grad_()
    penalty = 0.5 * inputs.square().mean((1, 2)) * rows * weights.square().sum((1, 2))
    loss = (inputs @ weights - outputs).square().sum() + penalty.sum()
    (gradient,) = torch.autograd.grad(loss, weights)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-9, rtol=0)


def test_weights_of_dead_inputs_are_kept() -> None:
    target = Two()
    shrunk = shrink(target, 12)
    rescale(shrunk.network, target)
    before = copy.deepcopy(target.state_dict())
    small, large = _images(50, shrunk.image_px, 12)
    small[:, 1], large[:, 1] = 0, 0  # a channel that is always black
    fit(shrunk.network, target, small, large)
    assert torch.equal(target.first.weight[:, 1], before["first.weight"][:, 1])
    assert not torch.equal(target.first.weight[:, 0], before["first.weight"][:, 0])


def test_only_resized_layers_change_and_nothing_is_left_behind() -> None:
    norm = nn.BatchNorm2d(4).eval()
    target = classifier(nn.Conv2d(2, 4, 3, padding=1), norm, nn.Conv2d(4, 3, 1), nn.Conv2d(3, 4, 1))
    assert _fitted(target) == {"conv.weight", "conv.bias"}
    assert target.training
    assert not norm.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in target.modules())


class Padding(nn.Conv2d):
    """Pads itself by the size of its kernel."""

    def forward(self, images: Tensor) -> Tensor:
        side = self.kernel_size[0] - 1
        return super().forward(F.pad(images, (side // 2, side - side // 2, side // 2, side - side // 2)))


class Standardised(nn.Conv2d):
    def forward(self, images: Tensor) -> Any:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(images, weight / weight.std((1, 2, 3), keepdim=True), self.bias)


@pytest.mark.parametrize("kind", [Padding, Standardised])
def test_a_layer_with_another_forward_pass_is_not_fitted(kind: type[nn.Conv2d]) -> None:
    assert _fitted(nn.Sequential(kind(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))) == {"2.weight", "2.bias"}


@pytest.mark.parametrize(
    ("small", "large", "ridge", "message"),
    [
        (4, 5, 1.0, "small and large must be the same images; got 4 and 5"),
        (0, 0, 1.0, "small and large must be the same images; got 0 and 0"),
        (4, 4, 0.0, "ridge must be positive; got 0.0"),
    ],
)
def test_wrong_arguments(small: int, large: int, ridge: float, message: str) -> None:
    target = Two()
    shrunk = shrink(target, 12)
    images = torch.randn(5, 2, 12, 12)
    with pytest.raises(ArgumentError, match=message):
        fit(shrunk.network, target, images[:small, :, : shrunk.image_px], images[:large], ridge=ridge)


def test_layers_may_be_called_by_keyword() -> None:
    class Keyword(Two):
        def forward(self, images: Tensor) -> Any:
            return self.last(input=self.second(input=self.first(input=images)).flatten(1))

    assert _fitted(Keyword()) == {"first.weight", "first.bias", "second.weight", "last.weight", "last.bias"}


def test_half_precision_stays_half() -> None:
    target = Two().bfloat16()
    shrunk = shrink(target, 12)
    rescale(shrunk.network, target)
    small, large = _images(20, shrunk.image_px, 12)
    fit(shrunk.network, target, small.bfloat16(), large.bfloat16())
    assert {parameter.dtype for parameter in target.parameters()} == {torch.bfloat16}
    assert all(parameter.isfinite().all() for parameter in target.parameters())
