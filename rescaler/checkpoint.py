"""Checkpoints: tensors and numbers in a safetensors file with a check sum, and saves in the middle of an epoch."""

import dataclasses
import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from rescaler import ranks
from rescaler.errors import is_out_of_memory
from rescaler.files import sync
from rescaler.signals import Interruption

if TYPE_CHECKING:
    from rescaler.chain import Epoch
    from rescaler.clocks import Clocks
    from rescaler.ledger import Ledger
    from rescaler.state import State

log = logging.getLogger(__name__)

Tensors = Mapping[str, Tensor]


def digest(tensors: Tensors) -> str:
    """Return SHA-256 over names, types, shapes and bytes; independent of memory layout and device."""
    hasher = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()


class Content(NamedTuple):
    """What a checkpoint holds."""

    tensors: dict[str, Tensor]
    more: dict[str, Any]


def write(
    path: Path, tensors: Tensors, *, known_digest: str | None = None, more: Mapping[str, Any] | None = None
) -> None:
    """Write a checkpoint, whose bytes are on the disk when this returns.

    Args:
        path: the file.
        tensors: by name, on the CPU.
        known_digest: of the tensors, where it is known.
        more: numbers and texts to keep with them.

    Raises:
        OSError: the file cannot be written.
    """
    words = json.dumps(dict(more or {}), sort_keys=True)
    check = hashlib.sha256(f"{known_digest or digest(tensors)} {words}".encode()).hexdigest()
    own: dict[int, int] = {}
    apart = {  # the format has no tensors that share their memory
        name: tensor if own.setdefault(tensor.data_ptr(), len(own)) == len(own) - 1 else tensor.clone()
        for name, tensor in tensors.items()
    }
    content = safetensors.torch.save(apart, {"more": words, "check": check})
    with path.open("wb") as file:
        file.write(content)
    sync(path)


def read(path: Path) -> Content:
    """Read a checkpoint, onto the CPU.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read, which says nothing of what is in it.
        MemoryError: there is too little memory to read it, which says nothing either.
        ValueError: it is damaged.
    """
    try:
        content = path.read_bytes()
        tensors = safetensors.torch.load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        check = hashlib.sha256(f"{digest(tensors)} {header['more']}".encode()).hexdigest()
        found = Content(tensors, json.loads(header["more"]))
        if check != header["check"]:
            raise ValueError("its content is not what was written")
    except OSError:
        raise
    except Exception as error:  # whatever reading a damaged file raises
        if is_out_of_memory(error):
            raise MemoryError(f"too little memory to read {path}") from error
        raise ValueError(f"{path}: {error}") from error
    return found


@dataclass(frozen=True)
class Progress:
    """How far an epoch is trained, and its sums so far."""

    batches: int = 0
    loss_sum: float = 0.0
    """Sum of the batches' mean losses."""
    hits: int = 0
    """Images that were classified correctly."""

    @classmethod
    def of(cls, batches: int, sums: Tensor) -> "Progress":
        """Return the progress from sums of losses and hits over all processes, ``(2,)``."""
        loss_sum, hits = sums.tolist()
        return cls(batches, loss_sum / ranks.count(), int(hits))


class Saver:
    """Saves an epoch in the middle: when a signal asks for it, and every few minutes.

    Args:
        ledger: where to.
        interruption: signals that wait for a save.
        every_min: minutes between saves; 0: only where a signal asks.
        on_save: called after each save, and after each epoch that is published.
    """

    def __init__(
        self,
        ledger: "Ledger",
        interruption: Interruption,
        every_min: float = 0.0,
        on_save: Callable[[], None] = lambda: None,
    ) -> None:
        self._ledger = ledger
        self.interruption = interruption
        self._every_s = 60 * every_min or math.inf
        self.on_save = on_save
        self._saved = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether to save at the next batch."""
        return self.interruption.pending or time.monotonic() - self._saved > self._every_s

    def save(self, state: "State", epoch: "Epoch", progress: Progress, clocks: "Clocks") -> None:
        """Save, then deliver the signal that asked for it: it ends the process, as a rule."""
        with clocks.running("save"):
            more = {**dataclasses.asdict(progress), "parent_digest": state.digest, "seconds": dict(clocks.so_far())}
            self._ledger.save(epoch.key, state.tensors(), more)
        self._saved = time.monotonic()
        if self.interruption.pending:
            log.info("stopping: epoch %d is saved after %d mini-batches", epoch.number, progress.batches)
        self.on_save()
        self.interruption.deliver()
