"""Records: what is kept of one epoch, numbers and provenance, never weights."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

CONFIG_FILE = "config.yaml"
SUMMARY_FILE = "summary.json"
METRICS_FILE = "metrics.csv"
"""Names of files in a run's folder: its settings, the run in one object, and its epochs' records in one table."""
TRUNK_FILE = "trunk.json"
"""Name in a trunk's folder: how far it is."""

VARIANT_SEPARATOR = "; "
"""Between the parts of a run's ``variant``."""

TRAINING_CLOCKS = ("train_s", "data_s", "rescale_s", "compile_s")
"""Steps, waiting for data, the rescale, the first steps of a network under torch.compile."""
CLOCKS = (*TRAINING_CLOCKS, "evaluation_s")


SCHEMA = 1
"""Of the files of records. Unknown fields are kept and missing ones are at their default, so few changes raise it."""


@dataclass(frozen=True)
class Record:
    """One finished epoch of a chain.

    Losses are means per image, accuracies fractions in [0, 1], times wall-clock seconds. The five clocks are disjoint;
    writing to the ledger is on none. The learning rate is its mean over the epoch.
    """

    key: str
    parent: str
    epoch: int
    stage: str = ""
    image_px: int = 0
    rescaled: bool = False
    learning_rate: float = math.nan
    weight_decay: float = math.nan
    held: bool = False
    images: int = 0
    train_loss: float = math.nan
    train_top1: float = math.nan
    test_loss: float = math.nan
    test_top1: float = math.nan
    test_top5: float = math.nan
    train_s: float = 0.0
    data_s: float = 0.0
    rescale_s: float = 0.0
    compile_s: float = 0.0
    evaluation_s: float = 0.0
    device: str = ""
    torch: str = ""
    digest: str = ""
    """Of the state that the epoch left."""
    parent_digest: str = ""
    """Of the state that it started from; empty for initial weights."""
    more: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """Fields that a newer version wrote."""

    @property
    def training_s(self) -> float:
        """Seconds that count as training: all clocks but the evaluation's."""
        seconds: float = sum(getattr(self, clock) for clock in TRAINING_CLOCKS)
        return seconds

    def to_dict(self) -> dict[str, Any]:
        """Return the fields of this version by name."""
        return {name: getattr(self, name) for name in FIELDS}

    def to_json(self) -> str:
        """Return one JSON object, keys in the order of the fields, with a check sum of all it says."""
        values = {"schema": SCHEMA, **self.to_dict(), **self.more}
        return json.dumps({**values, "check": _check_sum(values)}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what any version wrote.

        Raises:
            ValueError: the text is no record, or not what was written.
        """
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("not the record of an epoch")
        check, schema = values.pop("check", None), values.get("schema")
        if schema is not None and check != _check_sum(values):
            raise ValueError("its numbers are not those that were written")
        values.pop("schema", None)
        own = {name: values.pop(name) for name in FIELDS if name in values}
        wrong = [name for name, value in own.items() if not _is_of(FIELDS[name], value)]
        if wrong or not {"key", "parent", "epoch"} <= own.keys():
            raise ValueError(f"not the record of an epoch ({', '.join(wrong) or 'no key'})")
        if any(own.get(name, 0) > 1 or own.get(name, 0) < 0 for name in ("train_top1", "test_top1", "test_top5")):
            raise ValueError("an accuracy is not in [0, 1]")
        return cls(**own, more=values)


def _check_sum(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _is_of(kind: type, value: object) -> bool:
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


FIELDS: Mapping[str, Any] = {one.name: one.type for one in dataclasses.fields(Record) if one.name != "more"}
EPOCH_FIELDS: Mapping[str, Any] = {**FIELDS, "reused": bool}
"""What a run keeps of an epoch, with its type: the record, and whether the run read it back from the ledger."""


def totals(epochs: Sequence[tuple[Record, bool]]) -> dict[str, Any]:
    """What a run's summary says of its epochs.

    Args:
        epochs: records in order, each with whether the run read it back from the ledger rather than trained it.

    Returns:
        Best and last accuracy (None without epochs), seconds by clock as if the run had run alone, and ``computed_s``,
        training and evaluation of what it did train itself.
    """
    records = [record for record, _ in epochs]
    computed = [record for record, reused in epochs if not reused]
    best = max(records, key=lambda record: record.test_top1, default=None)
    return {
        "epochs": len(records),
        "best_top1": best and best.test_top1,
        "best_epoch": best and best.epoch,
        "final_top1": records[-1].test_top1 if records else None,
        "training_s": sum(record.training_s for record in records),
        **{clock: sum(getattr(record, clock) for record in records) for clock in CLOCKS},
        "computed_s": sum(record.training_s + record.evaluation_s for record in computed),
        "reused_epochs": len(records) - len(computed),
    }
