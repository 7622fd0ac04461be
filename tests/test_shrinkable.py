from typing import Any

import pytest
import torch
from networks import classifier, two_layers
from torch import nn

from rescaler.errors import InputError
from rescaler.method.shrinking import shrink


def test_what_is_no_convolutional_network_is_refused() -> None:
    with pytest.raises(InputError, match=r"the target network \(Linear\) has no Conv2d"):
        shrink(nn.Linear(3, 3), 9)
    not_a_network: Any = "resnet34"
    with pytest.raises(InputError, match="must be a torch.nn.Module; got a str"):
        shrink(not_a_network, 9)


def test_half_precision_is_shrunk_in_its_own_dtype() -> None:
    network = shrink(two_layers().bfloat16(), 9).network
    assert {parameter.dtype for parameter in network.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64, torch.float8_e4m3fn], ids=str)
def test_other_dtypes_are_refused_by_layer(dtype: torch.dtype) -> None:
    target = two_layers()
    conv = target.get_submodule("conv2")
    conv.weight = nn.Parameter(torch.zeros(5, 4, 3, 3).to(dtype), requires_grad=False)
    with pytest.raises(
        InputError, match=rf"layer conv2 has weights of {dtype}; kernels are shrunk in torch\.float32, "
    ):
        shrink(target, 9)


def test_a_lazy_layer_is_refused() -> None:
    with pytest.raises(InputError, match="layer 1 has no weights yet: call the network once, on images of the target"):
        shrink(nn.Sequential(nn.Conv2d(1, 2, 3), nn.LazyConv2d(2, 3)), 9)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("layer", ["conv1", "conv2", "fc"])
@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm], ids=["hook", "new"])
def test_computed_weights_are_refused_by_layer(norm: Any, layer: str) -> None:
    target = two_layers()
    norm(target.get_submodule(layer))
    with pytest.raises(InputError, match=f"layer {layer}: its weight is computed"):
        shrink(target, 9)


def test_computed_weights_of_what_stays_are_no_matter() -> None:
    target = classifier(nn.Conv2d(1, 2, 3), nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 2, 1)))
    assert shrink(target, 9).network(torch.randn(2, 1, 6, 6)).shape == (2, 3)
