"""The pre-train network: kernels, padding, interfaces, initial weights, errors."""

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import Net, classifier, two_layers
from torch import Tensor, nn

from rescaler.errors import InputError
from rescaler.method.layers import Layer, flattened_map
from rescaler.method.shrinking import shrink


class Fixed(nn.Conv2d):
    """Pads itself by a constant, and is given the padding that a smaller kernel lacks."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(F.pad(input, (1, 1, 1, 1)))


class Resized(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return F.interpolate(super().forward(input), scale_factor=self.kernel_size[0])


class Masked(nn.Conv2d):
    def forward(self, input: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(input * mask)


def test_plan_by_layer() -> None:
    assert shrink(two_layers(), 9).layers == (
        Layer("conv1", "convolution", (3, 3), (2, 2), (-1, 0, -1, 0), (7, 7), (4, 4)),
        Layer("conv2", "convolution", (3, 3), (2, 2), (0, -1, 0, -1), (5, 5), (2, 2)),
        Layer("fc", "interface", (5, 5), (2, 2), (0, 0, 0, 0), (1, 1), (1, 1)),
    )


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


def test_a_shared_layer_is_shared_in_the_pretrain_network() -> None:
    conv = nn.Conv2d(2, 2, 3, padding=1)
    network = shrink(classifier(conv, conv), 12).network
    assert network.get_submodule("conv") is network.get_submodule("more0")
    assert network(torch.randn(2, 2, 8, 8)).shape == (2, 3)


def test_target_and_random_numbers_are_left_alone() -> None:
    target = two_layers().eval()
    before, generator = copy.deepcopy(target.state_dict()), torch.get_rng_state()
    for parameter in shrink(target, 9).network.parameters():
        nn.init.zeros_(parameter)  # it shares no memory with the target
    assert torch.equal(torch.get_rng_state(), generator)
    assert not any(module.training or module._forward_pre_hooks for module in target.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items())


# The interface is found by shapes, however the map is flattened.


@pytest.mark.parametrize(
    "flatten", [lambda maps: maps.flatten(1), lambda maps: maps.view(len(maps), 4 * maps.shape[2] * maps.shape[3])]
)
def test_functional_flattening_is_seen(flatten: Callable[[Tensor], Tensor]) -> None:
    def forward(net: Any, images: Tensor) -> Any:
        flat = F.dropout(F.relu(flatten(F.max_pool2d(net.body(images) * net.unit, 2))), training=net.training)
        return net.narrow(F.relu(net.wide(flat)))

    target = Net(forward, body=nn.Conv2d(2, 4, 3, padding=1), wide=nn.Linear(144, 64), narrow=nn.Linear(64, 3))
    target.register_buffer("unit", torch.ones(1), persistent=False)
    shrunk = shrink(target, 12)
    wide, narrow = (shrunk.network.get_submodule(name) for name in ("wide", "narrow"))
    assert flattened_map(wide) == ((4, 6, 6), (4, 4, 4))
    assert wide.in_features == 64
    assert flattened_map(narrow) is None
    assert shrunk.network(torch.randn(2, 2, 8, 8)).shape == (2, 3)


def test_layers_may_be_called_by_keyword() -> None:
    def forward(net: Any, images: Tensor) -> Any:
        maps = net.conv(input=images)
        return net.fc(input=maps.flatten(1)) + net.whole(input=maps).flatten(1)

    layers = {"conv": nn.Conv2d(1, 4, 3, padding=1), "fc": nn.Linear(4 * 36, 3), "whole": nn.Conv2d(4, 3, 6)}
    shrunk = shrink(Net(forward, **layers), 6)
    assert {layer.name: layer.pretrain_kernel[0] for layer in shrunk.layers} == {"conv": 2, "fc": 4, "whole": 4}
    assert shrunk.network(torch.randn(2, 1, 4, 4)).shape == (2, 3)


def test_initial_weights_have_the_spread_of_the_smaller_layers_own_and_all_else_is_copied() -> None:
    torch.manual_seed(0)
    conv, fc = nn.Conv2d(16, 64, 5), nn.Linear(64 * 36, 50)
    target = nn.Sequential(
        OrderedDict(conv=conv, norm=nn.BatchNorm2d(64), pool=nn.MaxPool2d(2), flat=nn.Flatten(), fc=fc)
    )
    state = shrink(target, 16, padding={"conv": 1}).network.state_dict()
    for name, fan_in in (("conv.weight", 16 * 3 * 3), ("fc.weight", 64 * 5 * 5)):
        values, bound = state.pop(name), fan_in**-0.5
        assert 0.99 * bound < values.abs().max() <= bound * (1 + 1e-6)
        assert values.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    assert all(torch.equal(tensor, target.state_dict()[name]) for name, tensor in state.items())
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    values = shrink(target, 16, padding={"conv": 1}).network.get_parameter("conv.weight").detach()
    assert values.std().item() == pytest.approx((2 / (64 * 3 * 3)) ** 0.5, rel=0.02)


# Refused, each with its own sentence.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"table": {3: 4}}, r"table\[3\] must be an integer from 1 to 3; got 4"),
        ({"table": {3: 1.5}}, r"table\[3\] .* got 1\.5"),
        (
            {"table": {3: 3}},
            r"table=\{3: 3\} shrinks none of the network's kernels: conv1 \(3x3, stride 1\), conv2",
        ),
        ({"image_px": 10}, "image_px does not suit the network: layer fc takes 125 features, .* 180"),
        ({"image_px": 2}, r'image_px=2 does not suit the network: in or after layer "conv1" \(2x2x2 input\)'),
        ({"image_px": 0}, r"image_px must be .* integer or \[height, width\], at most 16384; got 0"),
        ({"table": {}}, r"table must map target to pre-train kernel sides, such as \{3: 2\}; got \{\}"),
        ({"pretrain_px": (8, 10)}, r"pretrain_px must be .* at most 9; got \(8, 10\)"),
        ({"padding": {"conv1": 1}, "input_only": True}, r"padding must be empty with input_only.* got \{'conv1': 1\}"),
        ({"pretrain_px": 2}, r'pretrain_px=2 does not suit the network: in or after layer "conv1" \(2x2x2 input\)'),
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


# Topologies.


def _topology() -> nn.Module:
    """Dense, concatenating and shared; depthwise, dilated and transposed; a layer that is never called."""

    def forward(net: Any, images: Tensor) -> Any:
        first = F.relu(net.stem(images))
        dense = torch.cat([first, net.shared(net.shared(first))], 1)
        branches = torch.cat([dense, net.row(dense), net.column(dense)], 1)
        decoded = net.up(net.down(branches + net.depthwise(branches)))
        return net.head(net.line(decoded.flatten(2)).mean(2))

    return Net(
        forward,
        stem=nn.Conv2d(3, 8, 7, stride=2, padding=3),
        shared=nn.Conv2d(8, 8, 3, padding=1),
        row=nn.Conv2d(16, 4, (1, 7), padding=(0, 3)),
        column=nn.Conv2d(16, 4, (7, 1), padding=(3, 0)),
        depthwise=nn.Conv2d(24, 24, 5, padding=4, dilation=2, groups=24),
        down=nn.Conv2d(24, 8, 2, stride=2),
        up=nn.ConvTranspose2d(8, 8, 2, stride=2),
        line=nn.Conv1d(8, 8, 3),
        unused=nn.Conv2d(8, 8, 9),
        head=nn.Linear(8, 5),
    )


def test_any_topology() -> None:
    shrunk = shrink(_topology(), 32)
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
    assert shrunk.notes == (
        "down (2x2, stride 2): as large as the stride, since a smaller kernel would leave pixels out",
        "unused (9x9, stride 1): left as it is, since the network never calls it on an image",
        "up (ConvTranspose2d), line (Conv1d): left as it is, since only Conv2d is shrunk",
    )


def test_convolutions_without_a_layer_are_noted() -> None:
    def forward(net: Any, images: Tensor) -> Tensor:
        return F.conv2d(net.conv(images), net.weight, padding=1).mean((2, 3))

    note = "a convolution called as a function, left as it is and not counted: only layers are seen"
    target: Any = Net(forward, conv=nn.Conv2d(1, 4, 3, padding=1))
    target.weight = nn.Parameter(torch.randn(4, 4, 3, 3))
    assert shrink(target, 12).notes == (f'in or after layer "conv" (1x12x12 input): {note}',)
    alone: Any = Net(forward, conv=nn.Identity(), unused=nn.Conv2d(1, 4, 3))
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


# Kernel sizes.


def test_image_side_follows_from_the_first_kernel_that_shrinks_in_the_forward_pass() -> None:
    sides = {"second": 3, "unused": 9, "first": 5, "zeroth": 1}
    layers = {name: nn.Conv2d(2, 2, side) for name, side in sides.items()}
    shrunk = shrink(Net(lambda net, images: net.second(net.first(net.zeroth(images))), **layers), 40)
    assert shrunk.image_px == 24
    assert [layer.name for layer in shrunk.layers] == ["zeroth", "first", "second"]


@pytest.mark.parametrize(
    ("conv", "expected"),
    [
        (nn.Conv2d(1, 2, 2), (2, 2)),
        (nn.Conv2d(1, 2, 15), (10, 10)),
        (nn.Conv2d(1, 2, (1, 7)), (1, 5)),
        (nn.Conv2d(1, 2, 4, stride=4), (4, 4)),  # a patch embedding
        (nn.Conv2d(1, 2, 31, stride=31), (31, 31)),  # and one that no table has
        (nn.Conv2d(1, 2, 3, stride=2), (2, 2)),
        (nn.Conv2d(1, 2, 5, stride=4), (4, 4)),  # with 3x3, a quarter of the rows would never be seen
        (nn.Conv2d(1, 2, 3, stride=(1, 3)), (2, 3)),
    ],
    ids=str,
)
def test_no_kernel_becomes_smaller_than_its_stride(conv: nn.Conv2d, expected: tuple[int, int]) -> None:
    target = classifier(conv, nn.Conv2d(2, 2, 3, padding=1))
    assert shrink(target, 124).layers[0].pretrain_kernel == expected


def test_a_side_that_the_table_lacks_is_refused_with_every_layer_that_wants_it() -> None:
    target = classifier(
        nn.Conv2d(1, 2, 31), nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, (1, 17), stride=2), nn.Conv2d(2, 2, 19, stride=19)
    )
    message = (
        r"table has no kernel side for conv \(31x31, stride 1\), more1 \(1x17, stride 2\); "
        r"it has \[1, 2, .*15\]; two thirds: 17: 11, 31: 21$"
    )
    with pytest.raises(InputError, match=message):
        shrink(target, 192)
    shrunk = shrink(target, 192, table={3: 2, 17: 11, 31: 21})
    assert [layer.pretrain_kernel for layer in shrunk.layers] == [(21, 21), (2, 2), (1, 11), (19, 19)]


# What covers a whole feature map.


def test_a_convolution_over_the_whole_map_takes_the_map_that_reaches_it() -> None:
    """As LeNet's C5: the same as a fully-connected layer behind a flattened map (section 3.3.2)."""
    target = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.Conv2d(2, 8, 5, groups=2), nn.Flatten(), nn.Linear(8, 3)
    )
    shrunk = shrink(target, 12, pretrain_px=9)
    assert Layer("2", "interface", (5, 5), (3, 3), (0, 0, 0, 0), (1, 1), (1, 1)) in shrunk.layers
    assert shrunk.network(torch.randn(2, 1, 9, 9)).shape == (2, 3)
    layers = shrink(target, 12, pretrain_px=9, padding={"2": 0}).layers
    assert [(layer.name, layer.kind) for layer in layers] == [("0", "convolution"), ("2", "convolution")]


def test_a_small_map_that_is_padded_or_crossed_is_no_whole_map() -> None:
    for conv in (nn.Conv2d(2, 2, 5, padding=1), nn.Conv2d(2, 2, 4)):
        layers = shrink(classifier(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), conv), 12, pretrain_px=10).layers
        assert {layer.kind for layer in layers} == {"convolution"}


@pytest.mark.parametrize("pooling", [nn.AvgPool2d(7), nn.MaxPool2d((7, 7), stride=1)], ids=str)
def test_fixed_pooling_of_the_whole_map_stays_global(pooling: nn.Module) -> None:
    target = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.MaxPool2d(2), pooling, nn.Flatten(), nn.Linear(4, 3)
    )
    shrunk = shrink(target, 28)
    assert Layer("2", "pooling", (7, 7), (5, 5), (0, 0, 0, 0), (1, 1), (1, 1)) in shrunk.layers
    assert shrunk.network(torch.randn(2, 1, 19, 19)).shape == (2, 3)
    assert target(torch.randn(2, 1, 28, 28)).shape == (2, 3)  # the target's own pooling is not touched


# Networks that cannot be shrunk.


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (nn.Linear(3, 3), r"the target network \(Linear\) has no Conv2d"),
        ("resnet34", "must be a torch.nn.Module; got a str"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.LazyConv2d(2, 3)), "layer 1 has no weights yet: call the network once"),
        (
            classifier(nn.Conv2d(3, 8, 16, stride=16), nn.Conv2d(8, 8, 1)),
            r"Sequential has no kernel to shrink: .* conv \(16x16, stride 16\), more0",
        ),
    ],
    ids=["no convolution", "no network", "lazy", "patches"],
)
def test_networks_that_cannot_be_shrunk_are_refused(target: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        shrink(target, 224)


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64, torch.float8_e4m3fn], ids=str)
def test_other_dtypes_are_refused_by_layer(dtype: torch.dtype) -> None:
    target = two_layers()
    conv = target.get_submodule("conv2")
    conv.weight = nn.Parameter(torch.zeros(5, 4, 3, 3).to(dtype), requires_grad=False)
    with pytest.raises(
        InputError, match=rf"layer conv2 has weights of {dtype}; kernels are shrunk in torch\.float32, "
    ):
        shrink(target, 9)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("layer", ["conv1", "conv2", "fc"])
@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm], ids=["hook", "new"])
def test_computed_weights_are_refused_by_layer(norm: Any, layer: str) -> None:
    target = two_layers()
    norm(target.get_submodule(layer))
    with pytest.raises(InputError, match=f"layer {layer}: its weight is computed"):
        shrink(target, 9)


# Padding.


@pytest.mark.parametrize(
    "conv",
    [
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
        Fixed(2, 4, 3, stride=2),
    ],
    ids=str,
)
def test_shrunk_convolution_keeps_the_output_size(conv: nn.Conv2d) -> None:
    target = Net(lambda net, images: net.fc(net.conv(images).mean((2, 3))), conv=conv, fc=nn.Linear(4, 2))
    shrunk = shrink(target, 28)
    small = shrunk.network.get_submodule("conv")
    images = torch.randn(1, 2, shrunk.image_px, shrunk.image_px)
    assert small(images).shape == conv(images).shape


def test_padding_mode_is_kept() -> None:
    conv = nn.Conv2d(1, 1, 3, padding=1, padding_mode="replicate", bias=False)
    small = shrink(classifier(conv), 12).network.get_submodule("conv")
    response = small(torch.ones(1, 1, 6, 6))  # zeros at a border would show
    torch.testing.assert_close(response, response[..., :1, :1].expand_as(response))


def test_each_axis_alternates_for_itself() -> None:
    row, column = nn.Conv2d(1, 1, (1, 3), padding=(0, 1)), nn.Conv2d(1, 1, (3, 1), padding=(1, 0))
    layers = shrink(classifier(row, column, copy.deepcopy(row), copy.deepcopy(column)), 21).layers
    assert [layer.pretrain_padding for layer in layers] == [(0, 1, 0, 0), (0, 0, 0, 1), (1, 0, 0, 0), (0, 0, 0, 0)]


def test_features_do_not_drift_over_depth() -> None:
    """A point in the middle, blurred by two even kernels, has its centre of mass in the middle still."""
    network = shrink(classifier(nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1)), 21).network
    point = torch.zeros(1, 1, 9, 9)
    point[..., 4, 4] = 1
    for name in ("conv", "more0"):
        nn.init.ones_(network.get_parameter(f"{name}.weight"))
        nn.init.zeros_(network.get_parameter(f"{name}.bias"))
        point = network.get_submodule(name)(point)
    mass, axis = point[0, 0] / point.sum(), torch.arange(9.0)
    assert [(mass.sum(each) * axis).sum().item() for each in (0, 1)] == [4, 4]


# Explicit padding.


def three() -> nn.Sequential:
    target = nn.Sequential(*(nn.Conv2d(1, 1, 3, padding=1) for _ in range(3)))
    target.pretrain_padding = {"0": 1, "1": 1}  # type: ignore[assignment]
    return target


@pytest.mark.parametrize(
    ("padding", "expected"),
    [
        ({"1": 0}, [1, 0, (0, 1, 0, 1)]),  # goes before the network's own, which goes before the rule
        ({"[12]": 0}, [1, 0, 0]),
        ({"2": 1, "*": 0}, [0, 0, 1]),  # a name goes before a pattern, in any order
        ({"*": 0, "[01]": 1}, [1, 1, 0]),  # the later pattern before the earlier one
    ],
    ids=str,
)
def test_padding_by_name_and_pattern(padding: dict[str, int], expected: list[Any]) -> None:
    layers = shrink(three().append(nn.Conv2d(1, 1, 1)), 24, padding=padding).layers
    sides = [(each,) * 4 if isinstance(each, int) else each for each in [*expected, 0]]
    assert [layer.pretrain_padding for layer in layers] == sides


@pytest.mark.parametrize(
    ("padding", "message"),
    [
        ({"conv9": 0}, r"padding: 'conv9' fits no convolution whose kernel shrinks; there are conv$"),
        ({"more0*": 0}, r"padding: 'more0\*' fits no convolution"),
        ({"*": True}, r"padding\['\*'\] must be an integer from 0 to 1; got True"),
        ({"conv": 99}, r"padding\['conv'\] must be an integer from 0 to 1; got 99"),
    ],
    ids=str,
)
def test_padding_that_fits_nothing_is_refused(padding: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        shrink(classifier(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 1)), 12, padding=padding)


# Classes with a forward of their own.


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


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (classifier(Resized(1, 2, 3)), "layer conv: its class Resized pads in its own way, by which a kernel of 2x2"),
        (
            Net(lambda net, images: net.conv(images, torch.ones_like(images)).mean((2, 3)), conv=Masked(3, 4, 3)),
            "layer conv: its class Masked does not take a feature map alone: .*'mask'",
        ),
    ],
    ids=["another output size", "more than a map"],
)
def test_classes_that_cannot_be_padded_are_refused(target: nn.Module, message: str) -> None:
    with pytest.raises(InputError, match=message):
        shrink(target, 12)


def test_the_pretrain_network_shares_no_memory_with_the_target() -> None:
    target = two_layers()
    shrunk = shrink(target, 9)
    with torch.no_grad():
        for parameter in shrunk.network.parameters():
            parameter.zero_()
    assert all(parameter.abs().sum() > 0 for parameter in target.parameters())


def test_half_precision_is_shrunk_in_its_own_dtype() -> None:
    network = shrink(two_layers().bfloat16(), 9).network
    assert {parameter.dtype for parameter in network.parameters()} == {torch.bfloat16}


def test_dilated_kernels_shrink_even_where_they_leave_the_map() -> None:
    layers = (nn.Conv2d(4, 4, 3, padding=gap, dilation=gap) for gap in (2, 8))
    shrunk = shrink(classifier(nn.Conv2d(1, 4, 3, padding=1), *layers), 12)
    assert [(layer.pretrain_kernel, layer.pretrain_output) for layer in shrunk.layers] == [((2, 2), (8, 8))] * 3
    assert shrunk.network(torch.randn(2, 1, 8, 8)).shape == (2, 3)


def test_every_pixel_of_the_image_is_still_seen() -> None:
    for kernel, stride in ((5, 4), (4, 4), (3, 2), (7, 5)):
        target = classifier(nn.Conv2d(1, 4, kernel, stride=stride), nn.Conv2d(4, 4, 3, padding=1))
        images = torch.randn(1, 1, 40, 40, requires_grad=True)
        shrink(target, 60).network.get_submodule("conv")(images).sum().backward()
        assert images.grad is not None
        seen = images.grad[0, 0, 2:34, 2:34]
        assert (seen != 0).all(), (kernel, stride)


def test_computed_weights_of_unchanged_layers_are_allowed() -> None:
    target = classifier(nn.Conv2d(1, 2, 3), nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 2, 1)))
    assert shrink(target, 9).network(torch.randn(2, 1, 6, 6)).shape == (2, 3)


def test_symmetric_padding_needs_no_hook() -> None:
    small = shrink(classifier(nn.Conv2d(1, 2, 7, stride=2, padding=3)), 28).network.get_submodule("conv")
    assert isinstance(small, nn.Conv2d)
    assert small.padding == (2, 2)
    assert not small._forward_pre_hooks
