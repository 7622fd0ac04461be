"""Small networks that several tests shrink or train."""

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rescaler.models import overfeat_small


def classifier(conv: nn.Conv2d, *rest: nn.Module) -> nn.Sequential:
    """The convolution, global pooling and a fully-connected layer: takes images of any size."""
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(conv.out_channels, 3))
    return nn.Sequential(OrderedDict(conv=conv, **{f"more{i}": m for i, m in enumerate((*rest, *head))}))


def two_layers(image_px: int = 9) -> nn.Sequential:
    """3x3 convolutions without padding, then the interface: 9 px give 5x5 maps, 6 px (pre-train) give 4x4 maps."""
    side = image_px - 4
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(2, 4, 3),
            relu=nn.ReLU(),
            conv2=nn.Conv2d(4, 5, 3),
            flatten=nn.Flatten(),
            drop=nn.Dropout(),
            fc=nn.Linear(5 * side**2, 3),
        )
    )


class Net(nn.Module):
    """Layers by name, called as a function says."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **layers: nn.Module) -> None:
        super().__init__()
        self._forward = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, images: Tensor) -> Any:
        return self._forward(self, images)


def conv(c_in: int, c_out: int, side: int = 3, **settings: Any) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, side, padding=side // 2, **settings)


class ExtraState(nn.Sequential):
    """Keeps what is no tensor in its state."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        conv = nn.Conv2d(in_channels, 2, 3, padding=1)
        super().__init__(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, num_classes))
        self.calls = 0

    def get_extra_state(self) -> int:
        return self.calls

    def set_extra_state(self, state: int) -> None:
        self.calls = state


class Pause(nn.Module):
    """Has each training step take ``BATCH_S`` seconds of the environment, and notes it in the file ``steps.txt``.

    A line is the process and the SLURM job of a step. Numbers are those of a network without it.
    """

    def __init__(self, scratch_gb: float) -> None:
        super().__init__()
        self._scratch_gb = scratch_gb

    def forward(self, maps: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled() and "BATCH_S" in os.environ:  # no step is without
            job = os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ.get("SLURM_JOB_ID", "")
            task = os.environ.get("SLURM_ARRAY_TASK_ID")
            with Path("steps.txt").open("a") as file:
                file.write(f"{os.getpid()} {job}{f'_{task}' if task else ''}\n")
            torch.empty(int(self._scratch_gb * 2**30), dtype=torch.uint8)
            time.sleep(float(os.environ["BATCH_S"]))
        return maps


def slow(
    num_classes: int, in_channels: int, image_px: int, widths: Sequence[int] = (4, 8, 8), scratch_gb: float = 0
) -> nn.Module:
    """A small OverFeat whose training can be slowed down, without dropout; it may ask for much memory in vain."""
    time.sleep(float(os.environ.get("BUILD_S", "0")))
    network = overfeat_small(num_classes, in_channels, image_px, widths, hidden=16, dropout=0.0)
    return nn.Sequential(OrderedDict(network=network, pause=Pause(scratch_gb)))


class _Fickle(nn.Module):
    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv, self.calls = nn.Conv2d(in_channels, num_classes, 5, padding=2), 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        scores: Tensor = self.conv(images).mean((2, 3))
        return scores * (1 if self.calls % 7 else 2)


def fickle(num_classes: int, in_channels: int) -> nn.Module:
    """Changes its mind every few calls, so that torch.compile must begin again."""
    return _Fickle(num_classes, in_channels)
