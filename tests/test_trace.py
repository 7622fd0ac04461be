from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import Net, classifier
from torch import Tensor, nn

from rescaler.errors import InputError
from rescaler.method.trace import Call, outline, trace


def calls(network: nn.Module, channels: int = 3) -> dict[str, Call]:
    return trace(outline(network), channels, 8, argument="image_px").calls


def test_positions_are_where_weights_are_applied() -> None:
    """Times the number of weights, these are a layer's multiplications (Eq. 3)."""

    def forward(net: Any, images: Tensor) -> Any:
        maps = net.conv(images) + net.conv(images)
        maps = maps + net.conv(maps[:, :, ::2, ::2]).repeat(1, 1, 2, 2)
        maps = net.pointwise(net.up(maps).permute(0, 2, 3, 1))
        return net.scores(maps.mean((1, 2)))

    layers = {"up": nn.ConvTranspose2d(2, 2, 4, stride=4), "pointwise": nn.Linear(2, 5), "scores": nn.Linear(5, 3)}
    found = calls(Net(forward, conv=nn.Conv2d(2, 2, 3, padding=1), **layers), 2)
    assert {name: (call.positions, call.times) for name, call in found.items()} == {
        "conv": (64 + 64 + 16, 3),
        "up": (64, 1),
        "pointwise": (32 * 32, 1),
        "scores": (1, 1),
    }
    assert found["conv"].input == (2, 8, 8)


def test_images_folded_into_the_batch_are_counted() -> None:
    def forward(net: Any, images: Tensor) -> Any:
        quarters = images.unfold(2, 4, 4).unfold(3, 4, 4).reshape(-1, 1, 4, 4)
        scores = net.scores(net.conv(quarters).mean((2, 3))).reshape(len(images), 4, 3)
        return scores.mean(1) + net.shift(torch.ones(2))

    conv = nn.Conv2d(1, 2, 3, padding=1)
    found = calls(Net(forward, conv=conv, scores=nn.Linear(2, 3), shift=nn.Linear(2, 3)), 1)
    assert {name: call.positions for name, call in found.items()} == {"conv": 8 * 8, "scores": 4, "shift": 1}


def test_constants_that_are_no_buffers_and_writes_to_parameters_are_allowed() -> None:
    def forward(net: Any, images: Tensor) -> Tensor:
        images = (images - net.mean) / torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)
        net.conv.weight.data.clamp_(-1, 1)
        maps: Tensor = net.conv(torch.cat([images, net.mean.expand(2, 3, 8, 8)], 1)) * net.scale.data.clamp_(min=0)
        return maps.mean((2, 3))

    network: Any = Net(forward, conv=nn.Conv2d(6, 4, 3))
    network.mean, network.scale = torch.zeros(1, 3, 1, 1), nn.Parameter(torch.ones(4, 1, 1))
    assert calls(network)["conv"].output == (4, 6, 6)


def test_functions_are_followed_however_their_arguments_are_given() -> None:
    def forward(net: Any, images: Tensor) -> Tensor:
        images = F.conv2d(input=images, weight=torch.ones(3, 3, 1, 1))
        maps = torch.stack([net.conv(image) for image in images])  # one at a time, without a batch axis
        mean, var = net.norm.running_mean, net.norm.running_var
        maps = F.batch_norm(input=maps, running_mean=mean, running_var=var, training=True)
        return F.linear(maps.mean((2, 3)), var) + F.linear(var, var)

    call = calls(Net(forward, conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4)))["conv"]
    assert (call.output_size, call.times) == ((6, 6), 2)


def test_batch_norm_of_other_channels_is_refused() -> None:
    with pytest.raises(InputError, match=r'in or after layer "more0" \(2x6x6 input\): running_mean should contain 2'):
        calls(classifier(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(3)), 1)


def test_an_outline_takes_no_memory() -> None:
    network = outline(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 5)))
    assert {parameter.untyped_storage().nbytes() for parameter in network.parameters()} == {4}


def test_a_network_that_cannot_be_copied_is_refused() -> None:
    network = classifier(nn.Conv2d(1, 2, 3))
    network.doubled = network.get_parameter("conv.weight") * 2
    with pytest.raises(InputError, match=r"the network \(Sequential\) cannot be copied: Only Tensors created"):
        outline(network)


def test_weights_in_an_outline_are_zeros() -> None:
    """Zeros: no value that lies about in the memory decides whether a network is refused."""

    def forward(net: Any, images: Tensor) -> Tensor:
        with torch.no_grad():
            net.conv.weight.clamp_(min=0)
        scores: Tensor = net.turn(net.conv(images).mean((2, 3)))
        assert scores.isfinite().all()
        assert not net.conv.weight.any()
        return scores

    turn = nn.utils.parametrizations.orthogonal(nn.Linear(2, 2), orthogonal_map="cayley")
    assert calls(Net(forward, conv=nn.Conv2d(1, 2, 3), turn=turn), 1).keys() == {"conv", "turn"}
