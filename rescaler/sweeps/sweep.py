"""A sweep as it was started: what runs where. Kept in its folder, so that it can be looked at, retried and cancelled.

<folder>/sweep.json     names and folders of the runs, and who runs them
<folder>/sweep.lock     locked for as long as a process of this machine runs them
<folder>/0, 1, ...      folders of the runs, each with its settings in config.yaml
<folder>/trunks/0 ...   folders of trunks, which several runs go on from
"""

import contextlib
import dataclasses
import json
import logging
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rescaler.errors import InputError
from rescaler.files import write_text, writing
from rescaler.locking import is_locked, locked

FILE = "sweep.json"
_LOCK = "sweep.lock"

log = logging.getLogger(__name__)


@dataclass
class SweepRun:
    """One run of a sweep."""

    name: str
    """Its overrides, as they tell it apart from the others."""
    folder: str
    """Relative to the sweep's."""
    trunk: str | None = None
    """Folder of the trunk that it goes on from."""
    job: str | None = None
    """Id of the job that runs it, on a cluster."""
    cancelled: bool = False
    """Whether ``rescaler cancel`` ended it: SLURM without accounting soon forgets that."""


@dataclass
class Sweep:
    """The runs that one command started."""

    folder: Path
    runs: list[SweepRun]
    launcher: dict[str, Any] | None = None
    """Settings of the cluster's jobs; None where the runs are this machine's."""
    trunk_jobs: dict[str, str] = field(default_factory=dict)
    """Id of the job by the trunk's folder."""
    host: str = field(default_factory=socket.gethostname)
    pid: int | None = None
    """Number of the process that runs them; None where none of this machine does."""
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat())
    cwd: str = field(default_factory=os.getcwd)
    """Where it was started: what relative paths in the runs' settings start from."""

    @property
    def name(self) -> str:
        """Name of the sweep in W&B."""
        return self.folder.name

    @property
    def jobs_folder(self) -> Path:
        """Where Submitit keeps scripts, pickles and logs; ``%j`` stands for a job's id."""
        return self.folder / ".submitit" / "%j"

    @property
    def job_name(self) -> str:
        """What SLURM shows of the sweep's jobs."""
        return f"rescaler-{self.folder.parent.name}"

    def folder_of(self, run: SweepRun) -> Path:
        """Where a run's files are."""
        return self.folder / run.folder

    def write(self) -> None:
        """Keep it in its folder.

        Raises:
            InputError: the folder cannot be written.
        """
        content = dataclasses.asdict(self)
        del content["folder"]
        write_text(self.folder / FILE, json.dumps(content, indent=1))

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Say that this process runs the sweep, until the block or the process ends, however it ends.

        The lock says so, as a process's number may be another's after a crash.

        Raises:
            InputError: another process runs it; or the folder cannot be written.
        """
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(self.folder / _LOCK))
            except BlockingIOError:
                raise InputError(f"{self.folder} still runs (process {self.pid}): wait for it, or cancel it") from None
            except OSError as error:
                log.warning(
                    "%s cannot be locked (%s): `rescaler status` takes its runs for lost",
                    self.folder / _LOCK,
                    error.strerror,
                )
            self.host, self.pid = socket.gethostname(), os.getpid()
            self.write()
            try:
                yield
            finally:
                self.pid = None
                self.write()

    @property
    def runs_here(self) -> bool:
        """Whether a process of this machine runs it now."""
        return self.pid is not None and self.host == socket.gethostname() and is_locked(self.folder / _LOCK)

    @classmethod
    def read(cls, folder: Path) -> "Sweep":
        """Read what :meth:`write` wrote.

        Raises:
            InputError: there is no sweep in ``folder``.
        """
        try:
            content = json.loads((folder / FILE).read_text(encoding="utf-8"))
            content["runs"] = [SweepRun(**run) for run in content["runs"]]
            return cls(folder=folder, **content)
        except FileNotFoundError:
            raise InputError(
                f"no sweep at {folder}: it must be the folder that a sweep has made, with {FILE}"
            ) from None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(f"{folder / FILE} is not what a sweep writes: {error}") from error


def newest(runs: Path) -> Path:
    """Folder of the whole sweep that was started last, of ``runs/NAME`` and ``runs/EXPERIMENT/DATE``.

    Raises:
        InputError: there is none.
    """
    started = {}
    for path in (*runs.glob(f"*/{FILE}"), *runs.glob(f"*/*/{FILE}")):  # no deeper: there are the folders of the runs
        try:
            started[path.parent] = Sweep.read(path.parent).started
        except InputError as error:
            log.warning("%s", error)
    if not started:
        raise InputError(f"no sweep in {runs}: start one with `python -m rescaler.run -m KEY=VALUE,VALUE`, or name one")
    return max(started, key=lambda folder: started[folder])
