from collections.abc import Callable

import pytest
import torch
from networks import classifier
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import squeezenet1_1

from rescaler.method.description import Description, describe, quantity
from rescaler.method.shrinking import shrink
from rescaler.models import overfeat_fast, overfeat_small, resnet18, resnet34, vgg_small


def on_meta(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return make()


@pytest.fixture(scope="module")
def overfeat() -> Description:
    return describe(on_meta(overfeat_fast), 231)


def test_overfeat_fast_has_the_papers_multiplications(overfeat: Description) -> None:
    assert overfeat.target_macs / 1e9 == pytest.approx(2.80, abs=0.005)
    assert overfeat.pretrain_macs / 1e9 == pytest.approx(0.734, abs=0.0005)
    assert overfeat.ratio == pytest.approx(3.8, abs=0.05)
    assert (overfeat.target_px, overfeat.pretrain_px) == (231, 147)
    assert overfeat.target_parameters / 1e6 == pytest.approx(146, abs=0.5)
    conv5, fc6 = (next(layer for layer in overfeat.layers if layer.name == name) for name in ("conv5", "fc6"))
    assert (conv5.target_padding, conv5.pretrain_padding) == ((1, 1, 1, 1), (0, 0, 0, 0))
    assert (conv5.target_output, conv5.pretrain_output) == ((12, 12), (9, 9))
    assert conv5.target_macs == 1024 * 1024 * 9 * 144
    assert conv5.pretrain_macs == 1024 * 1024 * 4 * 81
    assert (fc6.kind, fc6.target_kernel, fc6.pretrain_kernel) == ("interface", (6, 6), (4, 4))
    assert fc6.scale == fc6.target_kernel[0] / fc6.pretrain_kernel[0] == 1.5
    assert fc6.ratio == pytest.approx(2.25), "a kernel as large as its map is the lower end of Eq. 4"


@pytest.mark.parametrize("make", [overfeat_small, resnet18])
def test_totals_are_those_that_torch_counts(make: Callable[[], nn.Module]) -> None:
    target = on_meta(make)
    image_px, channels = (28, 1) if make is overfeat_small else (224, 3)
    described = describe(target, image_px)
    pretrain = shrink(target, image_px)
    counted = []
    for network, px in ((target, image_px), (pretrain.network, pretrain.image_px)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.empty(1, channels, px, px, device="meta"))
        counted.append(counter.get_total_flops() / 2)
    assert [described.target_macs, described.pretrain_macs] == counted


@pytest.mark.parametrize(
    ("make", "image_px", "note"),
    [
        (vgg_small, 28, "0 of 2 even kernels copy their map to pad it."),
        (resnet18, 224, "0 of 16 even kernels copy their map to pad it."),
        (overfeat_fast, 231, "0 of 3 even kernels copy their map to pad it."),
        # The 3x3 convolution of each of eight Fire modules stands alone beside a 1x1 convolution, whose map must have
        # the size of its own.
        (squeezenet1_1, 224, "8 of 9 even kernels copy their map to pad it."),
    ],
)
def test_maps_that_even_kernels_still_copy_are_counted(make: Callable[[], nn.Module], image_px: int, note: str) -> None:
    described = describe(on_meta(make), image_px)
    assert note in str(described).splitlines()
    hooks = [module for module in shrink(on_meta(make), image_px).network.modules() if module._forward_pre_hooks]
    assert int(note.split()[0]) == len(hooks)


def test_equation_4_bounds_a_layer_without_padding() -> None:
    # 4x4 -> 2x2 on 16x16 -> 8x8: 13² * 16 = 2,704 multiplications become 7² * 4 = 196.
    (layer,) = describe(nn.Sequential(nn.Conv2d(1, 1, 4)), 16, table={4: 2}, padding={"0": 0}).layers
    assert (layer.target_macs, layer.pretrain_macs) == (2704, 196)
    assert layer.scale == 2
    assert layer.bounds_macs == (169, 676)
    assert layer.bounds_macs[0] < layer.pretrain_macs <= layer.bounds_macs[1]
    row = describe(classifier(nn.Conv2d(1, 2, (1, 7))), 28).layers[0]
    assert row.scale**2 == pytest.approx(7 / 5), "the ratio of areas"


def test_layers_that_are_alike_share_a_row_and_shared_ones_count_at_every_call() -> None:
    conv = nn.Conv2d(2, 2, 3, padding=1)
    described = describe(
        nn.Sequential(conv, nn.MaxPool2d(2), conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 7)), 6
    )
    assert {layer.name: layer.target_macs for layer in described.layers} == {"0": 2 * 2 * 9 * (36 + 9), "5": 2 * 7}
    names = ["conv1", "conv2", "conv3", "fc4", "fc5", "total"]
    assert [row[0] for row in describe(overfeat_small(), 28).table().rows] == names


def test_a_long_network_is_a_short_table() -> None:
    resnet = describe(on_meta(resnet34), 224)
    text = str(resnet)
    assert "layer1.0.conv1 and 2 more" in text
    assert "3x3 -> 2x2" in text
    assert len(resnet.layers) == 37
    assert len(resnet.table().rows) == 20
    assert len(resnet.table(every=True).rows) == 37 + 1
    assert max(map(len, text.splitlines())) < 200
    assert "copy their map" not in str(describe(on_meta(resnet18), 224, input_only=True)), "no kernel is even"


def test_quantities_have_three_digits() -> None:
    values = {2801403904: "2.80 G", 733843968: "734 M", 999_700: "1.00 M", 23_400: "23.4 k", 12: "12", 1e12: "1000 G"}
    assert list(map(quantity, values)) == list(values.values())
