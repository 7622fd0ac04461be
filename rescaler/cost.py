"""What a network costs, counted rather than timed."""

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def multiplications(network: nn.Module, channels: int, image_px: int) -> int:
    """Multiplications of one image's forward pass through convolutions and fully-connected layers (Eq. 3).

    Counted on the meta device, where nothing is computed.
    """
    twin = copy.deepcopy(network).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        twin(torch.empty(1, channels, image_px, image_px, device="meta"))
    return int(counter.get_total_flops()) // 2
