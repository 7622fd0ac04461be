"""The files that the client keeps of a run, ``wandb/*/run-ID.wandb``, through the client's own reader."""

import json
import logging
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


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
    """All that the client kept in and below ``folder``, the oldest first.

    Args:
        folder: a run's, or one above runs.
        run: id of the one to read.

    Returns:
        What can be read; a damaged file is named in the log, one that is cut short just ends earlier.
    """
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
    from wandb.util import get_core_path  # `wandb leet inspect` runs this as well, after a second of imports

    command = [get_core_path(), "leet", "inspect", "--no-observability", "--json", "--run-file"]
    read = subprocess.run([*command, path, path.parent], capture_output=True, text=True, check=False)
    yield from map(json.loads, read.stdout.splitlines())
    if read.returncode != 0:
        raise OSError(" ".join(read.stderr.split()))
