"""Find, save, resume and publish the epochs of a run in the ledger. The first of several processes does it for all."""

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from rescaler import distributed, process
from rescaler.chain import Epoch
from rescaler.checkpoint import Tensors, digest
from rescaler.clocks import Clocks
from rescaler.evaluation import Scores
from rescaler.ledger import Ledger
from rescaler.plan import Run
from rescaler.process import Interruption
from rescaler.record import Record, device_name, torch_version
from rescaler.state import State

log = logging.getLogger(__name__)


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
        return cls(batches, loss_sum / process.world_size(), int(hits))


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
        ledger: Ledger,
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

    def save(self, state: State, epoch: Epoch, progress: Progress, clocks: Clocks) -> None:
        """Save, then deliver the signal that asked for it: it ends the process, as a rule."""
        with clocks.running("save"):
            more = {**dataclasses.asdict(progress), "parent_digest": state.digest, "seconds": dict(clocks.so_far())}
            self._ledger.save(epoch.key, state.tensors(), more)
        self._saved = time.monotonic()
        if self.interruption.pending:
            log.info("stopping: epoch %d is saved after %d mini-batches", epoch.number, progress.batches)
        self.on_save()
        self.interruption.deliver()


class Checkpoint(NamedTuple):
    """An epoch that was saved in the middle."""

    state: State
    progress: Progress
    seconds: dict[str, float]


def pin_states(run: Run, ledger: Ledger, folder: Path, forks: Sequence[int] = ()) -> frozenset[str]:
    """Have the ledger keep the states that others resume from, now or once they are there.

    Args:
        run: the run.
        ledger: where they are kept.
        folder: the run's own; they stay while it exists.
        forks: epochs of such states, beside those of the run's own rescales.

    Returns:
        Keys of these epochs.

    Raises:
        InputError: the ledger cannot be written.
    """
    own = run.chain.forks if run.experiment.ledger.keep == "forks" else ()
    keys = run.chain.known_keys if own or forks else []
    kept = frozenset(keys[number - 1] for number in {*own, *forks} if number <= len(keys))
    if process.rank() == 0:
        ledger.keep_origin(run.origin.constants, run.origin.values)  # another processor's rounding finds these keys
        for key in kept:
            ledger.hold(key, run.id, folder)
    return kept


class RunLedger:
    """The ledger as one run uses it.

    Args:
        run: the run.
        ledger: where epochs are found and entered.
        folder: the run's own; the state that it resumes from stays while it exists.
        kept: keys of epochs whose states stay when the run has gone on (:func:`pin_states`).
    """

    def __init__(self, run: Run, ledger: Ledger, folder: Path, kept: frozenset[str]) -> None:
        self._run, self._ledger, self._folder, self._kept = run, ledger, folder, kept
        self._is_first = process.rank() == 0
        self._keep_all = run.experiment.ledger.keep == "all"

    def load_cached(self, records: Sequence[Record], state: State | None) -> tuple[list[Record], State | None]:
        """Return the records after ``records`` up to the deepest epoch whose state is kept, with that state.

        If no deeper state is kept: no records, and ``state`` itself. A complete run needs no state.
        """
        tensors: Tensors = {}

        def read() -> tuple[list[Record], bool]:
            nonlocal tensors
            found = self._run.chain.recorded(self._ledger, records)
            if self._run.chain.next(found) is None:
                return found, False
            for depth in range(len(found), len(records), -1):
                kept = self._ledger.state(found[depth - 1].key)
                if kept is not None:
                    tensors = kept
                    return found[:depth], True
            return list(records), False

        found, has_state = distributed.from_first(read)
        reused = found[len(records) :]
        if reused and self._is_first:
            self._hold_only([record.key for record in found])
        return reused, self._state(found[-1].epoch, tensors, found[-1].digest) if has_state else state

    def resume(self, epoch: Epoch) -> Checkpoint | None:
        """Return where an earlier attempt, of whatever run, saved ``epoch`` in the middle; None where none did."""
        self._hold([epoch.key])
        tensors: Tensors = {}

        def read() -> dict[str, Any] | None:
            nonlocal tensors
            saved = self._ledger.saved(epoch.key)
            tensors = saved.tensors if saved else tensors
            return saved and saved.more

        saved = distributed.from_first(read)
        if saved is None:
            return None
        progress = Progress(**{field.name: saved[field.name] for field in dataclasses.fields(Progress)})
        return Checkpoint(self._state(epoch.number, tensors, saved["parent_digest"]), progress, saved["seconds"])

    def publish(self, record: Record, state: State) -> Record:
        """Enter the epoch that led to ``state``; where another process was first, take over its state."""

        def enter() -> Record:
            tensors = state.tensors()
            ours = dataclasses.replace(record, digest=digest(tensors), parent_digest=state.digest)
            standing = self._ledger.publish(ours, tensors)
            if standing.digest != ours.digest and (theirs := self._ledger.state(record.key)) is not None:
                state.load(theirs, standing.digest)
            return standing

        standing = distributed.from_first(enter)
        state.digest = standing.digest
        if self._is_first and record.parent not in self._kept and not self._keep_all:
            self._ledger.release(record.parent, self._run.id)
        return standing

    def _state(self, number: int, tensors: Tensors, state_digest: str) -> State:
        state = State(self._run.network(self._run.chain.stage(number)), state_digest)
        if self._is_first:
            state.load(tensors, state_digest)
        return state

    def _hold(self, keys: Iterable[str]) -> None:
        if self._is_first:
            for key in keys:
                self._ledger.hold(key, self._run.id, self._folder)

    def _hold_only(self, keys: Sequence[str]) -> None:
        """Hold the last of the epochs so far, or all, and release what earlier attempts of the run held beside."""
        wanted = self._kept | set(keys if self._keep_all else keys[-1:])
        self._hold(wanted)
        for key in {*keys} - wanted:  # not the next epoch, which may be saved in the middle
            if self._run.id in self._ledger.holders(key):
                self._ledger.release(key, self._run.id)


def make_record(run: Run, epoch: Epoch, clocks: Clocks, trained: Progress, tested: Scores) -> Record:
    """Return the record of a finished epoch, without the digests of its states."""
    recipe = epoch.recipe
    images = recipe.batches * recipe.optim.batch_size
    return Record(
        key=epoch.key,
        parent=epoch.parent,
        epoch=epoch.number,
        stage=epoch.stage.name,
        image_px=epoch.stage.image_px,
        rescaled=recipe.rescale is not None,
        learning_rate=recipe.mean_learning_rate * recipe.optim.lr_factor,
        weight_decay=recipe.weight_decay,
        held=epoch.held,
        images=images,
        train_loss=trained.loss_sum / recipe.batches,
        train_top1=trained.hits / images,
        test_loss=tested.loss,
        test_top1=tested.top1,
        test_top5=tested.top5,
        device=device_name(run.device),
        torch=torch_version(),
        train_s=clocks.seconds["train"],
        data_s=clocks.seconds["data"],
        rescale_s=clocks.seconds["rescale"],
        compile_s=clocks.seconds["compile"],
        evaluation_s=clocks.seconds["evaluation"],
    )
