"""A sweep in its folder: its runs, and the process that trains them.

<folder>/sweep.json     names and folders of the runs, their jobs on a cluster
<folder>/sweep.lock     host and number of the process that trains the runs, which locks and touches it meanwhile
<folder>/0, 1, ...      folders of the runs, each with its settings in config.yaml
<folder>/trunks/0 ...   folders of trunks
"""

import contextlib
import dataclasses
import json
import logging
import os
import shlex
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Self, get_args, get_origin, get_type_hints

from rescaler.errors import InputError
from rescaler.files import is_locked, locked, write_text, writing
from rescaler.record import CONFIG_FILE, SUMMARY_FILE, read_sealed, sealed

FILE = "sweep.json"
LOCK = "sweep.lock"
RUN_LOCK = "run.lock"
"""In the folder of a single run, while a process trains it."""
_BEAT_S, _STALE_S = 15.0, 90.0
"""Seconds between two touches of the lock's file, and the age at which nobody touches it any more."""

log = logging.getLogger(__name__)


@dataclass
class SweepRun:
    """One run of a sweep."""

    name: str
    """Its overrides, as they tell it apart from the others."""
    folder: str
    """Relative to the sweep's."""
    trunk: str | None = None
    """Folder of the trunk that it starts from."""
    job: str | None = None
    """Id of its SLURM job."""
    cancelled: bool = False
    """Whether ``rescaler cancel`` ended it: SLURM without accounting soon forgets that."""
    settings: str | None = None
    """Digest of the settings that can change a number, as the sweep was started with."""


class Owner(NamedTuple):
    """Process that trains the runs of a sweep."""

    host: str
    pid: int

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@dataclass
class Sweep:
    """The runs that one command started."""

    folder: Path
    runs: list[SweepRun]
    launcher: dict[str, Any] | None = None
    """Settings of the SLURM jobs; None where the runs are trained on one machine."""
    trunk_jobs: dict[str, str] = field(default_factory=dict)
    """Id of the SLURM job by the trunk's folder."""
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat())
    cwd: str = field(default_factory=os.getcwd)
    """Where it was started: what relative paths in the runs' settings start from. The file has it relative to a folder
    below it, so that a project can be moved or copied."""

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
        """Name of the sweep's jobs in SLURM."""
        return f"rescaler-{self.folder.parent.name}"

    def folder_of(self, run: SweepRun) -> Path:
        """Where a run's files are."""
        return self.folder / run.folder

    def command(self, name: str) -> str:
        """``rescaler`` command about this sweep, to copy into a shell."""
        return f"python -m rescaler {name} {shlex.quote(str(self.folder))}"

    def write(self) -> None:
        """Write ``sweep.json``."""
        content = dataclasses.asdict(self)
        folder = content.pop("folder").absolute()
        if folder.is_relative_to(self.cwd):
            content["cwd"] = os.path.relpath(self.cwd, folder)
        write_text(self.folder / FILE, json.dumps(sealed(content), indent=1))

    def owned(self) -> contextlib.AbstractContextManager[None]:
        """Lock the sweep's folder for this process, until the block or the process ends, however it ends."""
        return owned(self.folder / LOCK, str(self.folder), "sweep", f"wait for it, or {self.command('cancel')}")

    @property
    def owner(self) -> Owner | None:
        """Process that trains the runs now, on this machine or another; None if there is none."""
        return _owner(self.folder / LOCK) or _owner(self.folder / RUN_LOCK)

    @classmethod
    def of_run(cls, folder: Path) -> Self:
        """Return a run's part of its sweep; of a single run, one that is in no file."""
        for above in folder.absolute().parents:
            if (above / FILE).exists():
                sweep = cls.read(above)
                own = [run for run in sweep.runs if sweep.folder_of(run) == folder.absolute()]
                return dataclasses.replace(sweep, runs=own or sweep.runs)
        return cls(folder, [SweepRun(folder.absolute().name, ".")])

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read ``sweep.json``."""
        path = folder / FILE
        if not path.exists():
            raise InputError(f"no sweep at {folder}: it must be the folder that a sweep has made, with {FILE}")
        try:
            content = _typed(cls, read_sealed(path))
            runs = [SweepRun(**_typed(SweepRun, run)) for run in content.pop("runs")]
            for place in (each for run in runs for each in (run.folder, run.trunk or "")):
                if not is_below(place):
                    raise ValueError(f"{place} must be a folder in it")
            content["cwd"] = os.path.normpath(folder.absolute() / content.get("cwd", Path.cwd()))
            return cls(folder, runs, **content)
        except InputError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"{path} is not what a sweep writes: {error}") from error


@contextlib.contextmanager
def owned(path: Path, place: str, kind: str, otherwise: str, *, stays: bool = True) -> Iterator[None]:
    """Lock a file for this process, until the block or the process ends, however it ends.

    Args:
        path: of the lock's file, whose folder is made.
        place: what is locked, for messages.
        kind: of it.
        otherwise: what to do where another process has it.
        stays: the file, empty.

    Raises:
        InputError: another process has it.
    """
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(path))
        except BlockingIOError:
            by = _owner(path) or "another process"
            raise InputError(f"{place} is in use by {by}: {otherwise}") from None
        except OSError as error:
            log.warning("%s cannot be locked (%s): do not start this %s twice", path, error.strerror, kind)
        with writing(path):
            path.write_text(f"{socket.gethostname()} {os.getpid()}", encoding="utf-8")
        ended = threading.Event()
        threading.Thread(target=_touch, args=(path, ended), daemon=True).start()
        try:
            yield
        finally:
            ended.set()
            with contextlib.suppress(OSError):
                path.write_text("", encoding="utf-8") if stays else path.unlink()


def _owner(path: Path) -> Owner | None:
    try:
        host, pid = path.read_text(encoding="utf-8").split()
        found, age_s = Owner(host, int(pid)), time.time() - path.stat().st_mtime
    except (OSError, ValueError):
        return None
    held = is_locked(path)
    # A lock may not be seen from another host, and a container's host may have another name each time.
    alive = held or age_s < _STALE_S if held is None or host != socket.gethostname() else held
    return found if alive else None


def is_below(folder: str) -> bool:
    """Whether a folder, relative to another, is in it."""
    return not Path(folder).is_absolute() and ".." not in Path(folder).parts


def _typed(kind: type[Any], values: dict[str, Any]) -> dict[str, Any]:
    """The entries that a dataclass has fields for, of the right types."""
    hints = get_type_hints(kind)
    found = {name: value for name, value in values.items() if name in hints}
    for name, value in found.items():
        allowed = [get_origin(each) or each for each in get_args(hints[name] | None)]
        if not isinstance(value, tuple(allowed)):
            raise TypeError(f"{name}={value!r}")
    return found


def _touch(path: Path, ended: threading.Event) -> None:
    while not ended.wait(_BEAT_S):
        with contextlib.suppress(OSError):
            os.utime(path)


def newest(runs: Path, *, single: bool = False) -> Path:
    """Find the folder of the sweep, or with ``single`` of the sweep or run, that was started last, below ``runs``."""
    started = {}
    for place, folders, files in os.walk(runs):
        folder = Path(place)
        if FILE in files or CONFIG_FILE in files:
            folders.clear()  # below are runs, or what belongs to one
        try:
            if FILE in files:
                started[folder] = Sweep.read(folder).started
            elif single and CONFIG_FILE in files and SUMMARY_FILE in files:
                started[folder] = str(read_sealed(folder / SUMMARY_FILE).get("started"))
        except InputError as error:
            log.warning("%s", error)
    if not started:
        raise InputError(f"no sweep in {runs}: start one with `python -m rescaler.run -m KEY=VALUE,VALUE`, or name one")
    return max(started, key=lambda folder: started[folder])
