"""Commands on what is kept: ``rescaler ledger`` and ``remove``; ``rescaler doctor`` on the installation."""

import argparse
import importlib.metadata
import os
import platform
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track

from rescaler.errors import InputError
from rescaler.files import read_yaml
from rescaler.ledger import Ledger
from rescaler.plan import device_for
from rescaler.record import (
    CHAIN_FILE,
    CONFIG_FILE,
    METRICS_FILE,
    MODEL_FILE,
    SUMMARY_FILE,
    TRUNK_FILE,
    commit,
    device_name,
    read_sealed,
    version,
)
from rescaler.sweep import FILE as SWEEP_FILE
from rescaler.sweep import Sweep
from rescaler.text import counted

_FILES = (SUMMARY_FILE, CHAIN_FILE, METRICS_FILE)
"""One of which every folder of a run has."""
_LIVE_S = 600
"""A run that is being trained writes its status more often than that."""
_PACKAGES = ("torch", "torchvision", "numpy", "pandas", "hydra-core", "safetensors", "submitit", "wandb")
_OPTIONAL = ("pillow", "pyarrow", "simplejpeg", "jinja2", "onnxscript", "timm", "tensorboard", "mlflow-skinny")


def ledger(arguments: argparse.Namespace) -> None:
    """Show what the ledger holds; first prune it, or verify it."""
    held, console = Ledger(arguments.folder), Console()
    if held.id is None:
        raise InputError(f"--folder: no ledger at {arguments.folder}")
    if arguments.action == "prune":
        removal = held.prune(dry_run=arguments.dry_run, force=arguments.force)
        verb = "would remove" if arguments.dry_run else "removed"
        console.print(f"{verb} {removal.states} states that no run needs: {removal.size_bytes / 1e6:,.1f} MB")
    if arguments.action == "verify":
        found = list(track(held.verify(), "verifying", console=console))
        problems = [problem for problem in found if problem]
        for problem in problems:
            console.print(problem, markup=False, highlight=False, soft_wrap=True)
        if problems:
            raise InputError(
                f"{len(problems)} of {len(found)} entries are damaged: a run that needs them trains their epochs "
                "again; prune removes what was set aside as *.damaged"
            )
        console.print(f"all {len(found)} entries are whole")
    records = list(held.records())
    states = sum(held.state_path(record.key).exists() for record in records)
    hours = sum(record.training_s + record.evaluation_s for record in records) / 3600
    console.print(
        f"{held.folder}: {len(records)} epochs ({hours:,.2f} h of work), {states} with their state, "
        f"{held.size_bytes() / 1e6:,.1f} MB"
    )


def remove(arguments: argparse.Namespace) -> None:
    """Check all runs, then remove them, or say what would be removed."""
    folders = list(dict.fromkeys(Path(os.path.abspath(folder)) for folder in arguments.runs))  # noqa: PTH100 - keeps links
    for folder in folders:
        _check(folder)
    ledgers = _ledgers(folders)
    for ledger in ledgers.values():
        _check_starts(folders, ledger)
    freed = [ledger.free(folders, dry_run=True) for ledger in ledgers.values()]
    size_bytes = sum(path.lstat().st_size for folder in folders for path in folder.rglob("*") if not path.is_dir())
    if not arguments.yes:
        for folder in folders:
            print(folder)
    else:
        # The folders first: a run whose removal fails keeps its states.
        for folder in folders:
            try:
                shutil.rmtree(folder)
            except OSError as error:  # whose filename is below a folder that it does not say
                raise InputError(f"cannot remove {folder}: {error.strerror}") from error
        freed = [ledger.free(folders) for ledger in ledgers.values()]
    states, ledger_bytes = sum(one.states for one in freed), sum(one.size_bytes for one in freed)
    verb, more = ("removed", "") if arguments.yes else ("would remove", ": repeat with --yes to remove")
    print(
        f"{verb} {counted(len(folders), 'run')} ({size_bytes / 1e6:,.1f} MB), "
        f"and of the ledger {counted(states, 'state')} that no other run needs ({ledger_bytes / 1e6:,.1f} MB){more}"
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


def doctor(arguments: argparse.Namespace) -> None:
    """Print what was found."""
    for name, found in _rows(arguments.folder.expanduser()):
        print(f"{name:<10}{found}")


def _rows(folder: Path) -> Iterator[tuple[str, str]]:
    from rescaler.loggers.wandb_client import is_logged_in  # imports wandb

    yield "rescaler", f"{version()}, {f'commit {found}' if (found := commit()) else 'no checkout'}"
    yield "python", f"{platform.python_version()} on {platform.platform()}"
    yield "packages", ", ".join(f"{name} {_version(name)}" for name in _PACKAGES)
    yield "extras", ", ".join(f"{name} {_version(name)}" for name in _OPTIONAL)
    yield "device", device_name(device_for("auto"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield "cores", f"{cores} of {os.cpu_count()} for this process"
    yield "SLURM", shutil.which("sbatch") or "not here (no sbatch)"
    yield "W&B", "logged in" if is_logged_in() else "not logged in"
    held = Ledger(folder)
    place = next(path for path in (held.folder, *held.folder.parents) if path.exists())
    size = f"{held.size_bytes() / 1e6:,.1f} MB" if place == held.folder else "not there yet"
    yield "ledger", f"{held.folder}: {size}, {'writable' if os.access(place, os.W_OK) else 'cannot be written'}"
    yield "free disk", f"{shutil.disk_usage(place).free / 1e9:,.1f} GB at {place}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"
