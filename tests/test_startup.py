"""What a training must not wait for."""

import subprocess
import sys
from pathlib import Path

RUN = """
import sys
from pathlib import Path
from rescaler.config import *
from rescaler.execution import execute

execute(
    Experiment(
        model={"_target_": "rescaler.models.overfeat_small"},
        shrink=ShrinkSettings(table={1: 1, 3: 2, 5: 3}),
        data=DataSettings("synthetic", mean=[0.5], std=[0.5], train_images=64, test_images=8),
        schedule=ScheduleSettings(epochs=2, batches_per_epoch=1, learning_rates=[0.01]),
        optim=OptimSettings(batch_size=8, ema_decay=0.9),
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


def test_training_imports_nothing_slow(tmp_path: Path) -> None:
    """Torch's compiler takes seconds to import, which would count as training; so does what only others need."""
    finished = subprocess.run(
        [sys.executable, "-c", RUN + ABSENT], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
