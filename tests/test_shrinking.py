import copy
import dataclasses
import json
from collections import OrderedDict
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rescaler.errors import InputError
from rescaler.layers import InterfaceLinear
from rescaler.shrinking import Layer, shrink


def _classifier(conv: nn.Conv2d, *rest: nn.Module) -> nn.Sequential:
    """The convolution, global pooling and a fully-connected layer: takes images of any size."""
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(conv.out_channels, 3))
    return nn.Sequential(OrderedDict(conv=conv, **{f"more{i}": m for i, m in enumerate((*rest, *head))}))


def _two_layers(image_px: int = 9) -> nn.Sequential:
    """3x3 convolutions without padding, then the interface: 9 px give 5x5 maps, 6 px (pre-train) give 4x4 maps."""
    side = image_px - 4
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(2, 4, 3),
            relu=nn.ReLU(),
            conv2=nn.Conv2d(4, 5, 3),
            flatten=nn.Flatten(),
            drop=nn.Dropout(),
            fc=nn.Linear(5 * side**2, 3),
        )
    )


def _layer(layers: tuple[Layer, ...], name: str) -> Layer:
    return next(layer for layer in layers if layer.name == name)


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
    target = _classifier(conv)
    small = shrink(target, 28).network.get_submodule("conv")
    for side in range(20, 32):  # all remainders by the stride
        images = torch.randn(1, 2, side, side)
        assert small(images).shape == conv(images).shape


def test_padding_mode_is_kept() -> None:
    conv = nn.Conv2d(1, 1, 3, padding=1, padding_mode="replicate", bias=False)
    small = shrink(_classifier(conv), 12).network.get_submodule("conv")
    response = small(torch.ones(1, 1, 6, 6))  # zeros at a border would show
    torch.testing.assert_close(response, response[..., :1, :1].expand_as(response))


def test_symmetric_padding_needs_no_extra_step() -> None:
    small = shrink(_classifier(nn.Conv2d(1, 2, 7, stride=2, padding=3)), 28).network.get_submodule("conv")
    assert isinstance(small, nn.Conv2d)
    assert small.padding == (2, 2)
    assert not small._forward_pre_hooks


def test_features_do_not_drift_over_depth() -> None:
    """A point in the middle, blurred by two even kernels, has its centre of mass in the middle still."""
    target = _classifier(nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1))
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
    layers = shrink(_classifier(row, column, copy.deepcopy(row), copy.deepcopy(column)), 21).layers
    assert [layer.pretrain_padding for layer in layers] == [(0, 1, 0, 0), (0, 0, 0, 1), (1, 0, 0, 0), (0, 0, 1, 0)]


@pytest.mark.parametrize(("kernel", "image_px", "expected"), [(11, 231, 147), (7, 224, 160), (5, 28, 17), (3, 32, 21)])
def test_image_side_follows_from_the_first_kernel(kernel: int, image_px: int, expected: int) -> None:
    assert shrink(_classifier(nn.Conv2d(1, 2, kernel)), image_px).image_px == expected


def test_image_side_follows_from_the_first_kernel_that_shrinks_in_the_forward_pass() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.second = nn.Conv2d(2, 4, 3)
            self.unused = nn.Conv2d(2, 4, 9)
            self.first = nn.Conv2d(2, 2, 5)
            self.zeroth = nn.Conv2d(2, 2, 1)

        def forward(self, images: Tensor) -> Tensor:
            result: Tensor = self.second(self.first(self.zeroth(images)))
            return result

    shrunk = shrink(Net(), 40)
    assert shrunk.image_px == 24
    assert [layer.name for layer in shrunk.layers] == ["zeroth", "first", "second"]


def test_image_side_can_be_set() -> None:
    shrunk = shrink(_classifier(nn.Conv2d(1, 2, 3)), 32, pretrain_px=25)
    assert shrunk.image_px == 25
    assert shrunk.layers[0].pretrain_output == (23, 23)


def test_plan_by_layer() -> None:
    assert shrink(_two_layers(), 9).layers == (
        Layer("conv1", "convolution", (3, 3), (2, 2), (-1, 0, -1, 0), (7, 7), (4, 4)),
        Layer("conv2", "convolution", (3, 3), (2, 2), (0, -1, 0, -1), (5, 5), (2, 2)),
        Layer("fc", "interface", (5, 5), (2, 2), (0, 0, 0, 0), (1, 1), (1, 1)),
    )


def test_plan_becomes_json() -> None:
    (row,) = json.loads(
        json.dumps([dataclasses.asdict(layer) for layer in shrink(_classifier(nn.Conv2d(1, 2, 3)), 9).layers])
    )
    assert row["pretrain_kernel"] == [2, 2]


def test_scale_squared_is_the_ratio_of_areas() -> None:
    square, row = (shrink(_classifier(nn.Conv2d(1, 2, size)), 28).layers[0] for size in ((3, 3), (1, 7)))
    assert square.scale == 1.5
    assert row.scale**2 == pytest.approx(7 / 5)


def test_names_modes_and_other_settings_stay() -> None:
    conv = nn.Conv2d(4, 8, 3, stride=2, dilation=2, groups=4, bias=False)
    target = _classifier(conv, nn.BatchNorm2d(8)).double()
    target.get_submodule("more0").eval()
    target.get_submodule("conv").requires_grad_(False)
    network = shrink(target, 20).network
    small = network.get_submodule("conv")
    assert isinstance(small, nn.Conv2d)
    assert (small.stride, small.dilation, small.groups, small.bias) == ((2, 2), (2, 2), 4, None)
    assert small.weight.shape == (8, 1, 2, 2)
    assert not small.weight.requires_grad
    assert [(name, p.dtype) for name, p in network.named_parameters()] == [
        (name, p.dtype) for name, p in target.named_parameters()
    ]
    assert [m.training for m in network.modules()] == [m.training for m in target.modules()]


def test_own_kind_of_convolution_stays() -> None:
    class Doubled(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    target = _classifier(Doubled(1, 2, 3, padding=1, bias=False))
    small = shrink(target, 9).network.get_submodule("conv")
    assert type(small) is Doubled
    plain = F.conv2d(F.pad(torch.ones(1, 1, 6, 6), (0, 1, 0, 1)), small.weight)
    torch.testing.assert_close(small(torch.ones(1, 1, 6, 6)), 2 * plain)


def test_target_and_random_numbers_are_left_alone() -> None:
    target = _two_layers().eval()
    before, generator = copy.deepcopy(target.state_dict()), torch.get_rng_state()
    shrink(target, 9)
    assert torch.equal(torch.get_rng_state(), generator)
    assert not any(module.training or module._forward_pre_hooks for module in target.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items())


def test_the_pretrain_network_shares_no_memory_with_the_target() -> None:
    target = _two_layers()
    shrunk = shrink(target, 9)
    with torch.no_grad():
        for parameter in shrunk.network.parameters():
            parameter.zero_()
    assert all(parameter.abs().sum() > 0 for parameter in target.parameters())


def test_shared_layer_is_shared_in_the_pretrain_network() -> None:
    conv = nn.Conv2d(2, 2, 3, padding=1)
    network = shrink(_classifier(conv, conv), 12).network
    assert network.get_submodule("conv") is network.get_submodule("more0")
    assert network(torch.randn(2, 2, 8, 8)).shape == (2, 3)


# The interface is found by shapes, however the map is flattened.


class _Functional(nn.Module):
    """Flattens and pools without modules; two fully-connected layers."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.body = nn.Conv2d(2, 4, 3, padding=1)
        self.register_buffer("unit", torch.ones(1), persistent=False)
        self.wide, self.narrow = nn.Linear(4 * 6 * 6, 4 * 4 * 4), nn.Linear(4 * 4 * 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.max_pool2d(self.body(images) * self.unit, 2)
        if self.how == "flatten":
            flat = torch.flatten(maps, 1)
        elif self.how == "view":
            flat = maps.view(maps.size(0), -1)
        else:
            flat = maps.reshape(len(maps), 4 * maps.shape[2] * maps.shape[3])
        result: Tensor = self.narrow(F.relu(self.wide(F.dropout(F.relu(flat), training=self.training))))
        return result


@pytest.mark.parametrize("how", ["flatten", "view", "reshape"])
def test_functional_flattening_is_seen(how: str) -> None:
    shrunk = shrink(_Functional(how), 12)
    wide, narrow = (shrunk.network.get_submodule(name) for name in ("wide", "narrow"))
    assert isinstance(wide, InterfaceLinear)
    assert (wide.pretrain_map, wide.target_map, wide.in_features) == ((4, 4, 4), (4, 6, 6), 64)
    assert type(narrow) is nn.Linear
    assert shrunk.network(torch.randn(2, 2, 8, 8)).shape == (2, 3)


def test_adaptive_pooling_needs_no_new_interface() -> None:
    target = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8, 3))
    shrunk = shrink(target, 12)
    assert [layer.kind for layer in shrunk.layers] == ["convolution"]
    assert type(shrunk.network[3]) is nn.Linear  # type: ignore[index]


def test_features_that_are_no_flattened_map_are_refused() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.fc = nn.Conv2d(1, 2, 3), nn.Linear(2 * 100 + 2, 3)

        def forward(self, images: Tensor) -> Tensor:
            maps = self.body(images)
            result: Tensor = self.fc(torch.cat([maps.flatten(1), maps.mean((2, 3))], 1))
            return result

    with pytest.raises(InputError, match="layer fc gets 74 features instead of 202 .* not one flattened"):
        shrink(Net(), 12)


# Initial weights: those of the smaller layer's own initialisation.


def _values(network: nn.Module, name: str) -> Tensor:
    return network.get_parameter(f"{name}.weight").detach().flatten()


def test_torch_default_initialisation_has_the_bound_of_the_small_layer() -> None:
    torch.manual_seed(0)
    target = nn.Sequential(
        OrderedDict(conv=nn.Conv2d(16, 64, 5), pool=nn.MaxPool2d(2), flatten=nn.Flatten(), fc=nn.Linear(64 * 36, 50))
    )
    network = shrink(target, 16, padding={"conv": 1}).network
    for name, fan_in in (("conv", 16 * 3 * 3), ("fc", 64 * 5 * 5)):
        values, bound = _values(network, name), fan_in**-0.5
        assert 0.99 * bound < values.abs().max() <= bound * (1 + 1e-6)
        assert values.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)


def test_kaiming_initialisation_has_the_deviation_of_the_small_layer() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(32, 64, 5)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    values = _values(shrink(_classifier(conv), 28).network, "conv")
    assert values.std().item() == pytest.approx((2 / (64 * 3 * 3)) ** 0.5, rel=0.02)


def test_other_tensors_are_copied() -> None:
    target = _classifier(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))
    network = shrink(target, 12).network
    for name, tensor in target.state_dict().items():
        if name != "conv.weight":
            assert torch.equal(network.state_dict()[name], tensor), name


# Explicit padding.


def test_padding_by_name_goes_before_the_networks_own_before_the_rule() -> None:
    class Net(nn.Sequential):
        pretrain_padding = {"0": 1, "1": 1}

    target = Net(*(nn.Conv2d(1, 1, 3, padding=1) for _ in range(3)))
    layers = shrink(target, 12, padding={"1": 0}).layers
    assert [layer.pretrain_padding for layer in layers] == [(1, 1, 1, 1), (0, 0, 0, 0), (0, 1, 0, 1)]
    assert [layer.pretrain_output for layer in layers] == [(9, 9), (8, 8), (8, 8)]


def test_other_tables() -> None:
    layers = shrink(_classifier(nn.Conv2d(1, 1, (9, 3))), 30, table={9: 3, 3: 3}).layers
    assert _layer(layers, "conv").pretrain_kernel == (3, 3)


# Refused, each with its own sentence.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"table": {3: 4}}, r"shrink\.table maps a kernel side to one from 1 to itself, both integers; got 3: 4"),
        ({"table": {3: 0}}, r"shrink\.table .* got 3: 0"),
        ({"table": {3: 1.5}}, r"shrink\.table .* got 3: 1\.5"),
        ({"table": {5: 3}}, r"shrink\.table has no kernel side for conv1 \(3x3\), conv2 \(3x3\); it has \[5\]"),
        ({"table": {3: 3}}, r"shrink\.table=\{3: 3\} shrinks none of the network's kernels \(3x3\)"),
        ({"padding": {"conv9": 0}}, r"shrink\.padding: there is no convolution 'conv9'; there are conv1, conv2"),
        ({"padding": {"conv1": -1}}, r"shrink\.padding\.conv1 must be a non-negative integer; got -1"),
        ({"pretrain_px": 0}, r"shrink\.image_px must be an integer from 1 to data\.image_px=9; got 0"),
        ({"pretrain_px": 10}, r"shrink\.image_px must be .* got 10"),
        (
            {"pretrain_px": 2},
            r'shrink\.image_px=2 does not suit the network: in or after layer "conv1" \(2x2x2 input\)',
        ),
        ({"padding": {"conv1": 2, "conv2": 2}}, "layer fc gets a feature map of 12x12 .* larger than the target's 5x5"),
    ],
    ids=str,
)
def test_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        shrink(_two_layers(), 9, **arguments)


def test_wrong_or_vanishing_image_of_the_target_is_refused() -> None:
    with pytest.raises(
        InputError, match="data.image_px does not suit the network: layer fc takes 125 features, .* 180"
    ):
        shrink(_two_layers(), 10)
    with pytest.raises(
        InputError, match=r'data.image_px=2 does not suit the network: in or after layer "conv1" \(2x2x2 input\)'
    ):
        shrink(_two_layers(), 2)
    with pytest.raises(InputError, match="data.image_px must be a positive integer; got 0"):
        shrink(_two_layers(), 0)


def test_functional_pooling_that_vanishes_names_the_layer_before() -> None:
    with pytest.raises(
        InputError, match=r'shrink.image_px=1 does not .* in or after layer "body" \(2x1x1 input\): .* too small'
    ):
        shrink(_Functional("view"), 12, pretrain_px=1)


def test_what_is_no_convolutional_network_is_refused() -> None:
    with pytest.raises(InputError, match=r"the target network \(Linear\) has no Conv2d"):
        shrink(nn.Linear(3, 3), 9)
    not_a_network: Any = "resnet34"
    with pytest.raises(InputError, match="must be a torch.nn.Module; got a str"):
        shrink(not_a_network, 9)


def test_computed_weight_is_refused() -> None:
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 1, 3))
    with pytest.raises(InputError, match="layer conv: its weight is computed"):
        shrink(_classifier(conv), 9)
