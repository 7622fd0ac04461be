"""The benchmark of the paper's networks, as on a machine that has torch and torchvision alone."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from benchmarks.paper_networks import NETWORKS, multiplications
from rescaler.measure import Spread
from rescaler.results.paper import TABLES

ROOT = Path(__file__).parent.parent

BARE = """
import sys
# A module that is None there cannot be imported.
sys.modules.update(dict.fromkeys(("hydra", "omegaconf", "rich", "pandas", "matplotlib", "wandb", "requests", "yaml")))
from benchmarks import even_kernels, gpu, paper_networks
even_kernels.ROUND_S["cpu"], even_kernels.WARM_UP = 0, 1
paper_networks.ROUND_S, paper_networks.WARM_UP_BATCHES = {"device": 0, "files": 0}, 1
"""


def run_bare(code: str, *arguments: object) -> str:
    """Run code after ``BARE`` in a process of its own, and return what it prints."""
    command = [sys.executable, "-c", BARE + code, *map(str, arguments)]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_it_runs_with_torch_alone(tmp_path: Path) -> None:
    out = run_bare(
        """
options = "--networks demo --device cpu --batch 1 --images 2 --rounds 1".split()
paper_networks.main([*options, "--precisions", "fp32", "--out", sys.argv[1]])
paper_networks.main([*options, "--minutes", "0"])
""",
        tmp_path / "r.json",
    )
    assert "Where the target is fastest" in out
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["device"]
    assert report["torch"]
    rows = report["results"]
    assert [(row["precision"], row["memory_format"], row["compiled"], row["n"]) for row in rows] == [
        ("fp32", "channels_last", False, 1),
        ("fp32", "contiguous", False, 1),
    ]
    for row in rows:
        speed = {name: value["median"] for name, value in row["images_per_s"].items()}
        assert speed.keys() == {"target", "pretrain", "input_only"}
        faster = row["times_faster"]["pretrain"]["median"]
        assert faster == pytest.approx(speed["pretrain"] / speed["target"])
        assert row["saved_fraction"]["pretrain"]["median"] == pytest.approx(17 / 55 * (1 - 1 / faster))
        for clocks in row["share_of_time_by_clock"].values():
            assert sum(clocks.values()) == pytest.approx(1)
        assert row["imagenet_epochs_per_h"]["target"] == pytest.approx(3600 * speed["target"] / 1_281_167)
        assert row["share_of_peak"]["target"] is None, "nobody told this CPU's"
    assert "left out: demo bf16 contiguous: no time left" in out


def test_the_papers_networks_have_the_papers_multiplications() -> None:
    found = {name: multiplications(name) for name, network in NETWORKS.items() if network.times_faster_paper}
    assert found["OverFeat-fast"]["target"] == pytest.approx(2.80e9, rel=0.01)
    assert found["OverFeat-fast"]["pretrain"] == pytest.approx(0.734e9, rel=0.01)
    # 4.36 if every map had the size of the target's: those between two even kernels are a pixel smaller, or larger.
    assert found["ResNet-34"]["target"] / found["ResNet-34"]["pretrain"] == pytest.approx(4.61, abs=0.01)
    # The same kernels on 160 of 224 pixels: the ratio of the areas, as far as strides divide them evenly.
    assert found["ResNet-34"]["target"] / found["ResNet-34"]["input_only"] == pytest.approx((224 / 160) ** 2, rel=0.02)


@pytest.mark.parametrize(("name", "number"), [("OverFeat-fast", 2), ("ResNet-34", 4)])
def test_the_papers_hours_are_those_of_its_tables(name: str, number: Literal[2, 4]) -> None:
    network, (pretrain, target, resized, *_) = NETWORKS[name], TABLES[number]
    assert network.times_faster_paper == target.training_h / pretrain.training_h
    assert network.saved_paper == 1 - resized.training_h / target.training_h
    assert network.resize_epoch == resized.resize_epoch
    # Hours of the baselines' epochs, summed up, are the paper's to a percent; so what is saved follows from the speed.
    assert network.saved(Spread.of([network.times_faster_paper])).median == pytest.approx(network.saved_paper, abs=0.01)
