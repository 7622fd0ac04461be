"""Two processes that train one run, over gloo."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from processes import started, wait_until
from test_run import TINY, metrics, runs, summary
from torch import nn

from rescaler import checkpoint, distributed, process
from rescaler.errors import InputError

pytestmark = pytest.mark.slow

MODERN = ["optim.label_smoothing=0.1", "optim.ema_decay=0.9", "step.micro_batch_size=6", "step.precision=fp16"]
ALONE = ["+model.dropout=0.0", "optim.batch_size=16", "resize_epoch=3", "rescale.distill_batches=3", *MODERN, *TINY]
"""Dropout draws by process."""


DYING = """
import os
from rescaler.run import main
from rescaler.resume import Saver

class Dying(Saver):
    due = True

    def save(self, state, epoch, progress, clocks):
        super().save(state, epoch, progress, clocks)
        if progress.batches == int(os.environ["LAST_BATCH"]):
            os._exit(1)

import rescaler.execution
rescaler.execution.Saver = Dying
main()
"""
"""A run whose first process dies after the batch of its first epoch that ``LAST_BATCH`` says."""


SLOW = """
import time
from pathlib import Path
from rescaler.run import main
from rescaler.train import Step

step = Step.__call__

def slow(self, images, labels, learning_rate, number):
    if number == 2:
        Path("begun").touch()
    time.sleep(0.5)
    return step(self, images, labels, learning_rate, number)

Step.__call__ = slow
main()
"""
"""A run with long steps, which tells when the second begins."""


AUDITED = """
import os, sys

def note(event, arguments):
    if event == "os.rename" and "ledger" in str(arguments[1]):  # as all that is written there is
        open(f"ledger_writer_{os.environ.get('RANK', 0)}", "w").close()

sys.addaudithook(note)
from rescaler.run import main
main()
"""
"""Notes which process writes to the ledger."""


def torchrun(
    folder: Path, *arguments: str, processes: int, program: Sequence[str] = ("-m", "rescaler.run")
) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *(launcher if processes > 1 else []), *program, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    found = {}
    for count in (1, 2):
        found[count] = tmp_path_factory.mktemp(f"processes{count}")
        program = found[count].with_suffix(".py")
        program.write_text(AUDITED)
        finished = torchrun(found[count], *ALONE, processes=count, program=[str(program)])
        assert finished.returncode == 0, finished.stderr
    return found


def test_two_processes_learn_what_one_does(folders: dict[int, Path]) -> None:
    one, two = (metrics(runs(folders[count])[0]) for count in (1, 2))
    assert two["stage"].tolist() == ["pretrain"] * 3 + ["target"] * 3
    assert two["train_loss"].tolist() == pytest.approx(one["train_loss"].tolist(), rel=1e-4)
    assert two["test_loss"].tolist() == pytest.approx(one["test_loss"].tolist(), rel=1e-4)
    assert two["test_top1"].tolist() == pytest.approx(one["test_top1"].tolist(), abs=0.011)
    assert two["key"].tolist() == one["key"].tolist()


def test_an_epoch_goes_on_with_another_number_of_processes(
    folders: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "dying.py"
    program.write_text(DYING)
    folder = tmp_path / "resumed"
    for count, last_batch in ((1, 2), (2, 4)):
        monkeypatch.setenv("LAST_BATCH", str(last_batch))
        assert torchrun(folder, *ALONE, processes=count, program=[str(program)]).returncode != 0
        (save,) = folder.glob("ledger/saves/*.safetensors")
        assert checkpoint.read(save).more["batches"] == last_batch
    finished = torchrun(folder, *ALONE, processes=1)
    assert finished.returncode == 0, finished.stderr
    resumed, whole = metrics(runs(folder)[-1]), metrics(runs(folders[1])[0])
    assert resumed["train_loss"].tolist() == pytest.approx(whole["train_loss"].tolist(), rel=1e-4)
    assert resumed["train_top1"].tolist() == pytest.approx(whole["train_top1"].tolist(), abs=0.026)
    assert resumed["key"].tolist() == whole["key"].tolist()


def test_only_the_first_process_writes(folders: dict[int, Path]) -> None:
    assert [summary(path)["status"] for path in runs(folders[2])] == ["done"]
    ledger = folders[2] / "ledger"
    assert len(list(ledger.glob("entries/??/*/record.json"))) == 6
    assert {path.name for path in folders[2].iterdir()} == {"ledger", "runs", "ledger_writer_0"}
    assert len(list((folders[2] / "runs").glob("*/*"))) == 1
    assert json.loads((runs(folders[2])[0] / "chain.json").read_text())["forks"] == [3]


def test_a_batch_that_cannot_be_shared_is_refused_once(tmp_path: Path) -> None:
    finished = torchrun(
        tmp_path, *(word for word in ALONE if "optim.batch_size" not in word), "optim.batch_size=15", processes=2
    )
    assert finished.returncode != 0
    message = "optim.batch_size must be a multiple of the processes that share it (their number is 2); got 15"
    assert finished.stderr.count(message) == 1


def test_micro_batches_are_shared_as_batches_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "world_size", lambda: 2)
    distributed.check(nn.Identity(), 16, 6, torch.device("cpu"))
    with pytest.raises(InputError, match="step.micro_batch_size must be a multiple of the processes .*; got 5"):
        distributed.check(nn.Identity(), 16, 5, torch.device("cpu"))


def test_ctrl_c_saves_first(tmp_path: Path) -> None:
    program = tmp_path / "slow.py"
    program.write_text(SLOW)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(program)]
    with started([*launcher, *ALONE], cwd=tmp_path) as training:
        wait_until(lambda: (tmp_path / "begun").exists() or training.poll() is not None, "the training has begun")
        os.killpg(training.pid, signal.SIGINT)
        assert training.wait(60) != 0
    (save,) = tmp_path.glob("ledger/saves/*.safetensors")
    assert checkpoint.read(save).more["batches"] >= 2
