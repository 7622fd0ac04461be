import hashlib
import math
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rescaler.errors import InputError
from rescaler.method.rescaling import rescale
from rescaler.method.shrinking import Shrunk, shrink
from rescaler.models import (
    OverFeat,
    build,
    loss_and_scores,
    overfeat_fast,
    overfeat_small,
    resnet18,
    resnet34,
    resnet_small,
)
from rescaler.models.sources import source_digests


def _on_meta(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return make()


def _multiplications(network: nn.Module, image_px: int) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, 3, image_px, image_px, device="meta"))
    return float(counter.get_total_flops() / 2)


def _sides(shrunk: Shrunk) -> list[tuple[int, int]]:
    return [
        (layer.target_output[0], layer.pretrain_output[0]) for layer in shrunk.layers if layer.kind == "convolution"
    ]


# OverFeat-fast: the numbers of its authors and of the paper.


@pytest.fixture(scope="module")
def fast() -> tuple[nn.Module, Shrunk]:
    target = _on_meta(overfeat_fast)
    return target, shrink(target, 231)


def test_overfeat_fast_has_its_authors_size(fast: tuple[nn.Module, Shrunk]) -> None:
    target, _ = fast
    assert sum(parameter.numel() for parameter in target.parameters()) / 1e6 == pytest.approx(146, abs=0.5)
    assert _multiplications(target, 231) / 1e9 == pytest.approx(2.80, abs=0.005)


def test_overfeat_fast_shrinks_as_in_the_paper(fast: tuple[nn.Module, Shrunk]) -> None:
    _, shrunk = fast
    assert all(parameter.is_meta for parameter in shrunk.network.parameters())  # on the target's device
    assert shrunk.image_px == 147
    assert _sides(shrunk) == [(56, 36), (24, 16), (12, 9), (12, 10), (12, 9)]
    kernels = [(layer.name, layer.target_kernel[0], layer.pretrain_kernel[0]) for layer in shrunk.layers]
    assert kernels == [
        ("conv1", 11, 7),
        ("conv2", 5, 3),
        ("conv3", 3, 2),
        ("conv4", 3, 2),
        ("conv5", 3, 2),
        ("fc6", 6, 4),
    ]
    assert _multiplications(shrunk.network, 147) / 1e9 == pytest.approx(0.734, abs=0.0005)


def test_overfeat_fast_has_dropout_on_two_layers_and_relu_on_all_but_the_last(fast: tuple[nn.Module, Shrunk]) -> None:
    modules = list(fast[0].children())
    assert [sum(isinstance(module, kind) for module in modules) for kind in (nn.ReLU, nn.Dropout)] == [7, 2]
    assert isinstance(modules[-1], nn.Linear)
    assert modules[-1].out_features == 1000


def test_overfeat_starts_uniform_in_one_over_root_of_the_fan_in() -> None:
    torch.manual_seed(0)
    network = overfeat_small(widths=(32, 64, 64))
    for name, fan_in in (("conv1", 25), ("conv2", 32 * 9), ("conv3", 64 * 9), ("fc4", 64 * 36), ("fc5", 128)):
        layer, bound = network.get_submodule(name), fan_in**-0.5
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        assert layer.bias is not None
        weight = layer.weight.detach()
        assert 0.98 * bound < weight.abs().max() <= bound
        assert weight.mean().item() == pytest.approx(0, abs=0.1 * bound)
        assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
        assert layer.bias.abs().max() <= bound


# Its miniature.


@pytest.mark.parametrize(
    ("image_px", "pretrain_px", "sides", "interface"),
    [(28, 17, [(24, 15), (12, 8), (12, 9)], (6, 4)), (32, 19, [(28, 17), (14, 9), (14, 10)], (7, 5))],
)
def test_overfeat_small_shrinks(
    image_px: int, pretrain_px: int, sides: list[tuple[int, int]], interface: tuple[int, int]
) -> None:
    shrunk = shrink(overfeat_small(image_px=image_px), image_px)
    assert shrunk.image_px == pretrain_px
    assert _sides(shrunk) == sides
    last = shrunk.layers[-1]
    assert (last.name, last.target_kernel[0], last.pretrain_kernel[0]) == ("fc4", *interface)


def test_pooling_before_relu_changes_nothing() -> None:
    network = overfeat_small(dropout=0.0)
    images = torch.randn(2, 1, 28, 28)
    conv1, conv2, conv3, fc4, fc5 = (network.get_submodule(name) for name in ("conv1", "conv2", "conv3", "fc4", "fc5"))
    maps = F.max_pool2d(F.relu(conv1(images)), 2)
    maps = F.max_pool2d(F.relu(conv3(F.relu(conv2(maps)))), 2)
    torch.testing.assert_close(network(images), fc5(F.relu(fc4(maps.flatten(1)))))


def test_overfeat_refuses_images_that_vanish() -> None:
    with pytest.raises(InputError, match=r"^image_px=7 is too small: nothing is left of it at conv3"):
        overfeat_small(image_px=7)
    with pytest.raises(InputError, match=r"model\.widths must be the channels of 3 convolutions; got \[8\]"):
        overfeat_small(widths=[8])


# Residual networks.


def test_resnet34_shrinks_trains_and_is_rescaled() -> None:
    target = resnet34(num_classes=10)
    shrunk = shrink(target, 224)
    assert shrunk.image_px == 160
    assert dict(_sides(shrunk)) == {112: 80, 56: 40, 28: 20, 14: 10, 7: 5}
    assert all(layer.kind == "convolution" for layer in shrunk.layers)
    optimizer = torch.optim.SGD(shrunk.network.parameters(), lr=1e-3)
    loss = F.cross_entropy(shrunk.network(torch.randn(2, 3, 64, 64)), torch.tensor([1, 2]))
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    rescale(shrunk.network, target)
    with torch.no_grad():
        assert target.eval()(torch.randn(1, 3, 224, 224)).isfinite().all()
    assert torch.equal(target.get_parameter("fc.weight"), shrunk.network.get_parameter("fc.weight"))


def test_resnet18_is_torchvisions() -> None:
    from torchvision.models import resnet18 as original

    ours, theirs = _on_meta(resnet18), _on_meta(original)
    assert str(ours) == str(theirs)
    assert shrink(ours, 224).image_px == 160


def test_resnet_takes_images_of_other_channels() -> None:
    network = resnet18(num_classes=10, in_channels=1)
    stem = network.get_parameter("conv1.weight").detach()
    assert stem.shape == (64, 1, 7, 7)
    assert stem.std().item() == pytest.approx((2 / (64 * 49)) ** 0.5, rel=0.05)  # torchvision: fan out
    assert network.eval()(torch.zeros(1, 1, 32, 32)).shape == (1, 10)


def test_resnet_small_shrinks_with_all_shortcuts() -> None:
    target = resnet_small(num_classes=10)
    shrunk = shrink(target, 28)
    assert shrunk.image_px == 19
    assert set(_sides(shrunk)) == {(28, 19), (14, 10), (7, 5)}
    assert shrunk.network(torch.randn(2, 1, 19, 19)).shape == (2, 10)
    assert sum(isinstance(module, nn.Conv2d) for module in target.modules()) == 1 + 3 * 2 * 2 + 2
    assert rescale(shrunk.network, target)(torch.randn(2, 1, 28, 28)).shape == (2, 10)


def test_resnet_small_refuses_an_empty_network() -> None:
    with pytest.raises(InputError, match=r"model\.blocks must be at least 1; got 0"):
        resnet_small(blocks=0)
    with pytest.raises(InputError, match=r"model\.widths must name the channels of at least one group"):
        resnet_small(widths=[])


# From the configuration.


def test_build_ours() -> None:
    options = {"_target_": "rescaler.models.overfeat_small", "image_px": 32, "widths": [4, 4, 4]}
    network = build(options, classes=7, channels=3)
    assert isinstance(network, OverFeat)
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


def test_build_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "users_nets.py").write_text(
        "from torch import nn\n"
        "def make_net(num_classes, in_channels, width):\n"
        "    return nn.Conv2d(in_channels, num_classes, width)\n"
        "def fails(num_classes, in_channels):\n"
        "    return nn.Linear('three', num_classes)\n"
        "def makes_no_network(**options):\n"
        "    return options\n"
        "constant = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "users_nets", raising=False)
    network = build({"_target_": "users_nets.make_net", "width": 3}, classes=5, channels=2)
    assert isinstance(network, nn.Conv2d)
    assert network.weight.shape == (5, 2, 3, 3)
    for options, message in (
        ({"_target_": "users_nets.make_net"}, "make_net fails with the arguments .*'width'"),
        ({"_target_": "users_nets.fails"}, "users_nets.fails fails with the arguments .*: "),
        ({"_target_": "users_nets.makes_no_network"}, r"must make a torch\.nn\.Module; it made a dict"),
        ({"_target_": "users_nets.constant"}, "is no function or class; ours: rescaler"),
    ):
        with pytest.raises(InputError, match=message):
            build(options, classes=5, channels=2)


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "densenet121", "googlenet"])
def test_build_torchvisions_own(name: str) -> None:
    options: dict[str, Any] = {"init_weights": False} if name == "googlenet" else {}
    options["image_px"] = 64  # of the default model, where only `_target_` is overridden
    network = build({"_target_": f"torchvision.models.{name}", **options}, classes=7, channels=3)
    assert network.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 7)


def test_build_passes_what_the_function_takes(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "users_fixed_nets.py").write_text(
        "from torch import nn\n"
        "class Fixed(nn.Conv2d):\n"
        "    def __init__(self):\n"
        "        super().__init__(3, 5, 3)\n"
        "def any_channels(in_channels):\n"
        "    return nn.Conv2d(in_channels, 5, 3)\n"
        "def typo(num_classes, in_channels):\n"
        "    return nn.Conv2d(in_channels, num_classes, 3, strid=2)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert isinstance(build({"_target_": "users_fixed_nets.Fixed"}, classes=5, channels=3), nn.Conv2d)
    network = build({"_target_": "users_fixed_nets.any_channels"}, classes=5, channels=2)
    assert isinstance(network, nn.Conv2d)
    assert network.in_channels == 2
    with pytest.raises(InputError, match="users_fixed_nets.typo fails with the arguments .*'strid'"):
        build({"_target_": "users_fixed_nets.typo"}, classes=5, channels=2)


def test_build_refuses_a_network_for_other_channels() -> None:
    message = (
        r"model\._target_=torchvision\.models\.resnet18 makes a network for images of 3 channels, but "
        r"data\.channels=1: choose other data, or name a function of your own that takes in_channels"
    )
    with pytest.raises(InputError, match=message):
        build({"_target_": "torchvision.models.resnet18"}, classes=10, channels=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"model\._target_ must be the import path of a network; got None; ours: rescaler\.models\."),
        ({"_target_": "rescaler.models.alexnet"}, r"model\._target_=.*\.alexnet cannot be imported .* ours:"),
        ({"_target_": "no_such_package.net"}, r"no_such_package\.net cannot be imported \(No module named .*ours:"),
        (
            {"_target_": "users_mistakes.net"},
            r"=users_mistakes\.net cannot be imported \(.* \(users_mistakes.py, line 2\)",
        ),
        ({"_target_": "not a path"}, "model._target_=not a path cannot be imported .* ours:"),
        (
            {"_target_": "rescaler.models.overfeat_small", "width": 3},
            r"model\.width is no argument of overfeat_small; it takes: num_classes, in_channels, image_px, widths",
        ),
        (
            {"_target_": "rescaler.models.overfeat_small", "dropout": 2},
            "overfeat_small fails with the arguments .*'dropout': 2.*: dropout probability .* between 0 and 1",
        ),
        ({"_target_": "rescaler.models.overfeat_small", "image_px": 3}, "^image_px=3 is too small"),
        ({"_target_": "builtins.dict"}, r"must make a torch\.nn\.Module; it made a dict"),
    ],
)
def test_build_refuses(options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "users_mistakes.py").write_text("def net(num_classes):\n    return Conv2d(\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=message):
        build(options, classes=10, channels=1)


# Auxiliary classifiers.


def test_auxiliary_losses_count_three_tenths() -> None:
    """Equal scores of c classes lose ln(c) each."""
    labels = torch.tensor([0, 1])
    scores = [torch.zeros(2, 4), torch.full((2, 4), 2.0), torch.ones(2, 4)]
    loss, main = loss_and_scores(tuple(scores), labels)
    assert loss.item() == pytest.approx(1.6 * math.log(4))
    assert main is scores[0]
    loss, main = loss_and_scores(scores[0], labels)
    assert loss.item() == pytest.approx(math.log(4))
    assert main is scores[0]


@pytest.mark.parametrize("output", [{"out": torch.zeros(2, 4)}, (), (torch.zeros(2, 4), None)], ids=str)
def test_what_is_no_score_is_refused(output: object) -> None:
    with pytest.raises(InputError, match=f"a tuple of scores and auxiliary scores; got a {type(output).__name__}"):
        loss_and_scores(output, torch.tensor([0, 1]))


def test_sources_are_the_files_of_users_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "users_layers.py").write_text("from torch import nn\nclass Mine(nn.Conv2d): ...\n")
    (tmp_path / "users_factory.py").write_text(
        "from torch import nn\nimport users_layers\n"
        "def net(num_classes):\n    return nn.Sequential(users_layers.Mine(3, num_classes, 3), nn.ReLU())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = source_digests(build({"_target_": "users_factory.net"}, classes=5, channels=3), "users_factory.net")
    assert found == {
        name: hashlib.sha256((tmp_path / f"{name}.py").read_bytes()).hexdigest()
        for name in ("users_factory", "users_layers")
    }
    for path in ("rescaler.models.resnet18", "torchvision.models.alexnet"):
        assert source_digests(build({"_target_": path}, classes=5, channels=3), path) == {}
