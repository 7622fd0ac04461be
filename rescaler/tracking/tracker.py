"""The training's side of the mirror.

The client runs in a process of its own, which is sent one line of JSON an epoch. So importing it (more than a second of
work), its hooks into exit and exceptions, a slow or dead network, a crash or a hang cost the training neither time nor
its life: :class:`Tracker` writes to a pipe that never blocks, and waits only when it closes, a bounded time. Where
nobody can watch, since the user is not logged in, the process starts when the run ends: otherwise its start-up would
disturb the timings.
"""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from rescaler.config import LoggerSettings
from rescaler.errors import InputError
from rescaler.record import Record
from rescaler.tracking.schema import History, opening

log = logging.getLogger(__name__)

Mode = Literal["auto", "online", "offline", "disabled"]
_MODES: dict[str, Mode] = {"auto": "auto", "online": "online", "offline": "offline", "disabled": "disabled"}

_SERVERS = ("https://api.forge.coreweave.com", "https://api.wandb.ai")
"""W&B's own, where no other is configured: the client's default, and under which name older ones kept the login."""
_CLOSE_S = 30.0
"""How long the end of a run waits for the last uploads."""


def resolve_mode(mode: str, environ: Mapping[str, str]) -> Mode:
    """Resolve where the run is mirrored to; a mode that the configuration names wins over the environment.

    Args:
        mode: ``logger.mode``.
        environ: the process's environment, of which ``WANDB_MODE`` counts where ``mode`` is ``auto``.

    Returns:
        ``online``, ``offline``, ``disabled``; or ``auto`` where only the client knows whether the user is logged in.

    Raises:
        InputError: ``mode`` or ``WANDB_MODE`` is none of these.
    """
    if mode != "auto" or not environ.get("WANDB_MODE"):
        key, value, allowed = "logger.mode", mode, _MODES
    else:
        key, value = "WANDB_MODE", environ["WANDB_MODE"]
        allowed = {name: known for name, known in _MODES.items() if name != "auto"}
    if value not in allowed:
        raise InputError(f"{key} must be one of {', '.join(allowed)}; got {value!r}")
    return allowed[value]


class Tracker:
    """An observer of the training that mirrors one run.

    What goes wrong there is one warning in the log, and the run goes on without it. With ``logger.mode=disabled`` no
    process is started and nothing is written.

    Args:
        settings: the configuration's ``logger``.
        summary: the run's, before its first epoch.
        config: the frozen configuration; what JSON has no type for is shown as text.
        group: of the sweep, where the settings name none.
        folder: the run's; the client keeps its files in ``wandb/`` below it.

    Raises:
        InputError: an unknown mode.
    """

    def __init__(
        self,
        settings: LoggerSettings,
        *,
        summary: Mapping[str, Any],
        config: Mapping[str, Any],
        group: str,
        folder: Path,
    ) -> None:
        mode = resolve_mode(settings.mode, os.environ)
        self._on = mode != "disabled"
        self._process: subprocess.Popen[bytes] | None = None
        self._unsent = b""
        self._history = History()
        if _is_watched(mode, os.environ):
            self._start()
        self._send({"mode": mode, **opening(summary, config, settings, group=group, folder=folder)})

    def batch(self, epoch: object, done: int) -> None:
        """Nothing: epochs are shown, not batches."""

    def epoch(self, record: Record, *, reused: bool) -> None:
        """Show one epoch, and return at once; the run's epochs come in order from the first, those read back too."""
        self._send(self._history.row(record, reused=reused))

    def finish(self, summary: Mapping[str, Any], *, failed: bool = False) -> None:
        """Say that the run ended, and wait until that has arrived, at most half a minute; later calls do nothing.

        Args:
            summary: the run's results by name, such as ``best_top1`` and ``training_s``.
            failed: the run ended early, by an error or a signal.
        """
        self._send({"summary": summary, "failed": failed})
        if self._process is None:
            self._start()
        if self._process is None:
            return
        try:
            _, errors = self._process.communicate(self._unsent, timeout=_CLOSE_S)
        except subprocess.TimeoutExpired:
            self._off(f"not done after {_CLOSE_S:g} s")
        else:
            self._off(_last_line(errors) if self._process.returncode else None)

    def _start(self) -> None:
        if self._on:
            try:
                self._process = _client()
            except OSError as error:
                self._off(str(error))

    def _send(self, message: Mapping[str, Any]) -> None:
        if not self._on:
            return
        self._unsent += json.dumps(message).encode() + b"\n"
        if self._process is None:
            return
        assert self._process.stdin is not None
        assert self._process.stderr is not None
        try:
            self._unsent = self._unsent[os.write(self._process.stdin.fileno(), self._unsent) :]
        except BlockingIOError:
            pass  # the pipe is full, the client is busy: next time
        except OSError:
            self._off(_last_line(self._process.stderr.read()))

    def _off(self, why: str | None) -> None:
        if why is not None:
            log.warning("Weights & Biases is off, the run goes on without it: %s", why)
        if self._process is not None:
            with self._process:
                self._process.kill()
        self._process = None
        self._on = False


def _is_watched(mode: Mode, environ: Mapping[str, str]) -> bool:
    """Whether somebody may look at the run while it trains; the client itself decides ``auto``, and knows better."""
    if mode != "auto":
        return mode == "online"
    return bool(environ.get("WANDB_API_KEY")) or in_netrc(environ.get("WANDB_BASE_URL"))


def in_netrc(server: str | None) -> bool:
    """Whether the user's netrc has a login for ``server``, its URL; ``None``: W&B's own."""
    from requests.utils import get_netrc_auth

    urls = _SERVERS if server is None or server.rstrip("/") in _SERVERS else (server,)
    return any(get_netrc_auth(url) is not None for url in urls)


def _client() -> subprocess.Popen[bytes]:
    """Start the client's process, in a session of its own: a Ctrl-C in the terminal is for the training alone."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", "from rescaler.running.mirroring import main; main()"],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},  # wherever this process found the package
        start_new_session=True,
    )
    for pipe in (process.stdin, process.stderr):
        assert pipe is not None
        os.set_blocking(pipe.fileno(), False)
    return process


def _last_line(errors: bytes | None) -> str:
    lines = (errors or b"").decode(errors="replace").splitlines()
    return next((line for line in reversed(lines) if line.strip()), "the client ended without a word")
