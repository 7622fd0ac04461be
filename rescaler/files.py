"""Files that are whole or not there: written under a temporary name, then renamed."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from rescaler.errors import InputError


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
