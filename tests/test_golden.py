"""Numbers that only move when ``NUMERICS`` does.

If a test here fails, a change moved the numbers of training: raise NUMERICS, and note old -> new in the CHANGELOG.
"""

from typing import Any

import pytest
from bench import RESNET, Bench
from conftest import MakeExperiment
from image_tree import plant
from torch import Tensor, nn
from torchvision.models import GoogLeNetOutputs

from rescaler.chain import NUMERICS
from rescaler.config import DataSettings
from rescaler.record import Record


class Auxiliary(nn.Module):
    """A network with two auxiliary classifiers in training, as GoogLeNet."""

    def __init__(self, num_classes: int, in_channels: int = 1) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(in_channels, 8, 5, stride=2, padding=2), nn.ReLU())
        self.middle = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.heads = nn.ModuleList(nn.Linear(8, num_classes) for _ in range(3))

    def forward(self, images: Tensor) -> Tensor | GoogLeNetOutputs:
        early = self.stem(images)
        late = self.middle(early)
        scores = [head(features.mean((2, 3))) for head, features in zip(self.heads, (late, late, early), strict=True)]
        return GoogLeNetOutputs(*scores) if self.training else scores[0]


RECIPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "resnet": {
        "model": RESNET,
        "rescale__interpolation": "fit",
        "rescale__recalibrate": True,
        "rescale__calibration_batches": 3,
        "rescale__warmup_batches": 4,
        "optim__ema_decay": 0.9,
        "optim__label_smoothing": 0.1,
        "schedule__rule": "cosine",
        "schedule__learning_rates": [0.03],
        "schedule__milestones": [],
        "schedule__warmup_epochs": 1,
        "data__pad_px": 2,
        "data__flip": True,
    },
    "auxiliary": {
        "model": {"_target_": f"{__name__}.Auxiliary"},
        "rescale__interpolation": "pinv",
        "rescale__optimizer_state": "reset",
        "optim__nesterov": True,
        "schedule__rule": "one_cycle",
        "schedule__learning_rates": [0.1],
        "schedule__milestones": [],
        "schedule__warmup_epochs": 2,
        "step__micro_batch_size": 5,
    },
    "files": {
        "model__dropout": 0.0,
        "model__image_px": 32,
        "optim__batch_size": 4,
        "schedule__batches_per_epoch": 2,
        "schedule__learning_rates": [0.03, 0.01],
    },
}
GOLDEN = {
    "plain": (
        [1.388174, 1.370968, 1.207783, 0.727875, 0.629355, 0.512899],
        [1.379403, 1.342624, 0.801856, 0.230389, 0.245622, 0.105479],
    ),
    "resnet": (
        [1.436246, 1.320663, 1.128429, 0.978118, 0.889258, 0.843473],
        [1.381962, 1.245741, 1.036713, 0.837777, 0.741488, 0.721721],
    ),
    "auxiliary": (
        [2.236976, 2.223409, 2.217360, 2.186986, 2.071096, 1.818899],
        [1.385768, 1.383426, 1.376864, 1.321836, 1.107468, 0.974106],
    ),
    "files": (
        [0.712954, 0.696605, 0.683977, 0.694091, 0.693601, 0.690469],
        [0.697058, 0.694911, 0.694029, 0.693005, 0.692702, 0.692576],
    ),
}
"""Mean training loss and test loss of each epoch."""
TOLERANCE = {"plain": 1e-4, "resnet": 2e-3, "auxiliary": 1e-4, "files": 3e-4}
"""Processors differ in the last bits of the initial weights and of every sum; a fit and a resize make more of it."""


def losses(records: list[Record]) -> tuple[list[float], list[float]]:
    return [record.train_loss for record in records], [record.test_loss for record in records]


@pytest.mark.parametrize("name", RECIPES)
def test_losses_are_those_of_this_numerics_version(bench: Bench, make_experiment: MakeExperiment, name: str) -> None:
    changes = {"schedule__batches_per_epoch": 20, **RECIPES[name]}
    if name == "files":
        tree = str(plant(bench.folder / "tree"))
        changes["data"] = DataSettings(
            "imagenet", tree, image_px=32, classes=2, channels=3, mean=[0.5] * 3, std=[0.2] * 3
        )
    trained, tested = losses(bench.train(make_experiment(**changes)))
    assert NUMERICS == 4
    assert trained == pytest.approx(GOLDEN[name][0], rel=TOLERANCE[name])
    assert tested == pytest.approx(GOLDEN[name][1], rel=TOLERANCE[name])
