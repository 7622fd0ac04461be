from typing import Any

import pytest
import torch
from docs_blocks import blocks, follow
from torch import Tensor

BLOCKS = blocks("your_own_loop.md")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def loops(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the plain loop and torchrun left, and what the plain one printed."""
    folder = tmp_path_factory.mktemp("loop")
    lightning = next(number for number, (_, text) in enumerate(BLOCKS) if text.startswith("# with_lightning.py"))
    printed = follow([*BLOCKS[1:lightning], *BLOCKS[lightning + 2 :]], folder)  # the first one is the set-up
    return {"folder": folder, "printed": printed[0], **{file.stem: torch.load(file) for file in folder.glob("*.pt")}}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_plain_loop_grows_its_images_and_learns(loops: dict[str, Any]) -> None:
    lines = loops["printed"].splitlines()
    assert [line.split()[4] for line in lines] == ["16"] * 4 + ["24"] * 2
    assert float(lines[-1].split()[-1]) < float(lines[0].split()[-1]) / 2


def test_lightning_trains_the_same_network(loops: dict[str, Any]) -> None:
    pytest.importorskip("lightning.pytorch", reason="pip install 'rescaler[lightning]'")
    lightning = [number for number, (_, text) in enumerate(BLOCKS) if "with_lightning.py" in text]
    follow([BLOCKS[number] for number in lightning], loops["folder"])
    assert equal(torch.load(loops["folder"] / "lightning.pt"), loops["plain"])


def test_all_processes_of_torchrun_have_the_same_weights(loops: dict[str, Any]) -> None:
    learnt = [name for name in loops["ddp0"] if "running" not in name]
    assert equal(*({name: loops[rank][name] for name in learnt} for rank in ("ddp0", "ddp1")))
    assert loops["ddp0"].keys() == loops["plain"].keys()
