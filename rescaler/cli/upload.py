"""``rescaler upload``: send recorded runs to W&B afterwards."""

import argparse
import contextlib
import csv
import io
import json
import logging
import os
import shlex
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from rescaler.config import LoggerSettings
from rescaler.errors import InputError, one_line
from rescaler.files import read_yaml
from rescaler.loggers import wandb as schema
from rescaler.loggers.wandb_client import answering, connect, fragments, mirror, standing
from rescaler.record import CONFIG_FILE, METRICS_FILE, SUMMARY_FILE, Record, read_metrics, read_sealed
from rescaler.sweep import FILE

log = logging.getLogger(__name__)


def upload(arguments: argparse.Namespace) -> None:
    """Send what W&B lacks."""
    console = Console(stderr=True)
    chosen = {key: getattr(arguments, key) for key in ("project", "entity", "group")}
    recorded = list(_recorded(arguments.folders, {key: value for key, value in chosen.items() if value is not None}))
    if not recorded:
        raise InputError("none of the runs could be read")
    sent, rest = (_write if arguments.offline else _send)(recorded, console)
    verb = "written to W&B's offline files" if arguments.offline else "sent to W&B"
    console.print(f"{sent} of {len(recorded)} runs {verb}, {rest} needed nothing", highlight=False)
    if arguments.offline and sent:
        places = shlex.join(map(str, arguments.folders))
        console.print(f"send them with: find {places} -type d -name wandb -exec wandb sync {{}} +", soft_wrap=True)


@dataclass(frozen=True)
class _Recorded:
    """A run as its folder has it."""

    opening: dict[str, Any]
    epochs: list[dict[str, Any]]
    summary: dict[str, Any]
    """What is to stand in W&B, with the time saved."""

    @property
    def project(self) -> str:
        return "/".join(filter(None, (self.opening["entity"], self.opening["project"])))

    def mirror(self, mode: str, folder: str) -> None:
        """Mirror the run as its logger would have; the client keeps its files in ``folder``."""
        # There is nothing to say of this machine and process: they trained nothing.
        not_ours = {"x_disable_meta": True, "x_disable_stats": True, "x_save_requirements": False}
        mirror(self._messages(mode, folder), **not_ours)

    def _messages(self, mode: str, folder: str) -> Iterator[Mapping[str, Any]]:
        history = schema.History()
        yield {**self.opening, "mode": mode, "dir": folder}
        for epoch in self.epochs:
            record = Record(**{key: value for key, value in epoch.items() if key != "reused"})
            yield history.row(record, reused=epoch["reused"])
        yield {"summary": self.summary, "failed": self.summary["status"] == "failed"}

    def is_in(self, there: Mapping[str, Any]) -> bool:
        """Whether a summary in W&B says all that the run's own does."""
        return all(there.get(key) == value for key, value in self.summary.items())


def _recorded(folders: Sequence[Path], chosen: Mapping[str, str]) -> Iterator[_Recorded]:
    from rescaler.results import load_epochs, load_runs, time_saved

    runs = load_runs(folders)
    saved = time_saved(runs, load_epochs(runs))
    for folder in map(Path, runs["folder"]):
        try:
            config, summary = read_yaml(folder / CONFIG_FILE), read_sealed(folder / SUMMARY_FILE)
            rows = csv.DictReader(io.StringIO(read_metrics(folder / METRICS_FILE)))
            # The summary and the metrics of a live run are two files: what the summary does not count yet is left out.
            epochs = [schema.epoch(values) for values in rows][: summary["epochs"]]
            sweep = folder.resolve().parent
            is_sweep = (sweep / FILE).exists() or (sweep / "multirun.yaml").exists()  # of a launcher of Hydra's own
            group = sweep.name if is_sweep else folder.resolve().name
            settings = LoggerSettings(**{**config["logger"], **chosen})
            opening = schema.opening(summary, config, settings, group=group, folder=folder)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            why = one_line(error)
            log.warning("skipped %s, which cannot be read (%s: %s)", folder, type(error).__name__, why)
            continue
        yield _Recorded(opening, epochs, summary | saved.get(opening["id"], {}))


def _send(recorded: Sequence[_Recorded], console: Console) -> tuple[int, int]:
    """Send to the server; how many runs, and how many needed nothing."""
    with console.status("asking W&B what it has"):
        api = connect()
        known = {
            project: standing(api, project, [run.opening["id"] for run in recorded if run.project == project])
            for project in {run.project for run in recorded}
        }
    sent = 0
    for run in track(recorded, "uploading", console=console):
        there = known[run.project].get(run.opening["id"], {})
        if there.get("state") == "running":
            log.warning("%s is being mirrored by its own process: left to it", run.opening["dir"])
        elif not run.is_in(there):
            with tempfile.TemporaryDirectory() as folder, answering(f"after {sent} runs; the same command goes on"):
                run.mirror("online", folder)
            sent += 1
    return sent, len(recorded) - sent


def _write(recorded: Sequence[_Recorded], console: Console) -> tuple[int, int]:
    """Write offline files; for how many runs, and how many needed nothing."""
    written = 0
    for run in track(recorded, "writing", console=console):
        folder = Path(run.opening["dir"])
        if not os.access(folder, os.W_OK):
            raise InputError(f"cannot write {folder}: W&B's offline files belong in the run's own folder")
        kept = fragments(folder / "wandb", run.opening["id"])
        if not (kept and run.is_in(kept[-1].summary)):
            run.mirror("offline", run.opening["dir"])
            written += 1
    return written, len(recorded) - written


def mirror_live() -> None:
    """Mirror what a training writes to the standard input, in a process of its own."""
    try:
        mirror(with_time_saved(map(json.loads, sys.stdin)), x_stats_pid=os.getppid())
    except Exception as error:
        raise SystemExit(f"{type(error).__name__}: {one_line(error)}") from None


def with_time_saved(messages: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Add the time saved to the summary at the end of a run's messages."""
    folder = Path()
    for message in messages:
        if "dir" in message:
            folder = Path(message["dir"])
        if "summary" in message and message["summary"].get("resize_epoch", 0) != 0:  # the target baseline saves nothing
            message["summary"] |= _time_saved_beside(folder, message["summary"])
        yield message


def _time_saved_beside(folder: Path, summary: Mapping[str, Any]) -> dict[str, Any]:
    """The time that the run in ``folder`` saved; its target baseline may be in a folder beside it, as in a sweep."""
    folders = [folder]
    for path in folder.parent.glob(f"*/{SUMMARY_FILE}"):
        with contextlib.suppress(InputError, KeyError):
            other = read_sealed(path)
            if other["resize_epoch"] == 0 and all(other[key] == summary[key] for key in ("comparison", "seed")):
                folders.append(path.parent)
    from rescaler.results import load_epochs, load_runs, time_saved

    with contextlib.suppress(InputError):  # the run's own folder cannot be read: no reason to lose the mirror
        runs = load_runs(folders)
        return time_saved(runs, load_epochs(runs)).get(summary["run"], {})
    return {}
