import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from docs_blocks import ENVIRONMENT, blocks, follow
from PIL import Image

BLOCKS = blocks("your_own.md")
pytestmark = pytest.mark.slow


def paint(folder: Path) -> None:
    """Pictures of 32x32 px, one colour a class with noise: eight of each to train on, four to test."""
    generator = torch.Generator().manual_seed(0)
    for number, name in enumerate(("red", "green", "blue")):
        for split, count in (("train", 8), ("val", 4)):
            for image in range(count):
                pixels = torch.randint(0, 128, (32, 32, 3), dtype=torch.uint8, generator=generator)
                pixels[..., number] += 100
                path = folder / split / name / f"{image}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.numpy()).save(path)


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder in which all blocks were run in their order, and what each command printed."""
    folder = tmp_path_factory.mktemp("own")
    paint(folder / "pictures")
    return folder, follow(BLOCKS[1:], folder)  # the first one is the set-up


def test_the_first_block_is_the_set_up() -> None:
    assert BLOCKS[0][1].startswith("make setup")
    assert [language for language, _ in BLOCKS[1:]] == ["python", "bash", "yaml", "bash", "bash", "python", "bash"]


def test_a_network_of_ones_own_is_described(followed: tuple[Path, list[str]]) -> None:
    assert "3x3 -> 2x2" in followed[1][0]


def test_a_logger_of_ones_own_has_every_epoch(followed: tuple[Path, list[str]]) -> None:
    lines = [json.loads(line) for line in (followed[0] / "epochs.jsonl").read_text().splitlines()]
    assert len(lines) == 2 + 6 * 4  # a run of two epochs, then six of four
    assert {line["seed"] for line in lines} == {0, 1}


def test_the_installed_command_finds_the_module_too(followed: tuple[Path, list[str]]) -> None:
    # -P: the folder where it starts is not on the path, as for an installed command.
    command = [sys.executable, "-P", "-m", "rescaler", "run", "--config-dir", "my_conf", "experiment=mine"]
    words = [
        *command,
        "resize_epoch=2",
        "hydra.run.dir=again",
        "logger.more=[{_target_: mine.JsonLines, path: again.txt}]",
    ]
    done = subprocess.run(words, cwd=followed[0], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len((followed[0] / "again.txt").read_text().splitlines()) == 4


def test_the_table_has_all_runs(followed: tuple[Path, list[str]]) -> None:
    table = pd.read_csv(followed[0] / "table.csv")
    assert sorted(table["seed"]) == [0, 0, 0, 0, 1, 1, 1]


def test_a_data_set_of_ones_own_is_learnt(followed: tuple[Path, list[str]]) -> None:
    assert "resnet_small on custom, 2 epochs" in followed[1][-1]
