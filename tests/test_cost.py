import pytest
import torch
from torch import nn

from rescaler.method.cost import bounds, multiplications
from rescaler.method.trace import outline, trace


def macs(network: nn.Module, image_px: int, channels: int) -> dict[str, int]:
    calls = trace(outline(network), channels, image_px, argument="image_px").calls
    return {name: multiplications(network.get_submodule(name), call) for name, call in calls.items()}


@pytest.mark.parametrize(
    ("convolution", "expected"),
    [
        (nn.Conv2d(3, 8, 5), 3 * 5 * 5 * 6 * 6 * 8),  # Eq. 3 as it stands: (10 - 5 + 1)² positions
        (nn.Conv2d(3, 8, 3, padding=1), 3 * 3 * 3 * 10 * 10 * 8),
        (nn.Conv2d(3, 8, 3, stride=2), 3 * 3 * 3 * 4 * 4 * 8),
        (nn.Conv2d(3, 8, (1, 7)), 3 * 7 * 10 * 4 * 8),
        (nn.Conv2d(3, 9, 3, groups=3), 1 * 3 * 3 * 8 * 8 * 9),  # each kernel sees one channel
    ],
)
def test_a_convolution_multiplies_as_counted_by_hand(convolution: nn.Conv2d, expected: int) -> None:
    assert macs(nn.Sequential(convolution), 10, 3) == {"0": expected}


def test_a_fully_connected_layer_multiplies_once_a_weight() -> None:
    assert macs(nn.Sequential(nn.Flatten(), nn.Linear(48, 7)), 4, 3) == {"1": 48 * 7}


class Twice(nn.Module):
    """Calls one layer on a map of 6x6 and on one of 3x3."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.conv(torch.nn.functional.avg_pool2d(self.conv(images), 2))
        return output


def test_a_shared_layer_counts_at_every_call() -> None:
    assert macs(Twice(), 6, 2) == {"conv": 2 * 2 * 9 * (36 + 9)}


def test_bounds_are_equation_4s() -> None:
    # s = 3 / 2: 2.25 and 5.0625, as Table 1 has them for 3x3 -> 2x2.
    assert bounds(81 * 16, 1.5) == (256, 576)
