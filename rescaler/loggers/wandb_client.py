"""W&B client, the only module that imports wandb: send runs, read them back from the server or from offline files."""

import contextlib
import itertools
import json
import logging
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import wandb

from rescaler.errors import InputError, one_line
from rescaler.loggers.wandb import AXES, HIDDEN, HOURS, epoch_of_row, in_netrc, summary_of
from rescaler.summary import Summary, checked

log = logging.getLogger(__name__)

_CLIENT_S = 60.0
"""How long the client itself tries to start and to finish, so that it ends even if the training was killed."""
_PAGE = 200


def mirror(messages: Iterable[Mapping[str, Any]], **settings: Any) -> None:
    """Pass a run on to the client; epochs that the server has already, or an earlier offline file, are left out.

    Offline files of one run are sent one after the other by ``wandb sync``, which appends what it finds, so no two may
    have the same epoch.

    Args:
        messages: how to start (:func:`rescaler.loggers.wandb.opening`, and ``mode``), then the rows of epochs, then
            how the run ended: ``summary``, and ``failed``. Without the last, training was killed: the run failed.
        settings: more of the client's.
    """
    messages = iter(messages)
    start = dict(next(messages))
    if start["mode"] == "auto":
        start["mode"] = _preferred_mode()
    folder = Path(start["dir"])
    kept = fragments(folder / "wandb", start["id"]) if start["mode"] == "offline" else []
    first = max((step + 1 for fragment in kept for step in fragment.rows), default=0)
    own = wandb.Settings(
        console="off", disable_code=True, finish_timeout=_CLIENT_S, init_timeout=_CLIENT_S, silent=True, **settings
    )
    run = wandb.init(**start, resume="allow", settings=own)
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
            found = list(api.runs(project, filters={"name": {"$in": list(runs)}}, per_page=_PAGE, lazy=False))
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


class Mirrored(NamedTuple):
    """One run as W&B has it."""

    folder: Path | str
    """Of the newest offline file, or ENTITY/PROJECT/ID."""
    summary: Summary
    epochs: list[dict[str, Any]]
    """The fields of :class:`rescaler.record.Record`, and ``reused``; from the first epoch, none missing."""


def read_project(project: str) -> list[Mirrored]:
    """The runs of a project on W&B's server, ENTITY/PROJECT; those of others are counted in the log and left out.

    Raises:
        InputError: no such project, no runs in it, not logged in, or the server cannot be reached.
    """
    if project.count("/") > 1 or not all(project.split("/")):
        raise InputError(f"a W&B project must be wandb:ENTITY/PROJECT or wandb:PROJECT; got {f'wandb:{project}'!r}")
    api = connect()
    found: list[Mirrored] = []
    foreign = 0
    with answering():
        try:
            runs = list(api.runs(project, per_page=_PAGE, lazy=False))
        except ValueError:
            raise InputError(f"no W&B project {project!r}: it must exist, and your login must see it") from None
        for run in runs:
            if "identity" not in run.config:
                foreign += 1
                continue
            # The client refuses to scan a history that is empty.
            history = run.scan_history(use_cache=False) if run.lastHistoryStep > 0 else ()
            rows = {row["_step"]: row for row in history}
            found += _mirrored("/".join(run.path), run.config, run.summary_metrics, rows, run.state)
    if foreign:
        log.warning("left out %d runs of W&B's project %s, which are not of rescaler", foreign, project)
    if not found:
        raise InputError(f"no runs of rescaler in W&B's project {project!r}")
    return found


def read_offline(folder: Path) -> list[Mirrored]:
    """The runs of which W&B's client kept files in and below ``folder``.

    A run started again has several files, each with the epochs that the earlier ones lack. Where two have the same (a
    sweep started again in a new folder), the newer counts. Files that are not this package's are named in the log.
    """
    runs: dict[str, list[Fragment]] = {}
    for fragment in fragments(folder):
        runs.setdefault(fragment.run, []).append(fragment)
    return [copy for parts in runs.values() for copy in _merged(parts)]


def _merged(parts: list[Fragment]) -> list[Mirrored]:
    rows = {step: row for part in parts for step, row in part.rows.items()}
    # An attempt that was killed before it got as far as an earlier one says nothing of how the run stands.
    furthest = max(parts, key=lambda part: (part.summary.get("epochs", max(part.rows, default=0)), part.started))
    return _mirrored(parts[-1].path.parent, furthest.config, furthest.summary, rows, furthest.state)


def _mirrored(
    folder: Path | str,
    config: Mapping[str, Any],
    summary: Mapping[str, Any],
    rows: Mapping[int, Mapping[str, Any]],
    state: str,
) -> list[Mirrored]:
    """The run, or nothing where it is not of this package, or damaged."""
    numbers = itertools.takewhile(rows.__contains__, itertools.count(1))
    try:
        epochs = [epoch_of_row(rows[number]) for number in numbers]
        updated_s = max((row["_timestamp"] for row in rows.values()), default=None)
        values = checked(summary_of(config, summary, epochs, state=state, updated_s=updated_s))
    except (KeyError, TypeError, ValueError) as error:
        log.warning("skipped W&B's %s, which is no run of rescaler (%s: %s)", folder, type(error).__name__, error)
        return []
    return [Mirrored(folder, values, epochs)]
