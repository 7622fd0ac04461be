"""What a run finds in the ledger, enters there, and wants kept. The first of several processes does it for all."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rescaler.record import Record
from rescaler.training import processes, ranks
from rescaler.training.chain import Epoch, Recipe
from rescaler.training.ledger import Ledger
from rescaler.training.plan import Run
from rescaler.training.saving import Progress
from rescaler.training.state import State
from rescaler.training.statefile import Tensors, digest


class UnderWay(NamedTuple):
    """An epoch that was saved in the middle."""

    state: State
    progress: Progress
    seconds: dict[str, float]


def hold_forks(run: Run, ledger: Ledger, folder: Path, forks: Sequence[int] = ()) -> frozenset[str]:
    """Have the ledger keep the states of a run that others will go on from, now or once they are there.

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
    if ranks.number() == 0:
        for key in kept:
            ledger.hold(key, run.id, folder)
    return kept


class Keeper:
    """Reads and writes the ledger for one run.

    Args:
        run: the run.
        ledger: where epochs are found and entered.
        folder: the run's own; the state that it stands on stays while it exists.
        kept: keys of epochs whose states are not given up when the run has gone on (:func:`hold_forks`).
    """

    def __init__(self, run: Run, ledger: Ledger, folder: Path, kept: frozenset[str]) -> None:
        self._run, self._ledger, self._folder, self._kept = run, ledger, folder, kept
        self._is_first = ranks.number() == 0
        self._keep_all = run.experiment.ledger.keep == "all"

    def read_back(self, records: Sequence[Record], state: State | None) -> tuple[list[Record], State | None]:
        """Return the records up to the deepest epoch whose state is kept, with that state.

        Those beyond ``records`` alone. If no deeper state is kept: no new records, and ``state`` itself. A complete run
        needs no state.
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

        found, has_state = processes.from_first(read)
        reused = found[len(records) :]
        if reused and self._is_first:
            self._hold_only([record.key for record in found])
        return reused, self._state(found[-1].epoch, tensors, found[-1].digest) if has_state else state

    def resume(self, epoch: Epoch) -> UnderWay | None:
        """Where an earlier attempt, of whatever run, saved ``epoch`` in the middle; None where none did."""
        tensors: Tensors = {}

        def read() -> dict[str, Any] | None:
            nonlocal tensors
            saved = self._ledger.saved(epoch.key)
            tensors = saved.tensors if saved else tensors
            return saved and saved.more

        saved = processes.from_first(read)
        if saved is None:
            return None
        names = [field.name for field in dataclasses.fields(Progress)]
        state = self._state(epoch.number, tensors, saved["parent_digest"])
        return UnderWay(state, Progress(**{name: saved[name] for name in names}), saved["seconds"])

    def begin(self, epoch: Epoch) -> None:
        """Keep what ``epoch`` will leave behind, and what is saved of it."""
        self._hold([epoch.key])

    def publish(self, record: Record, state: State) -> Record:
        """Enter the epoch that led to ``state``; where another process was first, go on from its state."""

        def enter() -> Record:
            tensors = state.tensors()
            ours = dataclasses.replace(record, digest=digest(tensors), parent_digest=state.digest)
            standing = self._ledger.publish(ours, tensors)
            if standing.digest != ours.digest and (theirs := self._ledger.state(record.key)) is not None:
                state.load(theirs, standing.digest)
            return standing

        standing = processes.from_first(enter)
        state.digest = standing.digest
        if self._is_first and record.parent not in self._kept and not self._keep_all:
            self._ledger.release(record.parent, self._run.id)
        return standing

    def _state(self, number: int, tensors: Tensors, state_digest: str) -> State:
        state = State(self._run.network(self._run.chain.stage(number)), digest=state_digest)
        if self._is_first:
            state.load(tensors, state_digest)
        return state

    def _hold(self, keys: Iterable[str]) -> None:
        if self._is_first:
            for key in keys:
                self._ledger.hold(key, self._run.id, self._folder)

    def _hold_only(self, keys: Sequence[str]) -> None:
        """Hold the last of the epochs so far, or all, and give up what earlier attempts of the run held beside."""
        wanted = self._kept | set(keys if self._keep_all else keys[-1:])
        self._hold(wanted)
        for key in {*keys} - wanted:  # not the next epoch, which may be saved in the middle
            if self._run.id in self._ledger.holders(key):
                self._ledger.release(key, self._run.id)


def share(state: State, recipe: Recipe) -> None:
    """Give all processes the first one's state, with all that ``recipe`` needs."""
    state.prepare(recipe)
    processes.send_from_first(state.values())
    if state.scaler is not None:
        state.scaler.load_state_dict(processes.from_first(state.scaler.state_dict))
