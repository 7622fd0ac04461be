"""Networks that are more than torch's own layers in a row: classes and copies of their own, tied weights, hooks."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import Net, classifier, conv
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torchvision.models import resnet18
from torchvision.ops import DeformConv2d, FrozenBatchNorm2d

from rescaler.errors import InputError
from rescaler.method.description import describe
from rescaler.method.rescaling import rescale
from rescaler.method.shrinking import shrink


class Scaled(nn.Linear):
    """Multiplies its weight, as for an equalised learning rate."""

    def forward(self, features: Tensor) -> Tensor:
        return F.linear(features, 0.1 * self.weight, self.bias)


def test_an_interface_keeps_its_class_and_its_hooks() -> None:
    called: list[nn.Module] = []
    fc = Scaled(4 * 6 * 6, 3)
    fc.register_forward_hook(lambda module, _args, _output: called.append(module))
    target = nn.Sequential(conv(1, 4), nn.Flatten(), fc)
    shrunk = shrink(target, 6)
    small = shrunk.network.get_submodule("2")
    assert isinstance(small, Scaled)
    assert small.in_features == 4 * 4 * 4
    called.clear()
    images = torch.randn(2, 1, 4, 4)
    torch.testing.assert_close(
        shrunk.network(images),
        F.linear(shrunk.network.get_submodule("0")(images).flatten(1), 0.1 * small.weight, small.bias),
    )
    assert called == [small]


def test_tied_interfaces_stay_tied() -> None:
    target: Any = Net(lambda net, x: net.a(net.conv(x).flatten(1)) + net.b(net.conv(x).flatten(1)), conv=conv(1, 4))
    target.a, target.b = nn.Linear(4 * 36, 3), nn.Linear(4 * 36, 3)
    target.b.weight = target.a.weight
    shrunk = shrink(target, 6)
    a, b = (shrunk.network.get_submodule(name) for name in "ab")
    assert a.weight is b.weight
    nn.init.constant_(a.get_parameter("weight"), 0.9)
    rescale(shrunk.network, target)
    assert target.a.weight is target.b.weight
    torch.testing.assert_close(target.a.weight, torch.full((3, 144), 0.9 * 16 / 36))


def _tied(forward: Callable[[Any, Tensor], Any], **layers: nn.Module) -> Any:
    """The weight of the layer ``a`` is that of ``b``, too, or of the network itself."""
    net: Any = Net(forward, **layers)
    (net.b if "b" in layers else net).weight = net.a.weight
    return net


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            _tied(lambda net, x: (net.a(x).mean() + net.b(x)).mean((2, 3)), a=conv(1, 4, 5), b=conv(1, 4, 5, stride=4)),
            "layers a and b share a weight, which would become 3x3 for the first",
        ),
        (
            _tied(lambda net, x: net.b(net.a(x)).mean((2, 3)), a=conv(1, 4), b=nn.ConvTranspose2d(4, 1, 3)),
            "layers a and b share a weight, which would become 2x2 for the first",
        ),
        (
            _tied(lambda net, x: net.a(x).mean((2, 3)), a=conv(1, 4)),
            "layers a and the network itself share a weight",
        ),
    ],
)
def test_weights_whose_users_disagree_are_refused(target: nn.Module, message: str) -> None:
    with pytest.raises(InputError, match=message):
        shrink(target, 16)


def test_weights_that_are_other_views_of_one_memory_are_refused() -> None:
    target: Any = Net(lambda net, images: net.b(net.a(images)).mean((2, 3)), a=conv(4, 4), b=conv(4, 4, bias=False))
    memory = torch.randn(2, *target.a.weight.shape)
    target.a.weight, target.b.weight = nn.Parameter(memory[0]), nn.Parameter(memory[1])
    assert [layer.pretrain_kernel for layer in shrink(target, 16).layers] == [(2, 2), (2, 2)], "apart in one memory"
    target.b.weight = nn.Parameter(target.a.weight.data.transpose(2, 3))
    with pytest.raises(InputError, match="layers (a and b|b and a) share a weight"):
        shrink(target, 16)
    target.b = conv(4, 4)
    target.register_buffer("kept", target.a.weight.data)
    with pytest.raises(InputError, match="layers a and the network itself share a weight"):
        shrink(target, 16)


@pytest.mark.parametrize(
    "borrowed",
    [
        lambda net: net.conv.weight.transpose(2, 3) * 0.5,
        lambda net: 2 * net.conv.weight.detach().view(4, 1, 3, 3).clone(),
        lambda net: net.conv.weight if net.training else torch.ones(4, 1, 3, 3),
    ],
    ids=["transposed and scaled", "a copy of a view", "in training"],
)
def test_weights_that_a_function_borrows_are_refused(borrowed: Callable[[Any], Tensor]) -> None:
    def forward(net: Any, images: Tensor) -> Any:
        maps = net.conv(images)
        scores = net.point(maps).mean() + F.conv_transpose2d(maps, net.point.weight).mean()  # which stays
        return scores + F.conv_transpose2d(maps, borrowed(net)).mean((2, 3))

    target = Net(forward, conv=conv(1, 4), point=nn.Conv2d(4, 4, 1), never=conv(1, 4))
    with pytest.raises(InputError, match="layer conv: a function of the network takes its weight, too"):
        shrink(target, 16)


def test_weights_tied_by_their_memory_stay_tied() -> None:
    def forward(net: Any, images: Tensor) -> Any:
        return net.last(net.point(net.b(net.a(images))).mean((2, 3)))

    target: Any = Net(forward, a=conv(4, 4), b=conv(4, 4), point=nn.Conv2d(4, 4, 1), last=nn.Linear(4, 4))
    target.b.weight = nn.Parameter(target.a.weight.data)
    target.last.weight = nn.Parameter(target.point.weight.data.view(4, 4))
    target.last.bias = nn.Parameter(target.point.bias.data)
    network: Any = shrink(target, 16).network
    for one, other in ((network.a.weight, network.b.weight), (network.point.bias, network.last.bias)):
        assert one is not other
        assert one.data_ptr() == other.data_ptr()
    target.a.stride = (3, 3)  # it now keeps its kernel, and the other does not
    with pytest.raises(InputError, match="layers b and a share a weight, which would become 2x2 for the first"):
        shrink(target, 16)


def test_layers_that_return_more_than_a_map_are_followed() -> None:
    class Twofold(nn.Conv2d):
        def forward(self, images: Tensor) -> Any:
            maps = super().forward(images)
            return {"maps": maps, "mean": maps.mean()}

    def forward(net: Any, images: Tensor) -> Any:
        maps, indices = net.pool(net.conv(images))
        maps = net.unpool(maps, indices)
        return net.twofold(maps)["maps"].mean((2, 3))

    layers = {"pool": nn.MaxPool2d(2, return_indices=True), "unpool": nn.MaxUnpool2d(2)}
    target = Net(forward, conv=conv(1, 4), **layers, twofold=Twofold(4, 4, 3, padding=1))
    described = {layer.name: layer.pretrain_output for layer in describe(target, 18).layers}
    assert described == {"conv": (12, 12), "twofold": (12, 12)}
    assert shrink(target, 18).network(torch.randn(2, 1, 12, 12)).shape == (2, 4)


def test_layers_with_kernels_of_another_kind_are_noted() -> None:
    def forward(net: Any, images: Tensor) -> Any:
        maps = net.conv(images) * net.scale.weight
        return net.deform(maps, net.offsets(maps)).mean((2, 3))

    deform, scale = DeformConv2d(4, 4, 3, padding=1), nn.Module()
    scale.weight = nn.Parameter(torch.ones(1, 4, 1, 1))
    shrunk = shrink(Net(forward, conv=conv(1, 4), offsets=conv(4, 18), deform=deform, scale=scale), 12)
    assert shrunk.notes == ("deform (DeformConv2d): left as it is, since only Conv2d is shrunk",)


def test_a_network_that_copies_itself_is_refused() -> None:
    class Copying(nn.Sequential):
        def __deepcopy__(self, _memo: Any) -> nn.Module:
            return Copying(*(copy.deepcopy(layer) for layer in self))

    with pytest.raises(InputError, match="layer 0 cannot be exchanged: the network has a __deepcopy__ of its own"):
        shrink(Copying(conv(1, 4), conv(4, 4)), 16)


def test_the_padding_of_a_loaded_network_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RemovableHandle, "next_id", 0)
    network = shrink(nn.Sequential(conv(1, 4), conv(4, 4)), 12).network
    images = torch.randn(2, 1, 8, 8)
    expected = network(images)
    saved = pickle.dumps(network)
    monkeypatch.setattr(RemovableHandle, "next_id", 0)  # as in a new process
    loaded = pickle.loads(saved)
    for _ in range(50):
        loaded.get_submodule("0").register_forward_pre_hook(lambda *_: None).remove()
    torch.testing.assert_close(loaded(images), expected)


def test_a_target_whose_state_dict_is_a_copy_is_filled() -> None:
    target = classifier(conv(1, 4), conv(4, 4))
    pretrain = shrink(target, 12).network
    for layer in pretrain.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.constant_(layer.weight, 0.9)
    target.register_state_dict_post_hook(  # type: ignore[no-untyped-call]
        lambda _net, state, *_: state.update({name: tensor.clone() for name, tensor in state.items()})
    )
    rescale(pretrain, target)
    values = torch.cat([layer.weight.flatten() for layer in target.modules() if isinstance(layer, nn.Conv2d)])
    torch.testing.assert_close(values, torch.full_like(values, 0.9 * 4 / 9))


@pytest.mark.parametrize("seed", range(2))
def test_blocks_that_training_skips_at_random_are_shrunk(seed: int) -> None:
    def forward(net: Any, images: Tensor) -> Any:
        maps = net.first(images)
        for block in (net.second, net.third):
            if not net.training or torch.rand(1).item() < 0.5:
                maps = block(maps)
        if net.training:
            maps = maps + net.only_in_training(images).mean()
        return maps.mean((2, 3))

    names = ("first", "second", "third", "only_in_training")
    target = Net(forward, **{name: conv(4 if name in names[1:3] else 1, 4) for name in names})
    torch.manual_seed(seed)
    shrunk = shrink(target, 16)
    assert [layer.name for layer in shrunk.layers] == list(names)
    assert shrunk.notes == ()
    assert shrunk.network.training


@pytest.mark.parametrize(
    "flatten",
    [
        lambda maps: maps.view(len(maps), 1, -1, maps.shape[3]).flatten(1),
        lambda maps: maps.flatten(1)[:, torch.arange(maps[0].numel()).flip(0)],
        lambda maps: torch.cat([maps.flatten(1)[:, 4:], maps.mean((2, 3))], 1),
    ],
    ids=["channels in rows", "another order", "a part of another kind"],
)
def test_features_that_only_look_like_a_map_are_refused(flatten: Callable[[Tensor], Tensor]) -> None:
    target = Net(lambda net, x: net.fc(flatten(net.conv(x))), conv=conv(1, 4), fc=nn.Linear(4 * 144, 3))
    with pytest.raises(InputError, match="layer fc gets .* features instead of 576 .* not one flattened"):
        shrink(target, 12)


def test_images_may_be_flattened_themselves() -> None:
    net = Net(lambda net, x: net.fc(x.flatten(1)) + net.conv(x).mean((2, 3)), conv=conv(1, 3), fc=nn.Linear(144, 3))
    assert {layer.name: layer.pretrain_kernel for layer in shrink(net, 12).layers} == {"conv": (2, 2), "fc": (8, 8)}


def test_infinite_buffers_and_other_attributes_called_weight_are_allowed() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))

        def forward(self, maps: Tensor) -> Tensor:
            return maps

        def weight(self, scale: float) -> float:
            return scale

    target = resnet18(norm_layer=FrozenBatchNorm2d, num_classes=3)
    target.add_module("loss", nn.CrossEntropyLoss(weight=torch.ones(3)))
    target.relu = Masked()
    shrunk = shrink(target, 64)
    rescale(shrunk.network, target)
    shrunk.network.get_buffer("relu.mask")[1, 1] = torch.inf
    with pytest.raises(InputError, match="relu.mask has values that are not finite"):
        rescale(shrunk.network, target)


def test_a_buffer_in_the_memory_of_a_shrunk_weight_is_refused() -> None:
    target: Any = Net(lambda net, images: net.a(images).mean((2, 3)), a=conv(4, 4))
    target.register_buffer("kept", target.a.weight.data)
    with pytest.raises(InputError, match="layers a and the network itself share a weight"):
        shrink(target, 16)


def test_separate_weights_may_lie_in_one_memory() -> None:
    target: Any = Net(lambda net, images: net.b(net.a(images)).mean((2, 3)), a=conv(4, 4), b=conv(4, 4))
    memory = torch.randn(2, *target.a.weight.shape)
    target.a.weight, target.b.weight = nn.Parameter(memory[0]), nn.Parameter(memory[1])
    assert [layer.pretrain_kernel for layer in shrink(target, 16).layers] == [(2, 2), (2, 2)]
