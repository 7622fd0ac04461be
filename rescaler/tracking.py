"""Weights & Biases as a mirror: it shows the run's records, and nothing that happens to it reaches the training.

The client runs in a process of its own, which is sent one line of JSON an epoch. So importing it (more than a second of
work), its hooks into exit and exceptions, a slow or dead network, a crash or a hang cost the training neither time nor
its life: :class:`Tracker` writes to a pipe that never blocks, and waits only when it closes, a bounded time. Where
nobody can watch, since the user is not logged in, the process starts when the run ends: beside training on a few cores
it would show in what is being timed.

A run that is started again has the same id and logs its whole chain again. Offline, each attempt's folder is thus
complete by itself, and the newest is all that ``wandb sync`` needs. Online, the epochs that the server has already are
left out.
"""

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from rescaler.errors import InputError
from rescaler.record import Record
from rescaler.settings import LoggerSettings

log = logging.getLogger(__name__)

Mode = Literal["auto", "online", "offline", "disabled"]
_MODES: dict[str, Mode] = {"auto": "auto", "online": "online", "offline": "offline", "disabled": "disabled"}

_SERVER = "https://api.wandb.ai"
_CLOSE_S = 30.0
"""How long the end of a run waits for the last uploads."""
_CLIENT_S = 60.0
"""How long the client itself tries to start and to finish, so that it ends even if the training was killed."""


def resolve_mode(mode: str, environ: Mapping[str, str]) -> Mode:
    """Where the run is mirrored to; a mode that the configuration names wins over the environment.

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


def row(record: Record, *, reused: bool, time_s: float) -> dict[str, float | str]:
    """What is shown of one epoch; ``epoch`` and ``training_h`` are its x axes (the paper's Figures 4 and 5).

    Args:
        record: the epoch.
        reused: the epoch was read back from the ledger, not trained by this run.
        time_s: seconds of training from the start of the chain to the end of this epoch.

    Returns:
        Metrics by name, accuracies in [0, 1].
    """
    return {
        "epoch": record.epoch,
        "training_h": time_s / 3600,
        "train/loss": record.train_loss,
        "train/top1": record.train_top1,
        "test/loss": record.test_loss,
        "test/top1": record.test_top1,
        "test/top5": record.test_top5,
        "learning_rate": record.learning_rate,
        "weight_decay": record.weight_decay,
        "stage": record.stage,
        "image_px": record.image_px,
        "seconds/train": record.train_s,
        "seconds/data": record.data_s,
        "seconds/rescale": record.rescale_s,
        "seconds/evaluation": record.evaluation_s,
        "reused": int(reused),
        "rescaled": int(record.rescaled),
    }


class Tracker:
    """An observer of the training that mirrors one run.

    What goes wrong there is one warning in the log, and the run goes on without it. With ``logger.mode=disabled`` no
    process is started and nothing is written.

    Args:
        settings: the configuration's ``logger``.
        run_id: follows from the chain of epochs, so that a resumed run is the same run.
        name: shown for the run.
        group: shown for the sweep.
        folder: the run's; the client keeps its files in ``wandb/`` below it.
        config: the frozen configuration; what JSON has no type for is shown as text.

    Raises:
        InputError: an unknown mode.
    """

    def __init__(
        self,
        settings: LoggerSettings,
        *,
        run_id: str,
        name: str,
        group: str,
        folder: Path,
        config: Mapping[str, Any],
    ) -> None:
        mode = resolve_mode(settings.mode, os.environ)
        self._on = mode != "disabled"
        self._process: subprocess.Popen[bytes] | None = None
        self._unsent = b""
        self._time_s = 0.0
        if _is_watched(mode, os.environ):
            self._start()
        self._send(
            {
                "mode": mode,
                "id": run_id,
                "name": name,
                "group": group,
                "dir": str(folder),
                "config": config,
                "project": settings.project,
                "entity": settings.entity,
                "tags": settings.tags,
            }
        )

    def batch(self, epoch: object, done: int) -> None:
        """Nothing: epochs are shown, not batches."""

    def epoch(self, record: Record, *, reused: bool) -> None:
        """Show one epoch, and return at once; the run's epochs come in order from the first, those read back too."""
        self._time_s += record.training_s
        self._send(row(record, reused=reused, time_s=self._time_s))

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
        self._unsent += json.dumps(message, default=str).encode() + b"\n"
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
    from requests.utils import get_netrc_auth

    return bool(environ.get("WANDB_API_KEY") or get_netrc_auth(environ.get("WANDB_BASE_URL", _SERVER)))


def _client() -> subprocess.Popen[bytes]:
    """Start the client's process, in a session of its own: a Ctrl-C in the terminal is for the training alone."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", "from rescaler.tracking import main; main()"],
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


def main() -> None:
    """The client's process: mirror what stands on the standard input, with what processor time training leaves."""
    os.nice(10)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):  # a cluster warns all processes of a job
        signal.signal(number, signal.SIG_IGN)
    try:
        mirror(sys.stdin)
    except Exception as error:
        raise SystemExit(f"{type(error).__name__}: {' '.join(str(error).split())}") from None


def mirror(lines: Iterable[str]) -> None:
    """Pass the messages of a :class:`Tracker` on to the client.

    Args:
        lines: one JSON object each: how to start, then epochs, then how the run ended. Where the last is missing,
            training was killed, and the run is marked as failed.
    """
    import wandb

    messages = map(json.loads, lines)
    start = next(messages)
    if start["mode"] == "auto":
        start["mode"] = _preferred_mode()
    run = wandb.init(
        **start,
        resume="allow",
        settings=wandb.Settings(
            console="off",
            disable_code=True,
            finish_timeout=_CLIENT_S,
            init_timeout=_CLIENT_S,
            silent=True,
            x_stats_pid=os.getppid(),
        ),
    )
    run.define_metric("epoch")
    run.define_metric("training_h")
    run.define_metric("*", step_metric="epoch")
    failed = True
    for message in messages:
        if "summary" in message:
            run.summary.update(message["summary"])
            failed = message["failed"]
            break  # not at the end of the input, which workers forked by the training may hold open
        if message["epoch"] >= run.starting_step:
            run.log(message, step=message["epoch"])
    run.finish(exit_code=int(failed))


def _preferred_mode() -> str:
    """What the user told the client before, by ``wandb offline`` or ``wandb login``; asks no network and no person."""
    import wandb
    from requests.utils import get_netrc_auth

    settings = wandb.setup().settings
    known = settings.api_key or settings.identity_token_file or get_netrc_auth(settings.base_url)
    return "offline" if settings.mode == "online" and not known else settings.mode
