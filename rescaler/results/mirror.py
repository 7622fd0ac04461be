"""Runs as W&B has them, read back from its server or from its client's offline files."""

import itertools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rescaler.errors import InputError
from rescaler.loggers.wandb import epoch_of_row, summary_of
from rescaler.loggers.wandb_client import PAGE, Fragment, answering, connect, fragments
from rescaler.summary import Summary, checked

log = logging.getLogger(__name__)


class Mirrored(NamedTuple):
    """One run as W&B has it."""

    folder: Path | str
    """Of the newest offline file, or ENTITY/PROJECT/ID."""
    summary: Summary
    epochs: list[dict[str, Any]]
    """The fields of :class:`rescaler.record.Record`, and ``reused``; from the first epoch, none missing."""


def read_project(project: str) -> list[Mirrored]:
    """The runs of a project on W&B's server.

    Runs that are not this package's are counted in the log and left out.

    Args:
        project: ENTITY/PROJECT, or PROJECT of the user's own entity.

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
            runs = list(api.runs(project, per_page=PAGE, lazy=False))
        except ValueError:
            raise InputError(f"no W&B project {project!r}: it must exist, and your login must see it") from None
        for run in runs:
            if "identity" not in run.config:
                foreign += 1
                continue
            # The client refuses to scan a history that is empty.
            history = run.scan_history(use_cache=False) if run.lastHistoryStep > 0 else ()
            rows = {row["_step"]: row for row in history}
            copy = _mirrored("/".join(run.path), run.config, run.summary_metrics, rows, run.state)
            if copy is not None:
                found.append(copy)
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
    return [copy for parts in runs.values() if (copy := _merged(parts)) is not None]


def _merged(parts: list[Fragment]) -> Mirrored | None:
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
) -> Mirrored | None:
    numbers = itertools.takewhile(rows.__contains__, itertools.count(1))
    try:
        epochs = [epoch_of_row(rows[number]) for number in numbers]
        updated_s = max((row["_timestamp"] for row in rows.values()), default=None)
        values = checked(summary_of(config, summary, epochs, state=state, updated_s=updated_s))
    except (KeyError, TypeError, ValueError) as error:
        log.warning("skipped W&B's %s, which is no run of rescaler (%s: %s)", folder, type(error).__name__, error)
        return None
    return Mirrored(folder, values, epochs)
