import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rescaler.data import DATA_SETS, load_data, readers
from rescaler.errors import InputError
from rescaler.settings import DataSettings

CPU = torch.device("cpu")
SETTINGS = DataSettings(
    name="synthetic", image_px=8, classes=2, mean=[0.5], std=[0.25], train_images=20, test_images=10
)


def test_a_sweep_loads_once() -> None:
    data = load_data(SETTINGS, CPU)
    assert load_data(replace(SETTINGS), CPU) is data
    assert load_data(replace(SETTINGS, train_images=30), CPU).train_count == 30


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"data\.name must be one of fashion_mnist, .*synthetic; got 'mnist'"):
        load_data(replace(SETTINGS, name="mnist"), CPU)


@pytest.mark.parametrize("name", [name for name in DATA_SETS if name != "synthetic"])
def test_every_name_has_a_loader(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "DEBIAN_FOLDER", tmp_path / "nowhere")
    occupied = tmp_path / "file"
    occupied.write_text("no folder can be here, so nothing is read or downloaded")
    settings = replace(SETTINGS, name=name, folder=str(occupied), channels=3, mean=[0.5] * 3, std=[0.25] * 3)
    with pytest.raises(InputError, match=str(occupied)):
        load_data(settings, CPU)


def test_names_need_no_torch() -> None:
    code = "import sys, rescaler.data; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
