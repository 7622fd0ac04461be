import pytest
import torch
from networks import classifier
from torch import Tensor, nn

from rescaler.errors import InputError
from rescaler.method.shrinking import Layer, shrink


def _layer(layers: tuple[Layer, ...], name: str) -> Layer:
    return next(layer for layer in layers if layer.name == name)


@pytest.mark.parametrize(("kernel", "image_px", "expected"), [(11, 231, 147), (7, 224, 160), (5, 28, 17), (3, 32, 21)])
def test_image_side_follows_from_the_first_kernel(kernel: int, image_px: int, expected: int) -> None:
    assert shrink(classifier(nn.Conv2d(1, 2, kernel)), image_px).image_px == expected


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
    shrunk = shrink(classifier(nn.Conv2d(1, 2, 3)), 32, pretrain_px=25)
    assert shrunk.image_px == 25
    assert shrunk.layers[0].pretrain_output == (23, 23)


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


def test_every_pixel_of_the_image_is_still_seen() -> None:
    for kernel, stride in ((5, 4), (4, 4), (3, 2), (7, 5)):
        target = classifier(nn.Conv2d(1, 4, kernel, stride=stride), nn.Conv2d(4, 4, 3, padding=1))
        images = torch.randn(1, 1, 40, 40, requires_grad=True)
        shrink(target, 60).network.get_submodule("conv")(images).sum().backward()
        assert images.grad is not None
        seen = images.grad[0, 0, 2:34, 2:34]
        assert (seen != 0).all(), (kernel, stride)


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


def test_a_network_of_patches_is_refused() -> None:
    target = classifier(nn.Conv2d(3, 8, 16, stride=16), nn.Conv2d(8, 8, 1))
    with pytest.raises(InputError, match=r"Sequential has no kernel to shrink: .* conv \(16x16, stride 16\), more0"):
        shrink(target, 224)


def test_other_tables() -> None:
    layers = shrink(classifier(nn.Conv2d(1, 1, (9, 3))), 30, table={9: 3, 3: 3}).layers
    assert _layer(layers, "conv").pretrain_kernel == (3, 3)


# What covers a whole feature map.


def test_a_convolution_over_the_whole_map_takes_the_map_that_reaches_it() -> None:
    """As LeNet's C5: the same as a fully-connected layer behind a flattened map (section 3.3.2)."""
    target = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.Conv2d(2, 8, 5, groups=2), nn.Flatten(), nn.Linear(8, 3)
    )
    shrunk = shrink(target, 12, pretrain_px=9)
    assert _layer(shrunk.layers, "2") == Layer("2", "interface", (5, 5), (3, 3), (0, 0, 0, 0), (1, 1), (1, 1))
    assert shrunk.network(torch.randn(2, 1, 9, 9)).shape == (2, 3)
    assert _layer(shrink(target, 12, pretrain_px=9, padding={"2": 0}).layers, "2").kind == "convolution"


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
    assert _layer(shrunk.layers, "2") == Layer("2", "pooling", (7, 7), (5, 5), (0, 0, 0, 0), (1, 1), (1, 1))
    assert shrunk.network(torch.randn(2, 1, 19, 19)).shape == (2, 3)
    assert target(torch.randn(2, 1, 28, 28)).shape == (2, 3)  # the target's own pooling is not touched


def test_fixed_pooling_before_several_fully_connected_layers() -> None:
    head = (nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4 * 6 * 6, 10), nn.Linear(10, 3))
    shrunk = shrink(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), *head), 12)
    assert _layer(shrunk.layers, "3").pretrain_kernel == (4, 4)
    assert shrunk.network(torch.randn(2, 1, 8, 8)).shape == (2, 3)
