"""The benchmark of the paper's networks, as on a machine that has torch and torchvision alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

BARE = """
import sys
# A module that is None there cannot be imported.
sys.modules.update(dict.fromkeys(("hydra", "omegaconf", "rich", "pandas", "matplotlib", "wandb", "requests", "yaml")))
from rescaler import probe
probe._ROUND_S, probe._WARM_UP_STEPS = 0, 1
from benchmarks.paper_networks import main
options = "--networks ResNet-34 --device cpu --batch 1 --rounds 1".split()
main([*options, "--precisions", "fp32", "--out", sys.argv[1]])
main([*options, "--minutes", "0"])
"""


def test_it_runs_with_torch_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BARE, str(tmp_path / "r.json")]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert "the paper: 2.56" in finished.stdout
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["device"]
    assert report["torch"]
    assert report["networks"]["ResNet-34"]["times_fewer_multiplications"]["pretrain"] == pytest.approx(4.36, abs=0.01)
    rows = report["results"]
    assert [(row["precision"], row["memory_format"], row["compiled"], row["n"]) for row in rows] == [
        ("fp32", "channels_last", False, 1),
        ("fp32", "contiguous", False, 1),
    ]
    for row in rows:
        speed = {name: value["median"] for name, value in row["images_per_s"].items()}
        assert speed.keys() == {"target", "pretrain", "input_only"}
        faster = row["times_faster"]["pretrain"]["step"]["median"]
        assert faster == pytest.approx(speed["pretrain"] / speed["target"])
    assert "left out: ResNet-34 bf16 contiguous: no time left" in finished.stdout
