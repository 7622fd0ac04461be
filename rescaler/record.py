"""What is kept of one epoch: numbers and provenance, never weights."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True)
class Record:
    """One finished epoch of a chain.

    Losses are means per image, accuracies fractions in [0, 1], times wall-clock seconds. The four clocks are disjoint:
    an epoch took ``train_s + data_s + rescale_s + evaluation_s``, of which all but the evaluation is training.
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
    evaluation_s: float
    device: str
    torch: str
    digest: str
    parent_digest: str

    @property
    def training_s(self) -> float:
        """Seconds that count as training: steps, waiting for data, the rescale; not the evaluation."""
        return self.train_s + self.data_s + self.rescale_s

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
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, dict) or values.keys() != names:
            raise ValueError("not the record of an epoch")
        return cls(**values)
