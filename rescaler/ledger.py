"""The ledger: immutable entries, one an epoch, each under the key of all that made it.

    <folder>/entries/ab/ab12.../record.json   small, stays
                                state.pt      weights and momentum, removed when no run holds it
    <folder>/holds/ab12....<run id>            names the folder of a run that stands on the state, or wants it kept
    <folder>/tmp/                             entries being written

An entry is published by one rename, and the first writer wins: two processes that train the same epoch waste time,
never data. No lock is needed.
"""

import hashlib
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rescaler.errors import InputError
from rescaler.files import sync, write_text, writing
from rescaler.record import Record

log = logging.getLogger(__name__)

Tensors = Mapping[str, Tensor]
_ABANDONED_S = 24 * 3600
"""Age at which an unpublished entry is taken for the remains of a killed process."""


def digest(tensors: Tensors) -> str:
    """SHA-256 over names, types, shapes and bytes; independent of memory layout and device."""
    hasher = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()


@dataclass(frozen=True)
class Removal:
    """What :meth:`Ledger.prune` removed, or would remove."""

    states: int
    size_bytes: int


class Ledger:
    """States and records of epochs in ``folder``, which is made on demand.

    Raises:
        InputError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        with writing(self.folder):
            self._tmp.mkdir(parents=True, exist_ok=True)
            probe = self._tmp / uuid.uuid4().hex
            probe.touch()
            probe.unlink()

    @property
    def _tmp(self) -> Path:
        return self.folder / "tmp"

    @property
    def _holds(self) -> Path:
        return self.folder / "holds"

    def _entry(self, key: str) -> Path:
        return self.folder / "entries" / key[:2] / key

    def state_path(self, key: str) -> Path:
        """Where the state of ``key`` is, if it is kept."""
        return self._entry(key) / "state.pt"

    def record(self, key: str) -> Record | None:
        """The record under ``key``; None where there is none, or a damaged one (named in the log)."""
        path = self._entry(key) / "record.json"
        try:
            record = Record.from_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            log.warning("damaged ledger entry %s: not trusted, its epoch is trained again", path)
            return None
        return record if record.key == key else None

    def state(self, record: Record) -> dict[str, Tensor] | None:
        """The state that ``record`` describes, on the CPU; None where it is gone, or damaged (named in the log)."""
        path = self.state_path(record.key)
        try:
            tensors: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
            if digest(tensors) == record.digest:
                return tensors
        except FileNotFoundError:
            return None
        except Exception as error:  # whatever unpickling or unzipping a damaged file raises
            log.debug("%s: %s", path, error)
        log.warning("damaged ledger entry %s: not trusted, its epoch is trained again", path)
        with writing(path):
            path.unlink(missing_ok=True)
        return None

    def publish(self, record: Record, tensors: Tensors) -> Record:
        """Enter an epoch; returns the record that now stands under its key.

        That is another process's record where one was first: the caller goes on from that one's state, so that one key
        means one state (on a GPU two runs of the same epoch may differ in the last bits).

        Raises:
            InputError: the ledger cannot be written.
        """
        entry, temporary = self._entry(record.key), self._tmp / uuid.uuid4().hex
        with writing(entry):
            temporary.mkdir()
            entry.parent.mkdir(parents=True, exist_ok=True)
            try:
                torch.save(dict(tensors), temporary / "state.pt")
                (temporary / "record.json").write_text(record.to_json(), encoding="utf-8")
                sync(temporary / "state.pt")
                sync(temporary / "record.json")
                return self._place(record, temporary)
            except RuntimeError as error:  # torch.save reports a full disk so
                raise InputError(f"cannot write {temporary}: {str(error).splitlines()[0]}") from error
            finally:
                shutil.rmtree(temporary, ignore_errors=True)

    def _place(self, record: Record, temporary: Path) -> Record:
        entry = self._entry(record.key)
        try:
            temporary.rename(entry)
            return record
        except OSError:
            if not entry.is_dir():
                raise
        standing = self.record(record.key)
        if standing is None or (standing.digest != record.digest and not self.state_path(record.key).exists()):
            # Nobody can go on from what stands there: take its place. Later records of the old chain name the old
            # state's digest as their parent's, so they are not taken for continuations of this one.
            (temporary / "state.pt").replace(entry / "state.pt")
            (temporary / "record.json").replace(entry / "record.json")
            return record
        if standing.digest == record.digest:
            (temporary / "state.pt").replace(entry / "state.pt")
        return standing

    def _hold(self, key: str, run_id: str) -> Path:
        return self._holds / f"{key}.{run_id}"

    def hold(self, key: str, run_id: str, run_folder: Path) -> None:
        """Keep the state of ``key``, now or once there is one, for as long as ``run_folder`` exists."""
        write_text(self._hold(key, run_id), str(run_folder.absolute()))

    def release(self, key: str, run_id: str) -> None:
        """Give up the hold of ``run_id``, and remove the state if no other run holds it."""
        with writing(self.folder):
            self._hold(key, run_id).unlink(missing_ok=True)
            if not self.held(key):
                self.state_path(key).unlink(missing_ok=True)

    def held(self, key: str) -> bool:
        """Whether a run whose folder exists holds the state of ``key``."""
        return any(map(_is_live, self._holds.glob(f"{key}.*")))

    def records(self) -> Iterator[Record]:
        """All records, in no particular order."""
        for path in self.folder.glob("entries/??/*/record.json"):
            if (record := self.record(path.parent.name)) is not None:
                yield record

    def prune(self, *, dry_run: bool = False) -> Removal:
        """Remove the states that no run holds, and what killed processes left; records stay.

        Raises:
            InputError: the ledger cannot be written.
        """
        unneeded = [path for path in self.folder.glob("entries/??/*/state.pt") if not self.held(path.parent.name)]
        horizon = time.time() - _ABANDONED_S
        remains = [path for path in self._tmp.glob("*/*") if path.stat().st_mtime < horizon]
        dead = [path for path in self._holds.glob("[!.]*") if not _is_live(path)]
        removal = Removal(len(unneeded), sum(path.stat().st_size for path in unneeded + remains + dead))
        if not dry_run:
            with writing(self.folder):
                for path in unneeded + remains + dead:
                    path.unlink(missing_ok=True)
                for folder in {path.parent for path in remains}:
                    folder.rmdir()
        return removal

    def size_bytes(self) -> int:
        """Disk that the ledger's files take."""
        total = 0
        for folder, _, names in os.walk(self.folder):
            total += sum((Path(folder) / name).stat().st_size for name in names)
        return total


def _is_live(hold: Path) -> bool:
    try:
        return Path(hold.read_text(encoding="utf-8")).is_dir()
    except FileNotFoundError:  # just released
        return False
