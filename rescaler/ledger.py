"""The ledger: immutable entries, one an epoch, each under the key of all that made it.

    <folder>/entries/ab/ab12.../record.json         small, immutable, stays
                                state.safetensors   weights and optimizer, removed when no run holds it
                                *.damaged           not what had been written; removed by prune
    <folder>/saves/KEY.safetensors                  an epoch in the middle, until it is published
    <folder>/holds/ab/ab12.../RUN.FOLDER            a run keeps a state, while its folder exists
    <folder>/origins/ab/ab12.../KEY.json                  sketches of initial weights
    <folder>/tmp/                                   entries being written
    <folder>/id                                     tells whether two machines see the same ledger

An entry is published by one rename, and the first writer wins: two processes that train the same epoch waste time,
never data. No lock is needed.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from rescaler import checkpoint
from rescaler.checkpoint import Tensors
from rescaler.config import Experiment
from rescaler.errors import InputError
from rescaler.files import replacing, sync, write_text, writing
from rescaler.record import Record

log = logging.getLogger(__name__)

Values = Mapping[str, Sequence[float]]

SUFFIX = ".safetensors"
STATE = f"state{SUFFIX}"
_ABANDONED_S = 24 * 3600
"""Age at which what is not finished is taken for the remains of a killed process."""
_GRACE_S = 3600
"""Age up to which prune leaves what no run holds: a run may be about to."""


@dataclass(frozen=True)
class Removal:
    """States and bytes that :meth:`Ledger.prune` or :meth:`Ledger.free` removed, or would remove."""

    states: int
    size_bytes: int


class Ledger:
    """States and records of epochs below ``folder``, which is made when the first is written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()

    @classmethod
    def of(cls, experiment: Experiment) -> "Ledger":
        """Return the ledger of an experiment's runs."""
        return cls(Path(experiment.ledger.folder).expanduser())

    def check_writable(self) -> None:
        """Try to write, before anything is trained.

        Raises:
            InputError: the folder cannot be written.
        """
        try:
            write_text(self._tmp / "probe", "")
            if self.id is None:
                self._publish_id()
        except InputError as error:
            raise InputError(f"ledger.folder={self.folder}: {error}") from error

    @property
    def id(self) -> str | None:
        """Tells this ledger from another machine's at the same path; None before it is written to."""
        path = self.folder / "id"
        try:
            with _reading(path):
                return path.read_text(encoding="utf-8", errors="replace")
        except InputError as error:
            if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                return None
            raise

    def _publish_id(self) -> None:
        temporary, path = self._tmp / uuid.uuid4().hex, self.folder / "id"
        write_text(temporary, temporary.name)
        with writing(path):
            try:
                os.link(temporary, path)  # unlike a rename it fails where another process was first
            except FileExistsError:
                pass
            except OSError:  # a file system without links, such as exFAT, which one machine has for itself
                temporary.replace(path)
            temporary.unlink(missing_ok=True)

    @property
    def _tmp(self) -> Path:
        return self.folder / "tmp"

    def _holds(self, key: str) -> Path:
        return self.folder / "holds" / key[:2] / key

    def _entry(self, key: str) -> Path:
        return self.folder / "entries" / key[:2] / key

    def state_path(self, key: str) -> Path:
        """Return the path of the state of ``key``, kept or not."""
        return self._entry(key) / STATE

    def record(self, key: str) -> Record | None:
        """Return the record under ``key``; None where there is none, or a damaged one (named in the log).

        Raises:
            InputError: it cannot be read.
        """
        path = self._entry(key) / "record.json"
        with _reading(path):
            try:
                record = Record.from_json(path.read_text(encoding="utf-8"))
                if record.key != key:
                    raise ValueError("of another epoch")
                return record
            except FileNotFoundError:
                return None
            except (ValueError, IsADirectoryError) as error:
                _warn_of_damage(path, error)
                return None

    def state(self, key: str) -> dict[str, Tensor] | None:
        """Return the state of ``key``, on the CPU; None where it is not kept, or is damaged (logged, and set aside).

        Raises:
            InputError: it cannot be read: by a failing disk, or for lack of memory.
        """
        content = _read(self.state_path(key), key)
        return content and content.tensors

    def saved(self, key: str) -> checkpoint.Content | None:
        """Return an unfinished epoch as :meth:`save` wrote it; None where there is none, or a damaged one.

        Raises:
            InputError: as of :meth:`state`.
        """
        return _read(self._save_path(key), key)

    def save(self, key: str, tensors: Tensors, more: Mapping[str, Any]) -> None:
        """Save an unfinished epoch, replacing its last save.

        Any process that trains the epoch resumes from it. It is removed when the epoch is published or unheld.

        Raises:
            InputError: the ledger cannot be written.
        """
        with replacing(self._save_path(key)) as temporary:
            checkpoint.write(temporary, tensors, more={**more, "key": key})

    def _save_path(self, key: str) -> Path:
        return self.folder / "saves" / f"{key}{SUFFIX}"

    def publish(self, record: Record, tensors: Tensors) -> Record:
        """Enter an epoch; returns the record that now stands under its key.

        That is an earlier one where there is one: records are immutable. Its state is another process's if that was
        first, and the caller resumes from it, so that one key means one state (on a GPU two processes that train the
        same epoch may differ in the last bits). Where the state had been removed, ``tensors`` take its place.

        Raises:
            InputError: the ledger cannot be written.
        """
        entry, temporary = self._entry(record.key), self._tmp / uuid.uuid4().hex
        with writing(entry):
            temporary.mkdir(parents=True)
            entry.parent.mkdir(parents=True, exist_ok=True)
            try:
                checkpoint.write(temporary / STATE, tensors, known_digest=record.digest, more={"key": record.key})
                (temporary / "record.json").write_text(record.to_json(), encoding="utf-8")
                sync(temporary / "record.json")
                standing = self._place(record, temporary)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            self._save_path(record.key).unlink(missing_ok=True)
            return standing

    def _place(self, record: Record, temporary: Path) -> Record:
        entry = self._entry(record.key)
        try:
            temporary.rename(entry)
            return record
        except OSError:
            if not entry.is_dir():
                raise
        standing = self.record(record.key)
        if standing is None or not self.state_path(record.key).exists():
            (temporary / STATE).replace(entry / STATE)
        if standing is None:  # damaged, and with it what tells which state is its own
            (temporary / "record.json").replace(entry / "record.json")
        return standing or record

    def hold(self, key: str, run_id: str, run_folder: Path) -> None:
        """Keep the state of ``key``, now or once there is one, for as long as ``run_folder`` exists."""
        folder = os.path.relpath(run_folder.absolute(), self.folder)  # the project may be moved or copied
        write_text(self._holds(key) / f"{run_id}.{_short_digest(folder)}", folder)

    def release(self, key: str, run_id: str) -> None:
        """Give up the holds of ``run_id``, and remove the state if no other run holds it."""
        with writing(self.folder):
            for hold in self._holds(key).glob(f"{run_id}.*"):
                hold.unlink(missing_ok=True)
            if not self.held(key):
                self.state_path(key).unlink(missing_ok=True)
                self._save_path(key).unlink(missing_ok=True)

    def held(self, key: str) -> bool:
        """Return whether a run whose folder exists holds the state of ``key``."""
        return any(map(self._is_live, self._holds(key).glob("[!.]*")))

    def holders(self, key: str) -> set[str]:
        """Return the ids of the runs that hold the state of ``key``, whether their folders exist or not."""
        return {hold.name.partition(".")[0] for hold in self._holds(key).glob("[!.]*")}

    def records(self) -> Iterator[Record]:
        """Yield all records, in no particular order."""
        for path in self.folder.glob("entries/??/*/record.json"):
            if (record := self.record(path.parent.name)) is not None:
                yield record

    def verify(self) -> Iterator[str]:
        """Check every entry and every save; yield what is wrong with each, an empty text where nothing is.

        A damaged state is set aside. A run that needs what is damaged trains its epochs again.
        """
        for entry in sorted(self.folder.glob("entries/??/*")):
            record = self.record(entry.name)
            if record is None:
                yield f"{entry.name}: its record is damaged or gone"
            elif self.state_path(record.key).exists() and self.state(record.key) is None:
                yield f"{record.key}: its state is damaged"
            elif record.epoch > 1 and self.record(record.parent) is None:
                yield f"{record.key}: the epoch before it has no record"
            else:
                yield ""
        for path in sorted(self.folder.glob(f"saves/[!.]*{SUFFIX}")):
            yield "" if self.saved(path.stem) else f"{path.stem}: what was saved in the middle of it is damaged"

    def prune(self, *, dry_run: bool = False, force: bool = False) -> Removal:
        """Remove the states that no run holds, damaged ones, and what killed processes left; records stay.

        Args:
            dry_run: only say what would be removed.
            force: even where the folders of all runs are gone, and what is younger than an hour.

        Raises:
            InputError: the ledger cannot be written, or no hold is alive, as where the ledger alone was moved.
        """
        states, size_bytes = 0, 0
        with writing(self.folder):
            holds = list(self.folder.glob("holds/??/*/[!.]*"))
            if holds and not force and not any(map(self._is_live, holds)):
                raise InputError(
                    f"the folders of all runs that hold states of {self.folder} are gone: if they were moved, move the "
                    "ledger along; --force removes all states"
                )
            for path in self._unneeded(time.time() - (-1 if force else _GRACE_S)):
                states += path.suffix == SUFFIX
                size_bytes += _size_bytes(path)
                if dry_run:
                    continue
                if path.is_dir():  # in the place of a file
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
        return Removal(states, size_bytes)

    def free(self, folders: Sequence[Path], *, dry_run: bool = False) -> Removal:
        """Give up the holds of runs' folders, and remove the states that no other run holds; records stay.

        Unlike :meth:`release` it leaves the holds of a copy of the run in another folder, and unlike :meth:`prune`
        what these runs never held.

        Args:
            folders: of the runs, which are about to be removed.
            dry_run: only say what would be removed.

        Raises:
            InputError: the ledger cannot be written.
        """
        leaving = {Path(os.path.realpath(folder)) for folder in folders}
        holds: dict[str, list[Path]] = {}
        for hold in self.folder.glob("holds/??/*/[!.]*"):
            if self._holder(hold) in leaving:
                holds.setdefault(hold.parent.name, []).append(hold)
        states, size_bytes = 0, 0
        with writing(self.folder):
            for key, own in holds.items():
                others = (hold for hold in self._holds(key).glob("[!.]*") if hold not in own)
                needed = any(map(self._is_live, others))
                freed = [] if needed else [one for one in (self.state_path(key), self._save_path(key)) if one.exists()]
                for path in [*own, *freed]:
                    states += path in freed
                    size_bytes += _size_bytes(path)
                    if not dry_run:
                        path.unlink(missing_ok=True)
        return Removal(states, size_bytes)

    def run_folders(self) -> set[Path]:
        """Return the folders of all runs that hold a state, those that exist."""
        found = {self._holder(hold) for hold in self.folder.glob("holds/??/*/[!.]*")}
        return {folder for folder in found if folder is not None and folder.is_dir()}

    def _holder(self, hold: Path) -> Path | None:
        """Return the folder of the run that holds; None where the hold cannot be read, or is damaged."""
        try:
            folder = hold.read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return None
        is_whole = hold.name.endswith(f".{_short_digest(folder)}")
        return Path(os.path.realpath(self.folder / folder)) if is_whole else None

    def _unneeded(self, before: float) -> Iterator[Path]:
        """Yield the files to remove, last written ``before`` a time, one by one: there may be a hundred thousand."""
        for path in self.folder.glob(f"entries/??/*/{STATE}"):
            if not self.held(path.parent.name) and _is_older(path, before):
                yield path
        yield from self.folder.glob("entries/??/*/*.damaged")
        for path in self.folder.glob("saves/[!.]*"):  # with the damaged ones, which no run holds by that name
            if not self.held(path.stem) and (_is_older(path, before) or path.suffix == ".damaged"):
                yield path
        for path in self.folder.glob("holds/??/*/[!.]*"):
            if not self._is_live(path) and _is_older(path, before):
                yield path
        horizon = time.time() - _ABANDONED_S
        for pattern in ("tmp/**/*", "saves/.*", "holds/??/*/.*"):
            for path in self.folder.glob(pattern):
                if path.is_file() and _is_older(path, horizon):
                    yield path

    def _is_live(self, hold: Path) -> bool:
        """Return whether the folder of the run that holds is there; one that may not be looked at counts as there."""
        folder = self._holder(hold)
        try:
            return folder.is_dir() if folder is not None else hold.exists()  # else just released
        except OSError:
            return True

    def origin(self, constants: str, values: Values) -> str:
        """Return the key that a chain starts from.

        Initial values differ in their last bits between processors, so a chain starts from those that the ledger has
        seen before, where they are the same but for rounding.

        Args:
            constants: digest of all else that runs start from.
            values: sketches of the initial weights by name.
        """
        found = self._origins(constants)
        same = next((name for name, known in found.items() if _are_close(known, values)), None)
        rounded = {name: [f"{value:.3e}" for value in sketch] for name, sketch in values.items()}
        return same or _digest([constants, rounded])

    def keep_origin(self, constants: str, values: Values) -> None:
        """Let later runs start from the same key."""
        key = self.origin(constants, values)
        if key not in self._origins(constants):
            write_text(self._origin_folder(constants) / f"{key}.json", json.dumps(values))

    def _origins(self, constants: str) -> dict[str, Values]:
        found = {}
        for path in sorted(self._origin_folder(constants).glob("[!.]*.json")):
            with contextlib.suppress(OSError, ValueError):
                found[path.stem] = json.loads(path.read_text(encoding="utf-8"))
        return found

    def _origin_folder(self, constants: str) -> Path:
        return self.folder / "origins" / constants[:2] / constants

    def size_bytes(self) -> int:
        """Return the disk space of the ledger's files."""
        return sum(_size_bytes(path) for path in self.folder.rglob("*"))


def _read(path: Path, key: str) -> checkpoint.Content | None:
    with _reading(path):
        try:
            content = checkpoint.read(path)
            if content.more.get("key") != key:
                raise ValueError("of another epoch")
            return content
        except FileNotFoundError:
            return None
        except (ValueError, IsADirectoryError) as error:
            _warn_of_damage(path, error)
    with writing(path), contextlib.suppress(FileNotFoundError):  # another process may have set it aside
        path.rename(path.with_name(f"{path.name}.damaged"))
    return None


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn a failure to read ``path``, which says nothing of what is in it, into one clear line.

    Raises:
        InputError: the operating system refused, or there is too little memory.
    """
    try:
        yield
    except (OSError, MemoryError) as error:
        reason = error.strerror if isinstance(error, OSError) else "there is too little memory"
        raise InputError(f"cannot read {path}: {reason}") from error


def _warn_of_damage(path: Path, error: Exception) -> None:
    log.warning("damaged ledger entry %s: not trusted; a run that needs it trains its epoch again", path)
    log.debug("%s", error)


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:  # just removed by a live run
        return 0


def _short_digest(folder: str) -> str:
    return hashlib.sha256(os.fsencode(folder)).hexdigest()[:8]


def _is_older(path: Path, time_s: float) -> bool:
    """Return whether a file was last written before a time."""
    try:
        return path.stat().st_mtime < time_s
    except FileNotFoundError:  # just removed by a live run
        return False


def _are_close(known: Values, values: Values) -> bool:
    """Return whether sketches are of the same values but for rounding: to 1e-4 of each tensor's norm."""
    if known.keys() != values.keys():
        return False
    return all(
        abs(a - b) <= 1e-4 * max(abs(values[name][-1]), 1e-12)
        for name in values
        for a, b in zip(known[name], values[name], strict=True)
    )


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]
