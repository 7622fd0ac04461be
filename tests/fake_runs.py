"""Run folders as training writes them, with made-up numbers."""

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

from rescaler.record import EPOCH_FIELDS, Record


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
            records.append(
                Record(
                    key=f"{self.comparison}-{self.seed}-{path}",
                    parent=records[-1].key if records else "origin",
                    epoch=epoch,
                    stage="pretrain" if pretrain else "target",
                    image_px=17 if pretrain else 28,
                    rescaled=rescaled,
                    learning_rate=0.1 ** sum(epoch > milestone for milestone in self.milestones),
                    weight_decay=0.0,
                    held=last_pretrain < epoch <= last_pretrain + self.held,
                    images=1000,
                    train_loss=0.5,
                    train_top1=top1,
                    test_loss=0.5,
                    test_top1=top1,
                    test_top5=1.0,
                    train_s=0.75 * (self.pretrain_s if pretrain else self.target_s),
                    data_s=0.25 * (self.pretrain_s if pretrain else self.target_s),
                    rescale_s=0.5 * rescaled,
                    compile_s=0.0,
                    evaluation_s=1.0,
                    device=self.device,
                    torch="2.10",
                    digest="0",
                    parent_digest="" if epoch == 1 else "0",
                )
            )
        return records

    def write(self, folder: Path) -> Path:
        records = self.records()
        best = max(records, key=lambda record: record.test_top1, default=None)
        summary: dict[str, Any] = {
            "run": self.run,
            "comparison": self.comparison,
            "name": "table2",
            "model": self.model,
            "data": "fashion_mnist",
            "seed": self.seed,
            "resize_epoch": self.resize_epoch,
            "hold": self.hold,
            "variant": self.variant,
            "arm": self.arm,
            "epochs_planned": self.epochs_planned + sum(record.held for record in records),
            "epochs": len(records),
            "status": self.status,
            "error": self.error,
            "best_top1": best and best.test_top1,
            "best_epoch": best and best.epoch,
            "training_s": sum(record.training_s for record in records),
            "device": self.device,
            "torch": "2.10",
            "version": "0.1.0",
            "commit": None,
            "host": "here",
            "started": self.updated,
            "updated": self.updated,
        }
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text(json.dumps(summary))
        with (folder / "metrics.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, EPOCH_FIELDS)
            writer.writeheader()
            writer.writerows({**record.to_dict(), "reused": False} for record in records)
        return folder


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
