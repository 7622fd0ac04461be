import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import classifier
from torch import Tensor, nn

from rescaler.errors import InputError
from rescaler.method.shrinking import shrink


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(2, 4, 3, padding=1),
        nn.Conv2d(2, 4, 3),
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        nn.Conv2d(2, 4, 5, stride=3, padding=1),
        nn.Conv2d(2, 4, 7, stride=2, padding=3),
        nn.Conv2d(2, 4, 11, stride=4, padding=2),
        nn.Conv2d(2, 4, 3, padding=2, dilation=2),
        nn.Conv2d(2, 4, 3, padding=1, dilation=3),
        nn.Conv2d(2, 4, (1, 7), padding=(0, 3)),
        nn.Conv2d(2, 4, (3, 5), padding=(0, 2), stride=(1, 2)),
        nn.Conv2d(2, 4, 3, padding="same"),
        nn.Conv2d(2, 4, 5, padding="valid"),
        nn.Conv2d(2, 4, 3, padding=1, groups=2),
        nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(2, 4, 5, padding=2, padding_mode="circular"),
    ],
    ids=str,
)
def test_shrunk_convolution_keeps_the_output_size(conv: nn.Conv2d) -> None:
    target = classifier(conv)
    small = shrink(target, 28).network.get_submodule("conv")
    for side in range(20, 32):  # all remainders by the stride
        images = torch.randn(1, 2, side, side)
        assert small(images).shape == conv(images).shape


def test_padding_mode_is_kept() -> None:
    conv = nn.Conv2d(1, 1, 3, padding=1, padding_mode="replicate", bias=False)
    small = shrink(classifier(conv), 12).network.get_submodule("conv")
    response = small(torch.ones(1, 1, 6, 6))  # zeros at a border would show
    torch.testing.assert_close(response, response[..., :1, :1].expand_as(response))


def test_symmetric_padding_needs_no_extra_step() -> None:
    small = shrink(classifier(nn.Conv2d(1, 2, 7, stride=2, padding=3)), 28).network.get_submodule("conv")
    assert isinstance(small, nn.Conv2d)
    assert small.padding == (2, 2)
    assert not small._forward_pre_hooks


def test_features_do_not_drift_over_depth() -> None:
    """A point in the middle, blurred by two even kernels, has its centre of mass in the middle still."""
    target = classifier(nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1))
    network = shrink(target, 21).network
    point = torch.zeros(1, 1, 9, 9)
    point[..., 4, 4] = 1
    centres = []
    for name in ("conv", "more0"):
        conv = network.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        assert conv.bias is not None
        nn.init.ones_(conv.weight)
        nn.init.zeros_(conv.bias)
        point = conv(point)
        axis = torch.arange(9.0)
        mass = point[0, 0] / point.sum()
        centres.append(((mass.sum(0) * axis).sum().item(), (mass.sum(1) * axis).sum().item()))
    assert centres == [(4.5, 4.5), (4.0, 4.0)] or centres == [(3.5, 3.5), (4.0, 4.0)]


def test_each_axis_alternates_for_itself() -> None:
    row, column = nn.Conv2d(1, 1, (1, 3), padding=(0, 1)), nn.Conv2d(1, 1, (3, 1), padding=(1, 0))
    layers = shrink(classifier(row, column, copy.deepcopy(row), copy.deepcopy(column)), 21).layers
    assert [layer.pretrain_padding for layer in layers] == [(0, 1, 0, 0), (0, 0, 0, 1), (1, 0, 0, 0), (0, 0, 1, 0)]


# Explicit padding.


def test_padding_by_name_goes_before_the_networks_own_before_the_rule() -> None:
    class Net(nn.Sequential):
        pretrain_padding = {"0": 1, "1": 1}

    target = Net(*(nn.Conv2d(1, 1, 3, padding=1) for _ in range(3)))
    layers = shrink(target, 12, padding={"1": 0}).layers
    assert [layer.pretrain_padding for layer in layers] == [(1, 1, 1, 1), (0, 0, 0, 0), (0, 1, 0, 1)]
    assert [layer.pretrain_output for layer in layers] == [(9, 9), (8, 8), (8, 8)]


class Net(nn.Sequential):
    pretrain_padding = {"0": 1, "1": 1}


@pytest.mark.parametrize(
    ("padding", "expected"),
    [
        ({"*": 0}, [0, 0, 0]),
        ({"[12]": 0}, [1, 0, 0]),
        ({"*": 0, "2": 1}, [0, 0, 1]),
        ({"2": 1, "*": 0}, [0, 0, 1]),  # a name goes before a pattern, in whatever order
        ({"*": 0, "[01]": 1}, [1, 1, 0]),  # the later pattern before the earlier one
    ],
    ids=str,
)
def test_padding_by_pattern(padding: dict[str, int], expected: list[int]) -> None:
    target = Net(*(nn.Conv2d(1, 1, 3, padding=1) for _ in range(3)), nn.Conv2d(1, 1, 1))
    layers = shrink(target, 24, padding=padding).layers
    assert [layer.pretrain_padding for layer in layers] == [(amount,) * 4 for amount in [*expected, 0]]


@pytest.mark.parametrize(
    ("padding", "message"),
    [
        ({"conv9": 0}, r"padding: 'conv9' fits no convolution whose kernel shrinks; there are conv$"),
        ({"layer*": 0}, r"padding: 'layer\*' fits no convolution whose kernel shrinks; there are conv$"),
        ({"more0*": 0}, r"'more0\*' fits no convolution whose kernel shrinks"),
        ({"conv": -1}, r"padding\['conv'\] must be an integer from 0 to 1; got -1"),
        ({"*": True}, r"padding\['\*'\] must be an integer from 0 to 1; got True"),
        ({"conv": 99}, r"padding\['conv'\] must be an integer from 0 to 1; got 99"),
        ({"conv": 1.5}, r"padding\['conv'\] must be an integer from 0 to 1; got 1\.5"),
    ],
    ids=str,
)
def test_padding_that_fits_nothing_is_refused(padding: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        shrink(classifier(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 1)), 12, padding=padding)


# Classes with a forward of their own.


def test_own_kind_of_convolution_stays() -> None:
    class Doubled(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    target = classifier(Doubled(1, 2, 3, padding=1, bias=False))
    small = shrink(target, 9).network.get_submodule("conv")
    assert type(small) is Doubled
    plain = F.conv2d(F.pad(torch.ones(1, 1, 6, 6), (0, 1, 0, 1)), small.weight)
    torch.testing.assert_close(small(torch.ones(1, 1, 6, 6)), 2 * plain)


class Same(nn.Conv2d):
    """Pads itself so that the output has the input's size over the stride, as TensorFlow does."""

    def forward(self, input: Tensor) -> Tensor:
        margins: list[int] = []
        for side, kernel, stride in zip(input.shape[:1:-1], self.weight.shape[:1:-1], self.stride[::-1], strict=True):
            lacking = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            margins += [lacking // 2, lacking - lacking // 2]
        return F.conv2d(F.pad(input, margins), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 2), ((1, 7), 1), (7, 4)])
def test_a_convolution_that_pads_itself_is_left_to_do_so(kernel: Any, stride: int) -> None:
    target = classifier(Same(2, 4, kernel, stride=stride), nn.BatchNorm2d(4))
    small = shrink(target, 28).network.get_submodule("conv")
    assert type(small) is Same
    assert not small._forward_pre_hooks
    for side in range(15, 24):
        assert small(torch.randn(1, 2, side, side)).shape[-1] == -(-side // stride)


def test_padding_fixed_when_the_layer_was_made_is_made_up_for() -> None:
    class Fixed(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(F.pad(input, (1, 1, 1, 1)))

    target = classifier(Fixed(2, 4, 3, stride=2))
    network = shrink(target, 28).network
    for side in (20, 21):
        images = torch.randn(1, 2, side, side)
        assert network.get_submodule("conv")(images).shape == target.get_submodule("conv")(images).shape


def test_padding_that_nothing_can_make_up_for_is_refused() -> None:
    class Resized(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return F.interpolate(super().forward(input), scale_factor=self.kernel_size[0])

    with pytest.raises(InputError, match="layer conv: its class Resized pads in its own way, by which a kernel of 2x2"):
        shrink(classifier(Resized(1, 2, 3)), 12)


def test_a_class_that_takes_more_than_a_feature_map_is_refused() -> None:
    class Masked(nn.Conv2d):
        def forward(self, input: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(input * mask)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = Masked(3, 4, 3)

        def forward(self, images: Tensor) -> Tensor:
            maps: Tensor = self.conv(images, torch.ones_like(images))
            return maps.mean((2, 3))

    with pytest.raises(InputError, match="layer conv: its class Masked does not take a feature map alone: .*'mask'"):
        shrink(Net(), 12)
