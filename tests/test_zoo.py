"""Torchvision's classification networks, one of each family with real numbers and all of them by their shapes."""

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from rescaler.errors import InputError
from rescaler.method.rescaling import rescale
from rescaler.method.shrinking import shrink
from rescaler.models import loss_and_scores

FAMILIES = {
    "alexnet": 112,
    "vgg11": 64,
    "resnet18": 64,
    "wide_resnet50_2": 64,
    "resnext50_32x4d": 64,
    "densenet121": 64,
    "squeezenet1_1": 64,
    "shufflenet_v2_x0_5": 64,
    "mobilenet_v2": 64,
    "mobilenet_v3_small": 64,
    "mnasnet0_5": 64,
    "googlenet": 64,
    "inception_v3": 299,
    "efficientnet_b0": 64,
    "efficientnet_v2_s": 64,
    "regnet_y_400mf": 64,
    "regnet_x_400mf": 64,
    "convnext_tiny": 64,
}
"""Smallest member of each -> side of its images, in pixels."""

TABLE = runpy.run_path(str(Path(__file__).parent.parent / "benchmarks" / "networks_table.py"))
WITHOUT_VALUES = TABLE["without_values"]
ON_META = [name for name in models.list_models(module=models) if name not in FAMILIES]

_REFUSALS = {
    "vit": r"^VisionTransformer has no kernel to shrink: .* leave pixels out: conv_proj \(\d+x\d+, stride \d+\)$",
    "swin": r"^SwinTransformer has no kernel to shrink: .* leave pixels out: features\.0\.0 \(4x4, stride 4\)$",
    "maxvit": r"^pretrain_px=149 does not suit the network: in or after layer .*partition_op\" \(64x38x38 input\)",
}


def _make(name: str) -> nn.Module:
    options: dict[str, Any] = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    network: nn.Module = models.get_model(name, num_classes=10, **options)
    return network


def _train_a_step(network: nn.Module, image_px: int) -> Tensor:
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    loss, scores = loss_and_scores(network(torch.randn(2, 3, image_px, image_px)), torch.tensor([1, 2]))
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    assert scores.shape == (2, 10)
    assert all(parameter.sum().isfinite() for parameter in network.parameters())
    return loss


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_trains_small_is_rescaled_and_trains_on(name: str) -> None:
    torch.manual_seed(0)
    target, image_px = _make(name), FAMILIES[name]
    shrunk = shrink(target, image_px)
    assert list(shrunk.network.state_dict()) == list(target.state_dict())
    assert shrunk.image_px < 0.75 * image_px
    _train_a_step(shrunk.network, shrunk.image_px)
    _train_a_step(rescale(shrunk.network, target), image_px)
    with WITHOUT_VALUES():
        fresh = _make(name)
    fresh.load_state_dict(target.state_dict(), strict=True, assign=True)
    for module, other in zip(target.modules(), fresh.modules(), strict=True):
        assert type(module) is type(other)
        assert module.__dict__.keys() == other.__dict__.keys()
        assert not module._forward_pre_hooks
        assert not module._forward_hooks


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_META)
def test_every_other_network_by_its_shapes(name: str) -> None:
    with WITHOUT_VALUES():
        target = _make(name)
    if name.startswith(("vit", "swin", "maxvit")):
        with pytest.raises(InputError, match=_REFUSALS[name.partition("_")[0]]):
            shrink(target, 224)
        return
    shrunk = shrink(target, 224)
    assert shrunk.image_px in (149, 160)
    for layer in shrunk.layers:  # a pixel more or less by each stride of 2
        expected = layer.target_output[0] * shrunk.image_px / 224
        assert layer.kind == "convolution"
        assert abs(layer.pretrain_output[0] - expected) < 2
    rescale(shrunk.network, target)
