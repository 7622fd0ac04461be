"""What is kept of one epoch: numbers and provenance, never weights."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Record:
    """One finished epoch of a chain.

    Losses are means per image, accuracies fractions in [0, 1], times wall-clock seconds. The five clocks are disjoint;
    writing to the ledger is on none. The learning rate is its mean over the epoch.
    """

    key: str
    parent: str
    epoch: int
    stage: str
    image_px: int
    rescaled: bool
    learning_rate: float
    weight_decay: float
    held: bool
    images: int
    train_loss: float
    train_top1: float
    test_loss: float
    test_top1: float
    test_top5: float
    train_s: float
    data_s: float
    rescale_s: float
    compile_s: float
    evaluation_s: float
    device: str
    torch: str
    digest: str
    parent_digest: str

    @property
    def training_s(self) -> float:
        """Seconds that count as training: all clocks but the evaluation's."""
        seconds: float = sum(getattr(self, clock) for clock in TRAINING_CLOCKS)
        return seconds

    def to_json(self) -> str:
        """One JSON object, keys in the order of the fields."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: the text is not JSON, or its keys are not this class's fields.
        """
        values: dict[str, Any] = json.loads(text)
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError("not the record of an epoch") from error


EPOCH_FIELDS: Mapping[str, Any] = {field.name: field.type for field in dataclasses.fields(Record)} | {"reused": bool}
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
