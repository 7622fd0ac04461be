"""What is trained anew, and what is read from the ledger: the key knows the network."""

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from bench import Bench
from conftest import MakeExperiment

from rescaler.ledger import Ledger
from rescaler.plan import plan
from rescaler.record import Record

NETWORK = """
import random

import numpy as np
import torch
from torch import nn
import users_activation


class Net(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 4, 5, padding=2)
        self.fc = nn.Linear(4, num_classes)
        self.scale = nn.Parameter(torch.tensor(np.random.rand() + random.random()))
        self.names = {"a", "b", "c"}
        self.activation = users_activation.activation

    def forward(self, images):
        return self.fc(self.activation(self.conv(images)).mean((2, 3)) * self.scale)

    def extra_repr(self):
        return f"activation={self.activation}, names={self.names}"
"""
ACTIVATION = "from torch.nn.functional import relu\n\n\ndef activation(features):\n    return relu(features)\n"


@pytest.fixture
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a network of the user's, which tests edit."""
    folder = tmp_path / "users"
    folder.mkdir()
    (folder / "users_net.py").write_text(NETWORK)
    (folder / "users_activation.py").write_text(ACTIVATION)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return folder


def edit(folder: Path, name: str, old: str, new: str) -> None:
    path = folder / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def anew(bench: Bench, make_experiment: MakeExperiment) -> list[int]:
    """Epochs that a new process would train."""
    for name in ("users_net", "users_activation"):
        sys.modules.pop(name, None)
    importlib.invalidate_caches()
    bench.train(make_experiment(model={"_target_": "users_net.Net"}))
    return bench.watcher.computed


@pytest.mark.parametrize(
    ("name", "old", "new", "computed"),
    [
        ("users_net.py", ".mean((2, 3))", ".amax((2, 3))", [1, 2, 3, 4, 5, 6]),
        ("users_activation.py", "return relu(features)", "return relu(features) * 0.5", [1, 2, 3, 4, 5, 6]),
        ("users_net.py", "np.random.rand()", "0.125", [1, 2, 3, 4, 5, 6]),
        ("users_net.py", "    def forward", "    # The way of the images.\n\n    def forward", []),
        ("users_activation.py", "relu(features)", "relu(\n        features,\n    )", []),
    ],
)
def test_a_network_whose_code_changed_is_trained_anew(
    bench: Bench, make_experiment: MakeExperiment, users: Path, name: str, old: str, new: str, computed: list[int]
) -> None:
    assert anew(bench, make_experiment) == [1, 2, 3, 4, 5, 6]
    edit(users, name, old, new)
    assert anew(bench, make_experiment) == computed


def test_other_initial_values_are_another_run(
    bench: Bench, make_experiment: MakeExperiment, users: Path, tmp_path: Path
) -> None:
    """As from a checkpoint that was overwritten."""
    weights = tmp_path / "weights.pt"
    edit(
        users,
        "users_net.py",
        "np.random.rand() + random.random()",
        f"float(__import__('pathlib').Path({str(weights)!r}).read_text())",
    )
    weights.write_text("1.5")
    assert anew(bench, make_experiment) == [1, 2, 3, 4, 5, 6]
    weights.write_text("1.25")
    assert anew(bench, make_experiment) == [1, 2, 3, 4, 5, 6]
    weights.write_text("1.5")
    assert anew(bench, make_experiment) == []


KEYS = """
import sys
from rescaler.config import *
from rescaler.plan import plan
run = plan(Experiment(
    model={"_target_": "users_net.Net"}, shrink=ShrinkSettings(table={5: 3}), resize_epoch=1, device="cpu",
    data=DataSettings("synthetic", mean=[0.5], std=[0.5], train_images=64, test_images=8),
    schedule=ScheduleSettings(epochs=2, batches_per_epoch=1, learning_rates=[0.01]),
    optim=OptimSettings(batch_size=8), ledger=LedgerSettings("nowhere"),
))
print(run.id, *run.chain.known_keys)
"""


def test_another_process_has_the_same_keys(users: Path) -> None:
    """Neither an address nor the order of a set is in them."""
    found = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join([str(users), *sys.path])}
        command = [sys.executable, "-c", KEYS]
        finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=users)
        found.add(finished.stdout)
    assert len(found) == 1


def test_all_generators_follow_the_seed(
    bench: Bench, other: Bench, make_experiment: MakeExperiment, users: Path
) -> None:
    edit(users, "users_net.py", "* self.scale", "* self.scale * (np.random.rand() + random.random())")
    digests = []
    for each in (bench, other):
        anew(each, make_experiment)
        digests.append([record.digest for record in each.train(make_experiment(model={"_target_": "users_net.Net"}))])
    assert digests[0] == digests[1]


def test_random_numbers_of_the_user_are_left_alone(make_experiment: MakeExperiment) -> None:
    torch.manual_seed(3)
    plan(make_experiment())
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(1))


LEDGER = Path(__file__).parent / "ledgers" / "schema_1"
"""Written by this version, to be read by every later one: two epochs, one state."""


def test_the_ledger_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    shutil.copytree(LEDGER, tmp_path / "ledger")
    ledger = Ledger(tmp_path / "ledger")
    records: list[Record] = sorted(ledger.records(), key=lambda record: record.epoch)
    numbers = [(record.epoch, record.stage, record.image_px, round(record.test_top1, 4)) for record in records]
    assert numbers == [(1, "pretrain", 17, 0.25), (2, "target", 28, 0.25)]
    assert records[1].parent == records[0].key
    assert records[1].parent_digest == records[0].digest
    state: Any = ledger.state(records[1].key)
    assert state["network.conv.weight"].shape == (2, 1, 5, 5)
    assert state["optim.conv.weight.momentum_buffer"].shape == (2, 1, 5, 5)
    assert ledger.prune(dry_run=True, force=True).states == 1
