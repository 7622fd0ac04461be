"""Run folders as training writes them, with made-up numbers."""

import csv
import dataclasses
import json
from pathlib import Path
from typing import Literal

from bench import make_record
from pandas import DataFrame

from rescaler.record import EPOCH_FIELDS, Record
from rescaler.results import load_epochs, load_runs
from rescaler.summary import totals


@dataclasses.dataclass
class FakeRun:
    """One run of a small schedule: pre-train epochs take 1 s, target epochs 4 s, a rescale 0.5 s, evaluation 1 s."""

    resize_epoch: int | Literal["never"]
    top1: list[float]
    """Test accuracy by epoch; its length is how far the run got."""
    seed: int = 0
    hold: bool = False
    held: int = 0
    epochs_planned: int = 4
    milestones: tuple[int, ...] = (2,)
    status: str = "done"
    error: str | None = None
    variant: str = ""
    arm: str = ""
    comparison: str = "c0ffee00"
    device: str = "cpu A"
    model: str = "overfeat_small"
    updated: str = "2024-05-01T12:00:00+00:00"
    pretrain_s: float = 1.0
    target_s: float = 4.0

    @property
    def run(self) -> str:
        return f"{self.comparison}-{self.resize_epoch}-{self.hold}-{self.seed}{self.variant}"

    def records(self) -> list[Record]:
        last_pretrain = len(self.top1) if self.resize_epoch == "never" else self.resize_epoch
        records: list[Record] = []
        for epoch, top1 in enumerate(self.top1, start=1):
            pretrain, rescaled = epoch <= last_pretrain, epoch == last_pretrain + 1 > 1
            path = "p" * min(epoch, last_pretrain) + f"t{self.hold:d}" * max(epoch - last_pretrain, 0)
            took_s = self.pretrain_s if pretrain else self.target_s
            records.append(
                make_record(
                    f"{self.comparison}-{self.seed}-{path}",
                    records[-1].key if records else "origin",
                    epoch,
                    stage="pretrain" if pretrain else "target",
                    image_px=17 if pretrain else 28,
                    rescaled=rescaled,
                    learning_rate=0.1 ** sum(epoch > milestone for milestone in self.milestones),
                    held=last_pretrain < epoch <= last_pretrain + self.held,
                    images=1000,
                    train_loss=0.5,
                    train_top1=top1,
                    test_loss=0.5,
                    test_top1=top1,
                    train_s=0.75 * took_s,
                    data_s=0.25 * took_s,
                    rescale_s=0.5 * rescaled,
                    evaluation_s=1.0,
                    device=self.device,
                    torch="2.10",
                    parent_digest="0" * (epoch > 1),
                )
            )
        return records

    def write(self, folder: Path) -> Path:
        records = self.records()
        same = ("run", "comparison", "model", "seed", "resize_epoch", "hold", "variant", "arm", "status", "error")
        summary = {
            **{name: getattr(self, name) for name in (*same, "device", "updated")},
            **totals([(record, False) for record in records]),
            "name": "table2",
            "data": "fashion_mnist",
            "epochs_planned": self.epochs_planned + sum(record.held for record in records),
            "torch": "2.10",
            "version": "0.1.0",
            "commit": None,
            "host": "here",
            "started": self.updated,
        }
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text(json.dumps(summary))
        with (folder / "metrics.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, EPOCH_FIELDS)
            writer.writeheader()
            writer.writerows({**record.to_dict(), "reused": False} for record in records)
        return folder


def write(folder: Path, *runs: FakeRun) -> Path:
    """Write runs below a folder, each to one of its own."""
    for index, run in enumerate(runs):
        run.write(folder / str(index))
    return folder


def load(folder: Path, *runs: FakeRun) -> tuple[DataFrame, DataFrame]:
    """Runs and epochs of ``runs``, written below ``folder``, or of what is there."""
    found = load_runs([write(folder, *runs)])
    return found, load_epochs(found)


def paper_like(resize_epoch: int | Literal["never"], *, epochs: int = 55, done: int | None = None) -> FakeRun:
    """A run of the paper's length, with curves like its own: plateaus until the rate falls, a dip after the rescale."""
    milestones = (18, 29, 43, 52)
    last_pretrain = epochs if resize_epoch == "never" else resize_epoch
    level, top1 = 0.3, []
    for epoch in range(1, epochs + 1):
        drops = sum(epoch > milestone for milestone in milestones)
        pretrain = epoch <= last_pretrain
        late = 0 if pretrain else sum(min(last_pretrain, epochs) > milestone for milestone in milestones)
        ceiling = (0.835, 0.852, 0.864, 0.867, 0.8675)[drops] + (0.0 if pretrain else 0.02 - 0.006 * late)
        if epoch == last_pretrain + 1 and epoch > 1:
            level -= 0.025
        level += (0.30 if drops == 0 else 0.45) * (ceiling - level)
        wobble = 0.004 / (1 + drops) * (((epoch * 7919 + 31 * last_pretrain * (not pretrain)) % 13) / 6 - 1)
        top1.append(level + wobble)
    return FakeRun(
        resize_epoch,
        top1[:done],
        epochs_planned=epochs,
        milestones=milestones,
        status="done" if done is None else "running",
        pretrain_s=0.55,
        target_s=1.4,
    )
