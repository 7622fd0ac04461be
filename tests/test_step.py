"""One training step, and what it must not wait for."""

import subprocess
import sys
from pathlib import Path

import pytest

STEP = """
import sys
import torch
from rescaler.training.chain import Recipe
from rescaler.models import overfeat_small
from rescaler.training.state import State
from rescaler.training.step import TrainingStep

recipe = Recipe(
    image_px=17, layers=(), rescale=None, learning_rate=0.1, learning_rate_end=0.1, weight_decay=1e-4, momentum=0.9,
    nesterov=False, label_smoothing=0.1, ema_decay=0.9, batch_size=8, micro_batch_size=4, batches=1, precision="fp16",
    memory_format="channels_last", cudnn_benchmark=False, optimizer="fused", compile=None, device_type="cpu",
)
state = State(overfeat_small())
state.prepare(recipe)
TrainingStep(state, recipe)(torch.randn(8, 1, 28, 28), torch.arange(8), 0.1, 1)
"""
RUN = """
import sys
from pathlib import Path
from rescaler.data import readers
from rescaler.running.execution import execute
from rescaler.settings import *

execute(
    Experiment(
        model={"_target_": "rescaler.models.overfeat_small"},
        shrink=ShrinkSettings(table={1: 1, 3: 2, 5: 3}),
        data=DataSettings("synthetic", mean=[0.5], std=[0.5], train_images=64, test_images=8),
        schedule=ScheduleSettings(epochs=2, batches_per_epoch=1, learning_rates=[0.01]),
        optim=OptimSettings(batch_size=8),
        rescale=RescaleSettings(interpolation="fit"),
        resize_epoch=1,
        device="cpu",
        progress=False,
    ),
    Path("run"),
    group="",
)
"""
ABSENT = """
absent = {"torch._dynamo", "sympy", "torchvision", "pandas", "matplotlib", "wandb"}
assert not absent & sys.modules.keys(), absent & sys.modules.keys()
"""


@pytest.mark.parametrize("code", [STEP, RUN], ids=["any step", "a run with a resize"])
def test_training_imports_nothing_slow(tmp_path: Path, code: str) -> None:
    """Torch's compiler takes seconds to import, which would count as training; so does what only others need."""
    finished = subprocess.run(
        [sys.executable, "-c", code + ABSENT], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
