"""One training step, and what it must not wait for."""

import subprocess
import sys

STEP = """
import sys
import torch
from rescaler.chain import Recipe
from rescaler.models import overfeat_small
from rescaler.state import State
from rescaler.step import TrainingStep

recipe = Recipe(
    image_px=17, layers=(), rescale=None, learning_rate=0.1, learning_rate_end=0.1, weight_decay=1e-4, momentum=0.9,
    nesterov=False, label_smoothing=0.1, ema_decay=0.9, batch_size=8, micro_batch_size=4, batches=1, precision="fp16",
    memory_format="channels_last", optimizer="fused", compile=None, device_type="cpu",
)
state = State(overfeat_small())
state.prepare(recipe)
TrainingStep(state, recipe)(torch.randn(8, 1, 28, 28), torch.arange(8), 0.1, 1)
assert "torch._dynamo" not in sys.modules
"""


def test_no_step_imports_the_compiler() -> None:
    """Which takes seconds, and would count as training."""
    finished = subprocess.run([sys.executable, "-c", STEP], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
