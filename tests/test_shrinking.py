import copy
import dataclasses
import json
from collections import OrderedDict
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import classifier, two_layers
from torch import Tensor, nn

from rescaler.errors import InputError
from rescaler.method.layers import flattened_map
from rescaler.method.shrinking import Layer, shrink


def test_plan_by_layer() -> None:
    assert shrink(two_layers(), 9).layers == (
        Layer("conv1", "convolution", (3, 3), (2, 2), (-1, 0, -1, 0), (7, 7), (4, 4)),
        Layer("conv2", "convolution", (3, 3), (2, 2), (0, -1, 0, -1), (5, 5), (2, 2)),
        Layer("fc", "interface", (5, 5), (2, 2), (0, 0, 0, 0), (1, 1), (1, 1)),
    )


def test_plan_becomes_json() -> None:
    (row,) = json.loads(
        json.dumps([dataclasses.asdict(layer) for layer in shrink(classifier(nn.Conv2d(1, 2, 3)), 9).layers])
    )
    assert row["pretrain_kernel"] == [2, 2]


def test_names_modes_and_other_settings_stay() -> None:
    conv = nn.Conv2d(4, 8, 3, stride=2, dilation=2, groups=4, bias=False)
    target = classifier(conv, nn.BatchNorm2d(8)).double()
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


def test_target_and_random_numbers_are_left_alone() -> None:
    target = two_layers().eval()
    before, generator = copy.deepcopy(target.state_dict()), torch.get_rng_state()
    shrink(target, 9)
    assert torch.equal(torch.get_rng_state(), generator)
    assert not any(module.training or module._forward_pre_hooks for module in target.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items())


def test_the_pretrain_network_shares_no_memory_with_the_target() -> None:
    target = two_layers()
    shrunk = shrink(target, 9)
    with torch.no_grad():
        for parameter in shrunk.network.parameters():
            parameter.zero_()
    assert all(parameter.abs().sum() > 0 for parameter in target.parameters())


def test_shared_layer_is_shared_in_the_pretrain_network() -> None:
    conv = nn.Conv2d(2, 2, 3, padding=1)
    network = shrink(classifier(conv, conv), 12).network
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
    assert flattened_map(wide) == ((4, 6, 6), (4, 4, 4))
    assert wide.in_features == 64
    assert flattened_map(narrow) is None
    assert shrunk.network(torch.randn(2, 2, 8, 8)).shape == (2, 3)


def test_adaptive_pooling_needs_no_new_interface() -> None:
    target = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8, 3))
    shrunk = shrink(target, 12)
    assert [layer.kind for layer in shrunk.layers] == ["convolution"]
    assert flattened_map(shrunk.network.get_submodule("3")) is None


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
    values = _values(shrink(classifier(conv), 28).network, "conv")
    assert values.std().item() == pytest.approx((2 / (64 * 3 * 3)) ** 0.5, rel=0.02)


def test_other_tensors_are_copied() -> None:
    target = classifier(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))
    network = shrink(target, 12).network
    for name, tensor in target.state_dict().items():
        if name != "conv.weight":
            assert torch.equal(network.state_dict()[name], tensor), name


# Refused, each with its own sentence.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"table": {3: 4}}, r"table\[3\] must be an integer from 1 to 3; got 4"),
        ({"table": {3: 0}}, r"table\[3\] .* got 0"),
        ({"table": {3: 1.5}}, r"table\[3\] .* got 1\.5"),
        (
            {"table": {3: 3}},
            r"table=\{3: 3\} shrinks none of the network's kernels: conv1 \(3x3, stride 1\), conv2",
        ),
        ({"pretrain_px": 0}, "pretrain_px must be an integer from 1 to 9; got 0"),
        ({"table": {}}, r"table must map target to pre-train kernel sides, such as \{3: 2\}; got \{\}"),
        ({"image_px": None}, "image_px must be an integer from 1 to 16384; got None"),
        ({"image_px": 10**9}, "image_px must be an integer from 1 to 16384; got 1000000000"),
        ({"pretrain_px": 10}, r"pretrain_px must be .* got 10"),
        (
            {"pretrain_px": 2},
            r'pretrain_px=2 does not suit the network: in or after layer "conv1" \(2x2x2 input\)',
        ),
        (
            {"padding": {"*": 1}, "pretrain_px": 9},
            "layer fc gets a feature map of 11x11 .* larger than the target's 5x5",
        ),
    ],
    ids=str,
)
def test_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        shrink(two_layers(), **{"image_px": 9, **arguments})


def test_wrong_or_vanishing_image_of_the_target_is_refused() -> None:
    with pytest.raises(InputError, match="image_px does not suit the network: layer fc takes 125 features, .* 180"):
        shrink(two_layers(), 10)
    with pytest.raises(
        InputError, match=r'image_px=2 does not suit the network: in or after layer "conv1" \(2x2x2 input\)'
    ):
        shrink(two_layers(), 2)
    with pytest.raises(InputError, match="image_px must be an integer from 1 to 16384; got 0"):
        shrink(two_layers(), 0)


def test_functional_pooling_that_vanishes_names_the_layer_before() -> None:
    with pytest.raises(
        InputError, match=r'pretrain_px=1 does not .* in or after layer "body" \(2x1x1 input\): .* too small'
    ):
        shrink(_Functional("view"), 12, pretrain_px=1)


# Topologies.


class _Topology(nn.Module):
    """Dense, concatenating and shared; depthwise, dilated and transposed; a layer that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 7, stride=2, padding=3)
        self.shared = nn.Conv2d(8, 8, 3, padding=1)
        self.row, self.column = nn.Conv2d(16, 4, (1, 7), padding=(0, 3)), nn.Conv2d(16, 4, (7, 1), padding=(3, 0))
        self.depthwise = nn.Conv2d(24, 24, 5, padding=4, dilation=2, groups=24)
        self.down = nn.Conv2d(24, 8, 2, stride=2)
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.line = nn.Conv1d(8, 8, 3)
        self.unused = nn.Conv2d(8, 8, 9)
        self.head = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        first = F.relu(self.stem(images))
        dense = torch.cat([first, self.shared(self.shared(first))], 1)
        branches = torch.cat([dense, self.row(dense), self.column(dense)], 1)
        decoded = self.up(self.down(branches + self.depthwise(branches)))
        scores: Tensor = self.head(self.line(decoded.flatten(2)).mean(2))
        return scores


def test_any_topology() -> None:
    shrunk = shrink(_Topology(), 32)
    assert shrunk.image_px == 23
    assert {layer.name: layer.pretrain_kernel for layer in shrunk.layers} == {
        "stem": (5, 5),
        "shared": (2, 2),
        "row": (1, 5),
        "column": (5, 1),
        "depthwise": (3, 3),
        "down": (2, 2),
    }
    assert shrunk.network(torch.randn(2, 3, 24, 24)).shape == (2, 5)


def test_notes_say_what_was_left_alone_and_why() -> None:
    assert shrink(_Topology(), 32).notes == (
        "down (2x2, stride 2): as large as the stride, since a smaller kernel would leave pixels out",
        "unused (9x9, stride 1): left as it is, since the network never calls it on an image",
        "up (ConvTranspose2d), line (Conv1d): left as it is, since only Conv2d is shrunk",
    )
    assert shrink(two_layers(), 9).notes == ()


def test_convolutions_without_a_layer_are_noted() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.last = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4, 2)
            self.weight = nn.Parameter(torch.randn(4, 4, 3, 3))

        def forward(self, images: Tensor) -> Tensor:
            scores: Tensor = self.last(F.conv2d(self.conv(images), self.weight, padding=1).mean((2, 3)))
            return scores

    what = "a convolution called as a function, left as it is and not counted: only layers are seen"
    assert shrink(Net(), 12).notes == (f'in or after layer "conv" (1x12x12 input): {what}',)
    alone = Net()
    alone.conv = nn.Identity()  # type: ignore[assignment]
    alone.unused = nn.Conv2d(1, 4, 3)
    alone.weight = nn.Parameter(torch.randn(4, 1, 3, 3))
    with pytest.raises(InputError, match="Net has no kernel to shrink: it never calls a Conv2d on an image$"):
        shrink(alone, 12)


# Smaller images only.


def test_input_only_keeps_kernels_and_padding() -> None:
    target = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 36, 3))
    target.pretrain_padding = {"0": 0}  # type: ignore[assignment]
    shrunk = shrink(target, 12, input_only=True)
    assert shrunk.image_px == shrink(target, 12).image_px == 8
    assert shrunk.layers == (
        Layer("0", "convolution", (3, 3), (3, 3), (1, 1, 1, 1), (12, 12), (8, 8)),
        Layer("3", "interface", (6, 6), (4, 4), (0, 0, 0, 0), (1, 1), (1, 1)),
    )
    assert torch.equal(shrunk.network.get_parameter("0.weight"), target.get_parameter("0.weight"))
    assert shrunk.network(torch.randn(2, 1, 8, 8)).shape == (2, 3)
    assert shrink(target, 12, input_only=True, pretrain_px=10, table={}).image_px == 10


def test_input_only_with_padding_is_refused() -> None:
    with pytest.raises(InputError, match=r"padding must be empty with input_only.* got \{'conv1': 1\}"):
        shrink(two_layers(), 9, input_only=True, padding={"conv1": 1})
