"""What a layer costs: its multiplications, and what shrinking saves of them (Gusmão et al., Eq. 3 and 4)."""

from torch import Tensor, nn

from rescaler.method.trace import Call


def multiplications(layer: nn.Module, call: Call) -> int:
    """Multiplications of one image's forward pass through a layer, over all its calls (Eq. 3).

    Each weight meets the input once at every output position. Eq. 3 counts those as (h - k + 1)², without stride or
    padding; here they are read from the traced feature map, and a grouped convolution has fewer weights by itself.
    """
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.numel() * call.positions


def bounds(target_macs: int, scale: float) -> tuple[float, float]:
    """Eq. 4: the pre-train layer has more multiplications than the first and at most the second.

    Args:
        target_macs: multiplications of the target's layer.
        scale: Table 1's s, ratio of the kernels' sides.
    """
    return target_macs / scale**4, target_macs / scale**2
