"""Saves in the middle of an epoch: when a signal asks for one, and every few minutes."""

import dataclasses
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from rescaler.interruption import Interruption
from rescaler.training.chain import Epoch
from rescaler.training.clocks import Clocks
from rescaler.training.ledger import Ledger
from rescaler.training.state import State

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """How far an epoch is trained, and its sums so far."""

    batches: int = 0
    loss_sum: float = 0.0
    """Sum of the batches' mean losses."""
    hits: int = 0
    """Images that were classified correctly."""


class Saver:
    """Keeps an epoch under way in the ledger.

    Args:
        ledger: where to.
        interruption: signals that wait for a save.
        every_min: minutes between saves; 0: only where a signal asks.
        on_save: is called after each.
    """

    def __init__(
        self,
        ledger: Ledger,
        interruption: Interruption,
        every_min: float = 0.0,
        on_save: Callable[[], None] = lambda: None,
    ) -> None:
        self._ledger = ledger
        self._interruption = interruption
        self._every_s = 60 * every_min or math.inf
        self._on_save = on_save
        self._saved = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether to save at the next batch."""
        return self._interruption.pending or time.monotonic() - self._saved > self._every_s

    def save(self, state: State, epoch: Epoch, progress: Progress, clocks: Clocks) -> None:
        """Save, then let the signal that asked for it do what it does: end the process, as a rule."""
        with clocks.running("save"):
            more = {**dataclasses.asdict(progress), "parent_digest": state.digest, "seconds": dict(clocks.so_far())}
            self._ledger.save(epoch.key, state.tensors(), more)
        self._saved = time.monotonic()
        if self._interruption.pending:
            log.info("told to end: epoch %d is saved after %d mini-batches", epoch.number, progress.batches)
        self._on_save()
        self._interruption.deliver()
