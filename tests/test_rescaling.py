import copy
from collections import OrderedDict
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import ExtraState
from torch import Tensor, nn

from rescaler.errors import InputError
from rescaler.method.kernels import INTERPOLATIONS, rescale_kernel
from rescaler.method.rescaling import rescale, rescale_tensors
from rescaler.method.shrinking import shrink


def _target() -> nn.Sequential:
    """8 px: maps of 6x6, pre-train 5 px: maps of 4x4, as in OverFeat."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(2, 4, 3),
            bn=nn.BatchNorm2d(4),
            relu=nn.ReLU(),
            conv2=nn.Conv2d(4, 4, 1),
            flatten=nn.Flatten(),
            fc3=nn.Linear(4 * 6 * 6, 5),
            fc4=nn.Linear(5, 3),
        )
    )


def _pretrain() -> nn.Module:
    """Its own weights: those of another target, and BatchNorm statistics that have seen images."""
    torch.manual_seed(1)
    network = shrink(_target(), 8, pretrain_px=5, padding={"conv1": 0}).network
    network(torch.randn(16, 2, 5, 5))
    return network.eval()


def test_all_but_kernels_and_the_interface_is_copied_bit_for_bit() -> None:
    pretrain = _pretrain()
    state, rescaled = pretrain.state_dict(), rescale(pretrain, _target()).state_dict()
    changed = {name for name in state if not torch.equal(rescaled[name], state[name])}
    assert changed == {"conv1.weight", "fc3.weight"}
    assert state["bn.num_batches_tracked"] == 1


def test_networks_agree_on_images_of_one_colour() -> None:
    """Kernels 2 -> 3 and the interface 4 -> 6 keep their total weight, and one colour has no other property."""
    pretrain = _pretrain().double()
    target = rescale(pretrain, _target().double().eval())
    colours = torch.randn(7, 2, 1, 1, dtype=torch.float64)
    torch.testing.assert_close(target(colours.expand(7, 2, 8, 8)), pretrain(colours.expand(7, 2, 5, 5)))


@pytest.mark.parametrize("mode", INTERPOLATIONS)
def test_interface_is_a_kernel_over_the_whole_map(mode: str) -> None:
    """Section 3.3.2: weights of a 4x4 convolution and of a fully-connected layer end the same."""
    convolution = nn.Sequential(OrderedDict(body=nn.Conv2d(1, 3, 3), fc=nn.Conv2d(3, 5, 6)))
    linear = nn.Sequential(OrderedDict(body=nn.Conv2d(1, 3, 3), flatten=nn.Flatten(), fc=nn.Linear(3 * 36, 5)))
    as_convolution = shrink(convolution, 8, pretrain_px=5, table={3: 2, 6: 4}, padding={"body": 0, "fc": 0}).network
    as_linear = shrink(linear, 8, pretrain_px=5, padding={"body": 0}).network
    weight = torch.randn(5, 3, 4, 4)
    as_convolution.load_state_dict({"fc.weight": weight}, strict=False)
    as_linear.load_state_dict({"fc.weight": weight.flatten(1)}, strict=False)
    rescale(as_convolution, convolution, mode=mode)
    rescale(as_linear, linear, mode=mode)
    expected = convolution.get_parameter("fc.weight").flatten(1)
    torch.testing.assert_close(linear.get_parameter("fc.weight"), expected)


def test_the_users_own_network_and_parameters_are_filled() -> None:
    conv = nn.Conv2d(2, 2, 3, padding=1)
    target = nn.Sequential(conv, nn.ReLU(), conv, nn.BatchNorm2d(2))
    parameters = list(target.named_parameters(remove_duplicate=False))
    assert rescale(shrink(target, 12).network, target) is target
    for (name, before), (_, after) in zip(parameters, target.named_parameters(remove_duplicate=False), strict=True):
        assert before is after, name
    assert not any(module._forward_pre_hooks for module in target)


def test_shapes_alone_are_rescaled_on_the_meta_device() -> None:
    target = rescale(_pretrain().to("meta"), _target().to("meta"))
    assert target.get_parameter("conv1.weight").shape == (4, 2, 3, 3)


def test_a_compiled_target_is_filled() -> None:
    """Its names begin with ``_orig_mod.`` in both networks."""
    target = _target()
    compiled: Any = torch.compile(target, backend="eager")
    compiled(torch.randn(4, 2, 8, 8))
    shrunk = shrink(compiled, 8)
    assert [layer.name for layer in shrunk.layers] == ["_orig_mod.conv1", "_orig_mod.conv2", "_orig_mod.fc3"]
    nn.init.constant_(shrunk.network.get_parameter("_orig_mod.conv1.weight"), 0.9)
    assert rescale(shrunk.network, compiled) is compiled
    torch.testing.assert_close(target.get_parameter("conv1.weight"), torch.full((4, 2, 3, 3), 0.9 * 4 / 9))


def test_pretrain_network_is_left_alone() -> None:
    pretrain = _pretrain()
    before = copy.deepcopy(pretrain.state_dict())
    rescale(pretrain, target := _target())
    for parameter in target.parameters():
        nn.init.zeros_(parameter)
    assert all(torch.equal(tensor, before[name]) for name, tensor in pretrain.state_dict().items())


def test_momentum_is_rescaled_like_its_parameters() -> None:
    """Rescaling is linear: the step taken before the rescale and the rescaled step end at the same weights."""
    pretrain, step = _pretrain(), {}
    for name, parameter in pretrain.named_parameters():
        step[name] = torch.randn_like(parameter)
    before = rescale(pretrain, _target()).state_dict()
    rescaled_step = rescale_tensors(step, pretrain, _target())
    assert list(rescaled_step) == list(step)
    with torch.no_grad():
        for name, parameter in pretrain.named_parameters():
            parameter.add_(step[name])
    after = rescale(pretrain, _target()).state_dict()
    for name, change in rescaled_step.items():
        torch.testing.assert_close(after[name], before[name] + change)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_rescaled_in_single_and_rounded_once(dtype: torch.dtype) -> None:
    pretrain = _pretrain().to(dtype)
    target = rescale(pretrain, _target().to(dtype))
    precise = rescale(copy.deepcopy(pretrain).float(), _target())
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, precise.state_dict()[name].to(tensor.dtype)), name


def test_values_too_large_for_the_target_are_refused() -> None:
    pretrain = _pretrain()
    nn.init.constant_(pretrain.get_parameter("fc4.bias"), 1e6)
    _refused(pretrain, _target().half(), r"fc4\.bias has values that are not finite in torch\.float16")


def test_momentum_is_rescaled_in_its_own_precision() -> None:
    momentum = {"conv1.weight": torch.full((4, 2, 2, 2), 1e5)}  # more than half precision holds
    found = rescale_tensors(momentum, _pretrain().half(), _target().half())["conv1.weight"]
    torch.testing.assert_close(found, torch.full((4, 2, 3, 3), 1e5 * 4 / 9))


def test_extra_state_of_a_module_is_copied() -> None:
    target = ExtraState(num_classes=2, in_channels=1)
    pretrain = shrink(target, 9).network
    pretrain.calls = 5  # type: ignore[assignment]
    assert rescale(pretrain, target).calls == 5


# Through a network of a size between: every stage is a pre-train network of the same target.


def _stages() -> list[nn.Module]:
    """Maps of 4x4, 5x5 and 6x6 before the fully-connected layer; kernels 2x2, 3x3 and 3x3."""
    small = shrink(_target(), 8, pretrain_px=5, padding={"conv1": 0}).network
    return [small, shrink(_target(), 8, pretrain_px=7, input_only=True).network, _target()]


def test_a_network_between_takes_the_weights_at_its_own_size() -> None:
    small, middle, target = _stages()
    rescale(small, middle)
    kernel = small.get_parameter("fc3.weight").reshape(5, 4, 4, 4)
    expected = rescale_kernel(kernel, (5, 5)).flatten(1)
    assert torch.equal(middle.get_parameter("fc3.weight"), expected)
    rescale(middle, target)
    assert torch.equal(
        target.get_parameter("fc3.weight"), rescale_kernel(expected.reshape(5, 4, 5, 5), (6, 6)).flatten(1)
    )
    assert middle(torch.randn(2, 2, 7, 7)).shape == target(torch.randn(2, 2, 8, 8)).shape


def test_kernels_are_rescaled_in_their_own_precision_under_autocast() -> None:
    target = nn.Sequential(nn.Conv2d(1, 4, 3))
    shrunk = shrink(target, 12)
    expected = rescale(shrunk.network, copy.deepcopy(target)).state_dict()
    with torch.autocast("cpu", torch.bfloat16):
        found = rescale(shrunk.network, target).state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_refuses_to_go_back() -> None:
    small, middle, target = _stages()
    _refused(middle, small, "conv1.weight: a kernel of 3x3 can only grow; got the target size 2x2")
    same_kernels = shrink(_target(), 8, pretrain_px=6, input_only=True).network
    _refused(middle, same_kernels, "fc3.weight: a kernel of 5x5 can only grow; got the target size 4x4")
    _refused(target, middle, "fc3.weight: a kernel of 6x6 can only grow; got the target size 5x5")


def test_a_trained_network_keeps_its_loss_after_the_rescale_and_trains_further() -> None:
    torch.manual_seed(0)
    labels = torch.arange(3).repeat(8)
    images = F.interpolate(torch.randn(3, 1, 4, 4), (12, 12), mode="bicubic")[labels] + 0.3 * torch.randn(24, 1, 12, 12)

    def trained(network: nn.Module, images: Tensor, steps: int) -> list[float]:
        optimizer = torch.optim.SGD(network.parameters(), lr=0.03)
        losses = []
        for _ in range(steps):
            optimizer.zero_grad()
            losses.append(F.cross_entropy(network(images), labels))
            losses[-1].backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return [loss.item() for loss in losses]

    row = nn.Conv2d(4, 4, (1, 7), padding=(0, 3), groups=4)
    target = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), row, nn.Flatten(), nn.Linear(4 * 12 * 12, 3))
    shrunk = shrink(target, 12)
    side = (shrunk.image_px, shrunk.image_px)
    small = trained(shrunk.network, F.interpolate(images, side, mode="bilinear", antialias=True), 40)
    large = trained(rescale(shrunk.network, target), images, 10)
    assert small[0] > 0.9
    assert large[0] < 0.5 * small[0], "the target begins where the pre-train network ended, or near to it"
    assert large[-1] < large[0]


# Refused, and the target left as it was.


def _refused(pretrain: nn.Module, target: nn.Module, message: str) -> None:
    before = copy.deepcopy(target.state_dict())
    with pytest.raises(InputError, match=message):
        rescale(pretrain, target)
    assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items())


def test_wrong_arguments_are_named() -> None:
    pretrain, target = _pretrain(), _target()
    other = nn.Sequential(*_target())
    _refused(pretrain, other, r"the same parameters; not in both: 0\.bias, 0\.weight, 1\.bias, .* and \d+ more")
    _refused(nn.DataParallel(pretrain), target, "; unwrap networks first ")
    _refused(shrink(target, 8), target, r"^pretrain must be a torch.nn.Module; got a Shrunk; pass its .network$")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^target must be a torch.nn.Module; got a OrderedDict$"):
        rescale(pretrain, target.state_dict())  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"conv9.weight": torch.ones(1)}, "'conv9.weight' is no parameter of both"),
        ({"fc4.bias": torch.ones(4)}, r"fc4.bias must be \(3,\) as in the pre-train network; got \(4,\)"),
        ({"fc4.bias": None}, "^fc4.bias must be a tensor; got a NoneType$"),
        ([], "^tensors must be a mapping of names to tensors; got a list$"),
    ],
    ids=str,
)
def test_tensors_of_no_parameter_are_refused(tensors: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        rescale_tensors(tensors, _pretrain(), _target())


@pytest.mark.parametrize(
    ("name", "layer", "message"),
    [
        ("conv1", nn.Conv2d(2, 4, 1), "conv1.weight: a kernel of 2x2 can only grow; got the target size 1x1"),
        ("conv1", nn.Conv2d(2, 6, 3), r"from shape \(4, 2, 2, 2\) to the target's \(6, 2, 3, 3\)"),
        ("fc3", nn.Linear(4 * 7 * 7, 5), r"fc3.weight: no rescaling leads from shape \(5, 64\) to .* \(5, 196\)"),
    ],
    ids=["smaller kernel", "other channels", "other feature map"],
)
def test_refuses_another_shape(name: str, layer: nn.Module, message: str) -> None:
    target = _target()
    target.add_module(name, layer)
    _refused(_pretrain(), target, message)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["fc4.bias", "conv1.weight", "bn.running_var"])
def test_refuses_weights_that_are_not_finite(name: str, value: float) -> None:
    pretrain = _pretrain()
    pretrain.state_dict()[name].view(-1)[0] = value
    _refused(pretrain, _target(), f"{name} has values that are not finite")


@pytest.mark.parametrize("blocks", [1, 2])
def test_an_embedded_network_responds_as_before_on_images_of_the_same_size(blocks: int) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 5, padding=2), nn.ReLU(), *(nn.Conv2d(4, 4, 3, padding=1) for _ in range(blocks))]
    target = nn.Sequential(*layers).eval()
    shrunk = shrink(target, 32, pretrain_px=32)
    images = torch.randn(2, 3, 32, 32)
    before = shrunk.network(images)
    after = rescale(shrunk.network, target, mode="embed")(images)
    assert [layer.pretrain_padding for layer in shrunk.layers[1:]] == (
        [(0, 1, 0, 1)] if blocks == 1 else [(0, 0, 0, 0), (1, 1, 1, 1)]
    )
    inside = (..., slice(2, -2), slice(2, -2))  # at the border two layers that pad in pairs see other zeros
    torch.testing.assert_close(after[inside], before[inside])
