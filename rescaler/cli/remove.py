"""``rescaler remove``: runs' folders, and of the ledger what no other run needs."""

import argparse
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from rescaler.errors import InputError
from rescaler.files import read_yaml
from rescaler.ledger import Ledger, Removal
from rescaler.record import CHAIN_FILE, CONFIG_FILE, METRICS_FILE, MODEL_FILE, SUMMARY_FILE, TRUNK_FILE, read_sealed
from rescaler.sweep.sweep import FILE as SWEEP_FILE
from rescaler.sweep.sweep import Sweep
from rescaler.text import counted

_FILES = (SUMMARY_FILE, CHAIN_FILE, METRICS_FILE)
"""One of which every folder of a run has."""
_LIVE_S = 600
"""A run that is being trained writes its status more often than that."""


def run(arguments: argparse.Namespace) -> None:
    """Check all runs, then remove them, or say what would be removed."""
    folders = list(dict.fromkeys(Path(os.path.abspath(folder)) for folder in arguments.runs))  # noqa: PTH100 - keeps links
    for folder in folders:
        _check(folder)
    ledgers = _ledgers(folders)
    for ledger in ledgers.values():
        _check_starts(folders, ledger)
    size_bytes = sum(path.lstat().st_size for folder in folders for path in folder.rglob("*") if not path.is_dir())
    freed = [ledger.free(folders, dry_run=True) for ledger in ledgers.values()]
    if not arguments.yes:
        for folder in folders:
            print(folder)
        print(f"would remove {_told(folders, size_bytes, freed)}: repeat with --yes to remove")
        return
    # The folders first: a run whose removal fails keeps its states.
    for folder in folders:
        try:
            shutil.rmtree(folder)
        except OSError as error:  # whose filename is below a folder that it does not say
            raise InputError(f"cannot remove {folder}: {error.strerror}") from error
    freed = [ledger.free(folders) for ledger in ledgers.values()]
    print(f"removed {_told(folders, size_bytes, freed)}")


def _told(folders: Sequence[Path], size_bytes: int, freed: Sequence[Removal]) -> str:
    states, ledger_bytes = sum(one.states for one in freed), sum(one.size_bytes for one in freed)
    return (
        f"{counted(len(folders), 'run')} ({size_bytes / 1e6:,.1f} MB), and of the ledger "
        f"{counted(states, 'state')} that no other run needs ({ledger_bytes / 1e6:,.1f} MB)"
    )


def _check(folder: Path) -> None:
    """Raise InputError for anything but the folder of one run that is not being trained."""
    if folder.is_symlink():
        raise InputError(f"{folder} is a link: give the folder of the run itself")
    if not any((folder / name).is_file() for name in _FILES):
        raise InputError(f"{folder} is no run's folder: it must have a {SUMMARY_FILE}")
    marks = {*_FILES, TRUNK_FILE, SWEEP_FILE}
    if inner := next((path for path in folder.rglob("*") if path.name in marks and path.parent != folder), None):
        raise InputError(f"{folder} has another run in it, {inner.parent}: remove that one first")
    if folder in (Path.cwd(), *Path.cwd().parents):
        raise InputError(f"{folder} is the working folder, or above it: leave it first")
    path = folder / SUMMARY_FILE
    try:
        status = read_sealed(path).get("status")
    except InputError:  # damaged or gone, which is no reason to keep the rest
        status = None
    if status == "running" and time.time() - path.stat().st_mtime < _LIVE_S:
        raise InputError(
            f"{folder} is being trained: cancel it first, or wait {_LIVE_S // 60} minutes if it was killed"
        )
    for above in folder.parents:
        if (above / SWEEP_FILE).is_file():
            owner = Sweep.read(above).owner
            if owner is not None:
                raise InputError(f"the sweep of {folder} is in use by {owner}: rescaler cancel {above}")


def _ledgers(folders: Sequence[Path]) -> dict[Path, Ledger]:
    """Return the ledgers of the runs; of a run whose ``chain.json`` is damaged or gone, none."""
    found = {}
    for folder in folders:
        try:
            place = read_sealed(folder / CHAIN_FILE).get("ledger")
        except InputError:
            continue
        if isinstance(place, str):
            ledger = Ledger(Path(os.path.normpath(folder / place)))
            if any(Path(os.path.realpath(ledger.folder)).is_relative_to(os.path.realpath(one)) for one in folders):
                raise InputError(f"{ledger.folder} is a ledger, in the folder of a run to remove: move it first")
            if ledger.id is not None:
                found[ledger.folder] = ledger
    return found


def _check_starts(folders: Sequence[Path], ledger: Ledger) -> None:
    """Raise InputError where another run of the ledger has ``init.from`` in one of the folders."""
    leaving = [Path(os.path.realpath(folder)) for folder in folders]
    for other in sorted(ledger.run_folders() - {*leaving}):
        try:
            source = read_yaml(other / CONFIG_FILE).get("init", {}).get("from")
        except (InputError, AttributeError):
            continue
        if isinstance(source, str):
            start = Path(os.path.realpath(Path(source).expanduser()))
            for folder in leaving:
                if start in (folder, folder / MODEL_FILE):
                    raise InputError(f"{folder} is where {other} starts from (init.from): remove that one first")
