"""W&B logger: how a run is laid out there, in both directions, and the training's side of the mirror.

config     the settings, and below ``identity`` what of ``summary.json`` stands before the first epoch
history    one row an epoch, its number the step: every field of its record, the x axes, the resize as an event
summary    ``summary.json`` as it ended, the time saved, and W&B's own: the last value of every metric

wandb runs in a process of its own (:mod:`rescaler.loggers.wandb_client`), which gets one line of JSON an epoch. So its
import, its hooks, a slow or dead network, a crash or a hang cost the training neither time nor its life. A run that is
started again has the same id, and sends the epochs that neither the server nor an earlier offline file has.
"""

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

from rescaler.config import LoggerSettings
from rescaler.errors import InputError
from rescaler.record import CLOCKS, EPOCH_FIELDS, Record
from rescaler.summary import Identity, iso, totals

log = logging.getLogger(__name__)

Mode = Literal["auto", "online", "offline", "disabled"]
_SERVERS = ("https://api.forge.coreweave.com", "https://api.wandb.ai")
"""W&B's own, where no other is configured: the client's default, and under which name older ones kept the login."""
_CLIENT = (
    "from rescaler.loggers.wandb import stay_out_of_the_way; stay_out_of_the_way();"
    "from rescaler.cli.upload import mirror_live; mirror_live()"  # takes a second to import
)
_CLOSE_S = 30.0
"""How long the end of a run waits for the last uploads."""

_SHOWN = {
    **{name: name for name in ("epoch", "stage", "image_px", "rescaled", "learning_rate", "weight_decay")},
    **{name: name for name in ("held", "images", "reused")},
    **{f"{split}_{metric}": f"{split}/{metric}" for split in ("train", "test") for metric in ("loss", "top1")},
    "test_top5": "test/top5",
    **{clock: f"seconds/{clock.removesuffix('_s')}" for clock in CLOCKS},
}
NAMES = {field: _SHOWN.get(field, f"record/{field}") for field in EPOCH_FIELDS}
"""Field of an epoch -> its metric. What tells where an epoch came from is for reading back, in no chart."""

HOURS = "training_h"
_OVER_HOURS = {f"over_hours/{name}": name for name in ("train_loss", "train_top1", "test_loss", "test_top1")}
_RESIZE = ("resize/training_h", "resize/top1_change")

AXES: dict[str, str | None] = {
    "epoch": None,
    HOURS: None,
    **dict.fromkeys((name for name in NAMES.values() if name != "epoch" and not name.startswith("record/")), "epoch"),
    **dict.fromkeys(_OVER_HOURS, HOURS),
    **dict.fromkeys(_RESIZE, "epoch"),
}
"""Metric that has a chart -> its x axis; W&B knows one for each, so those over both stand there twice."""
HIDDEN = [name for name in NAMES.values() if name not in AXES]

_LONGEST_TAG = 64


def opening(
    summary: Mapping[str, Any], config: Mapping[str, Any], settings: LoggerSettings, *, group: str, folder: Path
) -> dict[str, Any]:
    """Arguments of ``wandb.init`` for a run before its first epoch; the id is the run's, also when it is resumed."""
    resize_epoch = summary["resize_epoch"]
    role = {0: "target baseline", "never": "pre-train baseline"}.get(resize_epoch, "resized")
    identity = {key: value for key, value in summary.items() if key in Identity.__annotations__}
    tags = [summary["model"], summary["data"], role, *(["held"] if summary["hold"] else []), *settings.tags]
    return {
        "id": summary["run"],
        "name": f"{summary['name']} resize_epoch={resize_epoch} seed={summary['seed']}",
        "group": settings.group or group,
        "tags": list(dict.fromkeys(tag[:_LONGEST_TAG] for tag in tags if tag)),
        "project": settings.project,
        "entity": settings.entity,
        "dir": str(folder),
        "config": json.loads(json.dumps({**config, "identity": identity}, default=str)),
    }


class History:
    """Turns the epochs of one run, in order from the first, into rows."""

    def __init__(self) -> None:
        self._training_s = 0.0
        self._top1: float | None = None

    def row(self, record: Record, *, reused: bool) -> dict[str, Any]:
        """What is shown of one epoch; ``epoch`` and ``training_h`` are its x axes (the paper's Figures 4 and 5).

        The first epoch after a rescale is an event: its row alone has the hours at which it began, and by how much
        the test accuracy changed in it, a fraction. W&B's charts then have one point there, and its summary keeps it.
        """
        began_s, before = self._training_s, self._top1
        self._training_s, self._top1 = began_s + record.training_s, record.test_top1
        values = {**record.cells(), "reused": reused}
        row = {NAMES[field]: int(value) if isinstance(value, bool) else value for field, value in values.items()}
        row |= {HOURS: self._training_s / 3600} | {name: values[field] for name, field in _OVER_HOURS.items()}
        if record.rescaled and before is not None:
            row |= dict(zip(_RESIZE, (began_s / 3600, record.test_top1 - before), strict=True))
        return row


def epoch(values: Mapping[str, Any]) -> dict[str, Any]:
    """An epoch from the text of a ``metrics.csv`` or from the JSON of a row; raises KeyError or ValueError."""
    return {
        field: values[field] in (1, "True") if kind is bool else kind(values[field])
        for field, kind in EPOCH_FIELDS.items()
    }


def epoch_of_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """The epoch that :meth:`History.row` made a row of; raises as :func:`epoch` does."""
    return epoch({field: row[name] for field, name in NAMES.items()})


def summary_of(
    config: Mapping[str, Any],
    summary: Mapping[str, Any],
    epochs: Sequence[Mapping[str, Any]],
    *,
    state: str,
    updated_s: float | None,
) -> dict[str, Any]:
    """``summary.json`` again, from what W&B holds.

    What follows from the epochs is computed from those that are there: a run that was killed or is still training has
    no whole summary in W&B.

    Args:
        config: of the run in W&B.
        summary: of the run in W&B.
        epochs: of the run, as :func:`epoch_of_row` gives them.
        state: of the run in W&B: ``running``, ``finished``, or how it failed.
        updated_s: when the newest row was written, in seconds since 1970; None without rows.

    Raises:
        KeyError: this is no run of ours.
    """
    pairs = [(Record(**{key: epoch[key] for key in epoch if key != "reused"}), epoch["reused"]) for epoch in epochs]
    identity, status, error = config["identity"], summary.get("status", "running"), summary.get("error")
    if status == "running" and state not in ("running", "finished"):  # nobody was left to say how it ended
        status, error = "failed", f"{state}, says W&B"
    if summary.get("epochs", 0) > len(pairs):
        status, error = "failed", f"W&B has {len(pairs)} of its {summary['epochs']} epochs"
    updated = identity["started"] if updated_s is None else iso(updated_s)
    return {
        **identity,
        "status": status,
        "error": error,
        **totals(pairs),
        "epochs_planned": config["schedule"]["epochs"] + sum(record.held for record, _ in pairs),
        "updated": summary.get("updated", updated),
    }


def resolve_mode(mode: str, environ: Mapping[str, str]) -> Mode:
    """Mode that ``logger.mode``, else ``WANDB_MODE`` asks for; ``auto`` where only the client knows of a login."""
    key, value, allowed = "logger.mode", mode, get_args(Mode)
    if mode == "auto" and environ.get("WANDB_MODE"):
        key, value, allowed = "WANDB_MODE", environ["WANDB_MODE"], allowed[1:]
    if value not in allowed:
        raise InputError(f"{key} must be one of {', '.join(allowed)}; got {value!r}")
    return cast(Mode, value)


class Wandb:
    """Mirrors one run. What goes wrong there is one warning in the log, and the run continues without it."""

    def __init__(self, settings: LoggerSettings, mode: Mode, *, group: str, folder: Path) -> None:
        self._settings, self._mode, self._group, self._folder = settings, mode, group, folder
        self._is_on = True
        self._process: subprocess.Popen[bytes] | None = None
        self._unsent = b""
        self._history = History()

    def start(self, summary: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        """Begin the run; where nobody can watch it, the process starts at its end, so as not to disturb the timings."""
        if _is_watched(self._mode, os.environ):
            self._start()
        begin = opening(summary, config, self._settings, group=self._group, folder=self._folder)
        self._send({"mode": self._mode, **begin})

    def epoch(self, record: Record, *, reused: bool) -> None:
        """Show one epoch, and return at once."""
        self._send(self._history.row(record, reused=reused))

    def finish(self, summary: Mapping[str, Any], *, failed: bool = False) -> None:
        """End the run, and wait until that has arrived, at most half a minute; later calls do nothing."""
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
        """Start the client's process, in a session of its own: a Ctrl-C in the terminal is for the training alone."""
        if not self._is_on:
            return
        pipe = subprocess.PIPE
        path = os.pathsep.join(sys.path)  # wherever this process found the package
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _CLIENT], bufsize=0, stdin=pipe, stdout=subprocess.DEVNULL, stderr=pipe,
                env={**os.environ, "PYTHONPATH": path}, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            self._off(str(error))
            return
        for stream in (self._process.stdin, self._process.stderr):
            assert stream is not None
            os.set_blocking(stream.fileno(), False)

    def _send(self, message: Mapping[str, Any]) -> None:
        if not self._is_on:
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
        self._is_on = False


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


def _last_line(errors: bytes | None) -> str:
    lines = (errors or b"").decode(errors="replace").splitlines()
    return next((line for line in reversed(lines) if line.strip()), "the client ended without a word")


def stay_out_of_the_way() -> None:
    """Have this process, the client's, take the processor time that the training leaves, and none of its signals."""
    os.nice(10)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):  # a cluster warns all processes of a job
        signal.signal(number, signal.SIG_IGN)
