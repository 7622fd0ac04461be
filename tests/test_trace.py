import pytest
import torch
from networks import classifier
from torch import Tensor, nn

from rescaler.errors import InputError
from rescaler.method.trace import outline, trace


def test_positions_are_where_weights_are_applied() -> None:
    """Times the number of weights, these are a layer's multiplications (Eq. 3)."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3, padding=1)
            self.up = nn.ConvTranspose2d(2, 2, 4, stride=4)
            self.pointwise, self.scores = nn.Linear(2, 5), nn.Linear(5, 3)

        def forward(self, images: Tensor) -> Tensor:
            maps = self.conv(images) + self.conv(images)
            maps = maps + self.conv(maps[:, :, ::2, ::2]).repeat(1, 1, 2, 2)
            maps = self.pointwise(self.up(maps).permute(0, 2, 3, 1))
            scores: Tensor = self.scores(maps.mean((1, 2)))
            return scores

    calls = trace(outline(Net()), 2, 8, argument="image_px").calls
    assert {name: (call.positions, call.times) for name, call in calls.items()} == {
        "conv": (64 + 64 + 16, 3),
        "up": (64, 1),
        "pointwise": (32 * 32, 1),
        "scores": (1, 1),
    }
    assert calls["conv"].input == (2, 8, 8)


def test_images_folded_into_the_batch_are_counted() -> None:
    class Quarters(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.scores = nn.Conv2d(1, 2, 3, padding=1), nn.Linear(2, 3)
            self.shift = nn.Linear(2, 3)

        def forward(self, images: Tensor) -> Tensor:
            quarters = images.unfold(2, 4, 4).unfold(3, 4, 4).reshape(-1, 1, 4, 4)
            scores = self.scores(self.conv(quarters).mean((2, 3))).reshape(len(images), 4, 3)
            result: Tensor = scores.mean(1) + self.shift(torch.ones(2))
            return result

    calls = trace(outline(Quarters()), 1, 8, argument="image_px").calls
    assert {name: call.positions for name, call in calls.items()} == {"conv": 8 * 8, "scores": 4, "shift": 1}


def test_constants_that_are_no_buffers_do_not_matter() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean = torch.zeros(1, 3, 1, 1)
            self.conv = nn.Conv2d(6, 4, 3)

        def forward(self, images: Tensor) -> Tensor:
            images = (images - self.mean) / torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)
            maps: Tensor = self.conv(torch.cat([images, self.mean.expand(2, 3, 8, 8)], 1))
            return maps.mean((2, 3))

    assert trace(outline(Net()), 3, 8, argument="image_px").calls["conv"].output == (4, 6, 6)


def test_a_network_that_cannot_be_copied_is_refused() -> None:
    network = classifier(nn.Conv2d(1, 2, 3))
    network.doubled = network.get_parameter("conv.weight") * 2
    with pytest.raises(
        InputError, match=r"the network \(Sequential\) cannot be copied: Only Tensors created explicitly"
    ):
        outline(network)


def test_what_a_network_computes_from_its_weights_is_the_same_each_time() -> None:
    """Zeros: no value that lies about in the memory decides whether a network is refused."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)
            self.turn = nn.utils.parametrizations.orthogonal(nn.Linear(2, 2), orthogonal_map="cayley")

        def forward(self, images: Tensor) -> Tensor:
            with torch.no_grad():
                self.conv.weight.clamp_(min=0)
            scores: Tensor = self.turn(self.conv(images).mean((2, 3)))
            assert scores.isfinite().all()
            assert not self.conv.weight.any()
            return scores

    assert trace(outline(Net()), 1, 8, argument="image_px").calls.keys() == {"conv", "turn"}


def test_a_parameter_may_be_written_to() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.scale = nn.Parameter(torch.ones(4, 1, 1))

        def forward(self, images: Tensor) -> Tensor:
            self.conv.weight.data.clamp_(-1, 1)
            maps: Tensor = self.conv(images) * self.scale.data.clamp_(min=0)
            return maps.mean((2, 3))

    assert trace(outline(Net()), 3, 8, argument="image_px").calls["conv"].output == (4, 6, 6)
