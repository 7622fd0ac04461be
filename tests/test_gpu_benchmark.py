"""The benchmark that is prepared for a GPU, tried out on the CPU, and its 2x2 kernels beside 3x3."""

import json
from pathlib import Path

import pytest
import torch
from test_paper_networks import run_bare

from benchmarks import gpu
from benchmarks.even_kernels import BLOCKS, PAIRS, block, multiplications
from rescaler.method.description import describe
from rescaler.method.shrinking import shrink


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("px", BLOCKS[512])
def test_a_pair_keeps_the_size_of_its_map_and_copies_only_where_it_says_so(pair: str, px: int) -> None:
    network = block(pair, 2)
    assert network(torch.ones(2, 2, px, px)).shape == (2, 2, px, px)
    copying = [module for module in network.modules() if module._forward_pre_hooks]
    assert len(copying) == (2 if "copied" in pair else 0)


def test_even_kernels_are_padded_as_the_harness_does() -> None:
    shrunk = shrink(block("3x3", 2), 56, table={3: 2}, pretrain_px=40)
    assert tuple(layer.pretrain_padding for layer in shrunk.layers) == PAIRS["2x2"][1]


def test_multiplications_are_those_of_the_description() -> None:
    described = describe(block("3x3", 1), 56, table={3: 2}, pretrain_px=40)
    assert multiplications("3x3", 56) == described.target_macs == 2 * 9 * 56**2
    assert multiplications("2x2", 40) == described.pretrain_macs == 4 * 39**2 + 4 * 40**2
    assert multiplications("2x2 copied", 40) == 2 * 4 * 40**2


def test_all_parts_leave_their_results_whatever_becomes_of_one(tmp_path: Path) -> None:
    out = run_bare(
        """
def breaks(*_):
    raise RuntimeError("no such GPU\\nand more")

tiny = {"networks": ("--networks", "demo", "--modes", "eager", "--images", "2"), "even_kernels": ("--channels", "64")}
gpu.PARTS = {name: part._replace(options=tiny.get(name, ())) for name, part in gpu.PARTS.items()}
gpu.PARTS["compiled"] = gpu.PARTS["compiled"]._replace(run=breaks)
options = "--device cpu --batch 1 --rounds 1 --precisions fp32 --out".split()
try:
    gpu.main([*options, sys.argv[1]])
except SystemExit as error:
    print(error)
""",
        tmp_path / "gpu.json",
    )
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert report["failed"] == {"compiled": "RuntimeError: no such GPU"}
    assert f"error: {report['failed']}" in out
    assert report["device"]
    assert 0 < report["minutes"] < 8
    steps = [("fp32", "channels_last"), ("fp32", "contiguous")]
    for name, of in (("networks", "target"), ("even_kernels", "3x3, 56 px")):
        rows = report["parts"][name]["results"]
        assert [(row["precision"], row["memory_format"]) for row in rows] == steps
        assert all(row["n"] == 1 for row in rows)
        assert report["parts"][name]["left_out"] == []
        measured = "images_per_s" if name == "networks" else "pass_s"
        assert all(row[measured][of]["median"] > 0 for row in rows)
    row = report["parts"]["even_kernels"]["results"][0]
    faster = row["pass_s"]["3x3, 56 px"]["median"] / row["pass_s"]["2x2, 40 px"]["median"]
    assert row["times_faster"]["2x2, 40 px"]["median"] == pytest.approx(faster)


def test_nothing_begins_that_the_time_does_not_allow(tmp_path: Path) -> None:
    gpu.main(["--device", "cpu", "--minutes", "0", "--parts", "even_kernels", "--out", str(tmp_path / "gpu.json")])
    part = json.loads((tmp_path / "gpu.json").read_text())["parts"]["even_kernels"]
    assert part["results"] == []
    assert part["left_out"][0] == "64 channels fp32 channels_last: no time left"
    assert len(part["left_out"]) == 16
