"""Fetching a data set once: quietly, whole or not at all, without waiting for a network that is not there."""

import contextlib
import http.client
import io
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rescaler.files import writing

TIMEOUT_S = 20
"""Longest silence of a server."""

FAILURES = (OSError, RuntimeError, http.client.HTTPException, subprocess.SubprocessError)
"""What a download raises when it cannot be done."""


@contextlib.contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """Temporary folder below ``folder``, from where finished files are renamed to their place.

    Each of several processes that fetch the same files has its own; the last rename wins, with the same content.

    Raises:
        InputError: ``folder`` cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(prefix=".download-", dir=folder)
    with temporary as path:
        yield Path(path)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep torchvision's progress bars from the terminal, and give it the time-out that it does not set."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(before)


def reason(error: Exception) -> str:
    """Why a download failed, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
