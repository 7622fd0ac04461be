"""Records: what is kept of one epoch, its numbers and what made them, never weights."""

import csv
import dataclasses
import functools
import hashlib
import importlib.metadata
import io
import json
import math
import platform
import subprocess
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from rescaler.errors import InputError
from rescaler.files import read_json
from rescaler.method import ImageSize, image_size, is_image_size, size_text

if TYPE_CHECKING:
    import torch

CONFIG_FILE = "config.yaml"
SUMMARY_FILE = "summary.json"
METRICS_FILE = "metrics.csv"
"""Names of files in a run's folder: its settings, the run in one object, and its epochs' records in one table."""
CHAIN_FILE = "chain.json"
"""Name in a run's folder: keys of its epochs in the ledger, and what else its other files are rebuilt from."""
MODEL_FILE = "model.safetensors"
"""Name in a run's folder: the network that its last epoch left."""
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
    image_px: ImageSize = 0
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

    def cells(self) -> dict[str, Any]:
        """Return the fields as a table holds them."""
        return {**self.to_dict(), "image_px": size_cell(self.image_px)}

    def to_json(self) -> str:
        """Return one JSON object, keys in the order of the fields, with a check sum of all it says."""
        return json.dumps(sealed({**self.to_dict(), **self.more}), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what any version wrote.

        Raises:
            ValueError: the text is no record, or not what was written.
        """
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("not the record of an epoch")
        values = unsealed(values)
        own = {name: values.pop(name) for name in FIELDS if name in values}
        own["image_px"] = image_size(own.get("image_px", 0))
        wrong = [name for name, value in own.items() if not _is_of(FIELDS[name], value)]
        if wrong or not {"key", "parent", "epoch"} <= own.keys():
            raise ValueError(f"not the record of an epoch ({', '.join(wrong) or 'no key'})")
        if any(own.get(name, 0) > 1 or own.get(name, 0) < 0 for name in ("train_top1", "test_top1", "test_top5")):
            raise ValueError("an accuracy is not in [0, 1]")
        return cls(**own, more=values)


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Add a schema number, and a check sum of all that the values say."""
    whole = {"schema": SCHEMA, **values}
    return {**whole, "check": _check_sum(whole)}


def unsealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Compare values with their check sum, and return them without it; those of before check sums pass.

    Raises:
        ValueError: they are not what was written.
    """
    whole = {name: value for name, value in values.items() if name != "check"}
    if ("check" in values or "schema" in values) and values.get("check") != _check_sum(whole):
        raise ValueError("it is not what was written")
    return {name: value for name, value in whole.items() if name != "schema"}


def read_sealed(path: Path) -> dict[str, Any]:
    """Read a JSON object that may be sealed.

    Raises:
        InputError: the file is missing, unreadable or damaged.
    """
    try:
        return unsealed(read_json(path))
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def _check_sum(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _is_of(kind: Any, value: object) -> bool:
    if isinstance(value, bool):
        return kind is bool
    if kind is ImageSize:
        return isinstance(value, int) or is_image_size(value)
    return isinstance(value, (int, float) if kind is float else kind)


def size_cell(size: ImageSize | str) -> int | str:
    """Return an image size as a table holds it, or as its text says: a number, or a text such as ``128x96``."""
    if isinstance(size, tuple):
        return size_text(size)
    return size if "x" in str(size) else int(size)


FIELDS: Mapping[str, Any] = {one.name: one.type for one in dataclasses.fields(Record) if one.name != "more"}
EPOCH_FIELDS: Mapping[str, Any] = {**FIELDS, "image_px": size_cell, "reused": bool}
"""What a run keeps of an epoch, with what its text becomes: the record, and whether it was read from the ledger."""


def metrics_text(epochs: Sequence[tuple[Record, bool]]) -> str:
    """Return ``metrics.csv``: a row for each record, with whether it was reused, and a check sum of the row."""
    text = io.StringIO()
    writer = csv.DictWriter(text, EPOCH_FIELDS, lineterminator="\n")
    writer.writerows({**record.cells(), "reused": reused} for record, reused in epochs)
    rows = [f"{row},{_check_of_row(row)}\n" for row in text.getvalue().splitlines()]
    return "".join([",".join([*EPOCH_FIELDS, "check"]), "\n", *rows])


def read_metrics(path: Path) -> str:
    """Return the text of a ``metrics.csv`` after a comparison with its check sums, if it has any.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not what was written.
    """
    text = path.read_text(encoding="utf-8")
    head, *rows = text.splitlines() or [""]
    if head.rpartition(",")[2] == "reused":  # of before there were check sums
        return text
    for row in rows:
        said, _, check = row.rpartition(",")
        if check != _check_of_row(said):
            raise ValueError("it is not what was written")
    return text


def _check_of_row(row: str) -> str:
    return f"{zlib.crc32(row.encode()):08x}"


@functools.cache
def device_name(device: "torch.device") -> str:
    """The device as a reader knows it, with the number of threads where it is a CPU."""
    import torch  # here, as tables are made of records without it

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_cpu_model()}, {torch.get_num_threads()} threads"


def torch_version() -> str:
    """Version of torch, with its build."""
    import torch

    return str(torch.__version__)


def version() -> str:
    """Version of this package."""
    return importlib.metadata.version("rescaler")


@functools.cache
def commit() -> str | None:
    """Commit of the checkout that this package is imported from, with ``+`` where files differ; None outside of one."""
    here = Path(__file__).parent
    try:
        tracked = subprocess.run(
            ["git", "ls-files", "--error-unmatch", __file__], cwd=here, capture_output=True, check=False
        )
        if tracked.returncode != 0:
            return None
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        changed = subprocess.run(["git", "diff", "--quiet", "HEAD"], cwd=here, check=False)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if changed.returncode else "")


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
