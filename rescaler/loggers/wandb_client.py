"""W&B client, the only module that imports wandb: send runs, ask the server, read offline files."""

import contextlib
import json
import logging
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import wandb

from rescaler.errors import InputError, one_line
from rescaler.loggers.wandb import AXES, HIDDEN, HOURS, in_netrc

log = logging.getLogger(__name__)

_CLIENT_S = 60.0
"""How long the client itself tries to start and to finish, so that it ends even if the training was killed."""
PAGE = 200
"""Runs that one question to the server asks for."""


def mirror(messages: Iterable[Mapping[str, Any]], **settings: Any) -> None:
    """Pass a run on to the client; epochs that the server has already, or an earlier offline file, are left out.

    Offline files of one run are sent one after the other by ``wandb sync``, which appends what it finds, so no two may
    have the same epoch.

    Args:
        messages: how to start (:func:`rescaler.loggers.wandb.opening`, and ``mode``), then the rows of epochs, then
            how the run ended: ``summary``, and ``failed``. Where the last is missing, training was killed, and the run
            is marked as failed.
        settings: more of the client's.
    """
    messages = iter(messages)
    start = dict(next(messages))
    if start["mode"] == "auto":
        start["mode"] = _preferred_mode()
    folder = Path(start["dir"])
    kept = fragments(folder / "wandb", start["id"]) if start["mode"] == "offline" else []
    first = max((step + 1 for fragment in kept for step in fragment.rows), default=0)
    run = wandb.init(
        **start,
        resume="allow",
        settings=wandb.Settings(
            console="off",
            disable_code=True,
            finish_timeout=_CLIENT_S,
            init_timeout=_CLIENT_S,
            silent=True,
            **settings,
        ),
    )
    for metric, axis in AXES.items():
        run.define_metric(metric, step_metric=axis, summary="none" if axis == HOURS else None)  # as under its own name
    for metric in HIDDEN:
        run.define_metric(metric, hidden=True, summary="none")
    run.summary.update({"status": "running", "error": None})  # an earlier attempt may have failed
    failed = True
    for message in messages:
        if "summary" in message:
            run.summary.update(message["summary"])
            failed = message["failed"]
            break  # not at the end of the input, which workers forked by the training may hold open
        if message["epoch"] >= max(first, run.starting_step):
            run.log(dict(message), step=message["epoch"])
    run.finish(exit_code=int(failed))


def connect() -> "wandb.Api":
    """W&B's server, for reading."""
    if not is_logged_in():
        raise InputError("not logged in to W&B: run `wandb login`, or set WANDB_API_KEY")
    with answering():
        return wandb.Api()


def standing(api: "wandb.Api", project: str, runs: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What the server has of some runs."""
    with answering():
        try:
            found = list(api.runs(project, filters={"name": {"$in": list(runs)}}, per_page=PAGE, lazy=False))
        except ValueError:  # no such project
            return {}
        return {run.id: {**run.summary_metrics, "state": run.state} for run in found}


@contextlib.contextmanager
def answering(when: str = "") -> Iterator[None]:
    """Turn what the client raises when its server refuses or cannot be reached into one clear line."""
    # What reading a history lets through; only here, as it is of the client's inside, which may change.
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

    try:
        yield
    except (wandb.Error, WandbApiFailedError) as error:
        text = one_line(error)
        raise InputError(f"W&B: {text} ({when})" if when else f"W&B: {text}") from error


def is_logged_in() -> bool:
    """Whether the user has a login for the W&B server that is set."""
    settings = wandb.setup().settings
    return bool(settings.api_key or settings.identity_token_file) or in_netrc(settings.base_url)


def _preferred_mode() -> str:
    """What the user told the client before, by ``wandb offline`` or ``wandb login``; asks nobody."""
    mode = wandb.setup().settings.mode
    return "offline" if mode == "online" and not is_logged_in() else mode


@dataclass
class Fragment:
    """What one file holds of its run: one attempt, which may have been killed, or may still be going on."""

    path: Path
    run: str = ""
    """The run's id in W&B."""
    started: str = ""
    """ISO date and time; an attempt's fragment follows those before it."""
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Rows of the history by step, which is the epoch."""
    state: str = "running"
    """How the run stands, in the words of W&B's server: ``running``, ``finished`` or ``failed``."""


def fragments(folder: Path, run: str = "*") -> list[Fragment]:
    """All that the client kept in and below ``folder``, the oldest first."""
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(_fragment, folder.rglob(f"run-{run}.wandb")))
    return sorted((fragment for fragment in found if fragment is not None), key=lambda fragment: fragment.started)


def _fragment(path: Path) -> Fragment | None:
    fragment = Fragment(path)
    try:
        for record in _records(path):
            _add(fragment, record)
    except (OSError, ValueError, KeyError) as error:
        rest = "the rest of " if fragment.run else ""
        log.warning("skipped %s%s, which W&B's client cannot have written (%s)", rest, path, error)
    return fragment if fragment.run else None


def _add(fragment: Fragment, record: dict[str, Any]) -> None:
    match record["type"]:
        case "run":
            fragment.run, fragment.started = record["run"]["run_id"], record["run"]["start_time"]
            fragment.config |= record["run"].get("config", {}).get("update", {})
        case "config":
            fragment.config |= record["config"].get("update", {})
        case "summary":
            fragment.summary |= record["summary"].get("update", {})
        case "history":
            fragment.rows[record["history"]["step"]["num"]] = record["history"]["item"]
        case "exit":
            fragment.state = "failed" if record["exit"].get("exit_code") else "finished"


def _records(path: Path) -> Iterator[dict[str, Any]]:
    from wandb.util import get_core_path  # `wandb leet inspect` runs this as well

    command = [get_core_path(), "leet", "inspect", "--no-observability", "--json", "--run-file"]
    read = subprocess.run([*command, path, path.parent], capture_output=True, text=True, check=False)
    yield from map(json.loads, read.stdout.splitlines())
    if read.returncode != 0:
        raise OSError(" ".join(read.stderr.split()))
