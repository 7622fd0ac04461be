"""Two processes that train one run, over gloo."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_run import TINY, metrics, runs, summary

MODERN = ["optim.label_smoothing=0.1", "optim.ema_decay=0.9", "step.micro_batch_size=3", "step.precision=fp16"]
ALONE = ["+model.dropout=0.0", "optim.batch_size=16", "resize_epoch=3", *MODERN, *TINY]
"""Dropout draws by process."""


def torchrun(folder: Path, *arguments: str, processes: int) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m", "rescaler.run"]
    return subprocess.run(
        [sys.executable, *launcher, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    found = {}
    for count in (1, 2):
        found[count] = tmp_path_factory.mktemp(f"processes{count}")
        finished = torchrun(found[count], *ALONE, processes=count)
        assert finished.returncode == 0, finished.stderr
    return found


def test_two_processes_learn_what_one_does(folders: dict[int, Path]) -> None:
    one, two = (metrics(runs(folders[count])[0]) for count in (1, 2))
    assert two["stage"].tolist() == ["pretrain"] * 3 + ["target"] * 3
    assert two["train_loss"].tolist() == pytest.approx(one["train_loss"].tolist(), rel=1e-4)
    assert two["test_loss"].tolist() == pytest.approx(one["test_loss"].tolist(), rel=1e-4)
    assert two["test_top1"].tolist() == pytest.approx(one["test_top1"].tolist(), abs=0.011)
    assert two["key"].tolist() == one["key"].tolist()


def test_only_the_first_process_writes(folders: dict[int, Path]) -> None:
    assert [summary(path)["status"] for path in runs(folders[2])] == ["done"]
    ledger = folders[2] / "ledger"
    assert len(list(ledger.glob("entries/??/*/record.json"))) == 6
    assert {path.name for path in folders[2].iterdir()} == {"ledger", "runs"}
    assert len(list((folders[2] / "runs").glob("*/*"))) == 1
    assert json.loads((runs(folders[2])[0] / "chain.json").read_text())["forks"] == [3]


def test_a_batch_that_cannot_be_shared_is_refused_once(tmp_path: Path) -> None:
    finished = torchrun(
        tmp_path, *(word for word in ALONE if "batch_size" not in word), "optim.batch_size=15", processes=2
    )
    assert finished.returncode != 0
    message = "optim.batch_size must be a multiple of the processes that share it (their number is 2); got 15"
    assert finished.stderr.count(message) == 1
