"""Files that are whole or not there: written under a temporary name, then renamed. Small files read; locks."""

import contextlib
import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from rescaler.errors import InputError, one_line


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure to write below ``path`` (full disk, no permission) into one clear line.

    Raises:
        InputError: the operating system refused; the message has its reason.
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write {error.filename or path}: {error.strerror}") from error


def sync(path: Path) -> None:
    """Ask for ``path``'s bytes to be on the disk before going on."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write, which then takes ``path``'s place: a reader sees the old content or the new.

    Raises:
        InputError: the folder cannot be written.
    """
    if not path.name:
        raise InputError(f"cannot write {path}: it must be a file")
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` in one step.

    Raises:
        InputError: the folder cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: the file is missing, unreadable, not UTF-8, or holds something else.
    """
    return _read_mapping(path, json.loads)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping, as ``yaml.safe_dump`` wrote it.

    Raises:
        InputError: the file is missing, unreadable, not UTF-8, or holds something else.
    """
    import yaml

    def parse(text: str) -> Any:
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(one_line(error)) from error

    return _read_mapping(path, parse)


def _read_mapping(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"cannot read {path}: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise InputError(f"cannot read {path}: it must hold keys and values; got {type(content).__name__}")
    return content


@contextlib.contextmanager
def removed_on_failure(*folders: Path, unless: Sequence[str] = ()) -> Iterator[None]:
    """If the block fails, remove the folders, and their parents, that were not there before.

    Args:
        folders: that the block may make.
        unless: names of files; a folder that has one of them stays.
    """
    new = [folder for folder in folders if not folder.exists()]
    parents = {parent for folder in new for parent in folder.absolute().parents if not parent.exists()}
    try:
        yield
    except (Exception, KeyboardInterrupt):  # not the exit of a job that is requeued
        for folder in new:
            if not any((folder / name).exists() for name in unless):
                shutil.rmtree(folder, ignore_errors=True)
        for parent in sorted(parents, reverse=True):
            with contextlib.suppress(OSError):  # not empty
                parent.rmdir()
        raise


_held: list[IO[str]] = []


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file, which the system releases when the process ends, however it ends.

    Raises:
        BlockingIOError: another process holds it.
        OSError: its file system has no locks, or it cannot be written.
    """
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _held.append(file)
        try:
            yield
        finally:
            _held.remove(file)


def is_locked(path: Path) -> bool | None:
    """Whether a process holds the lock of a file; None where its file system has no locks."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    except OSError:
        return None
    return False


def _release_in_child() -> None:
    """In a forked worker, which may outlive its parent: the lock is the parent's alone."""
    for file in _held:
        file.close()


os.register_at_fork(after_in_child=_release_in_child)
