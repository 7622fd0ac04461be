"""``rescaler doctor``: versions, device, SLURM, W&B, ledger and disk, on one screen for a bug report."""

import argparse
import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator

from rescaler.ledger import Ledger
from rescaler.loggers.wandb_client import is_logged_in
from rescaler.plan import device_for
from rescaler.record import commit, device_name, version

_PACKAGES = ("torch", "torchvision", "numpy", "pandas", "hydra-core", "safetensors", "submitit", "wandb")
_OPTIONAL = ("pillow", "pyarrow", "simplejpeg", "jinja2", "onnxscript", "timm", "tensorboard", "mlflow-skinny")


def run(arguments: argparse.Namespace) -> None:
    """Print what was found."""
    for name, found in _rows(arguments):
        print(f"{name:<10}{found}")


def _rows(arguments: argparse.Namespace) -> Iterator[tuple[str, str]]:
    yield "rescaler", f"{version()}, {f'commit {found}' if (found := commit()) else 'no checkout'}"
    yield "python", f"{platform.python_version()} on {platform.platform()}"
    yield "packages", ", ".join(f"{name} {_version(name)}" for name in _PACKAGES)
    yield "extras", ", ".join(f"{name} {_version(name)}" for name in _OPTIONAL)
    yield "device", device_name(device_for("auto"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield "cores", f"{cores} of {os.cpu_count()} for this process"
    yield "SLURM", shutil.which("sbatch") or "not here (no sbatch)"
    yield "W&B", "logged in" if is_logged_in() else "not logged in"
    ledger = Ledger(arguments.folder.expanduser())
    place = next(path for path in (ledger.folder, *ledger.folder.parents) if path.exists())
    size = f"{ledger.size_bytes() / 1e6:,.1f} MB" if place == ledger.folder else "not there yet"
    yield "ledger", f"{ledger.folder}: {size}, {'writable' if os.access(place, os.W_OK) else 'cannot be written'}"
    yield "free disk", f"{shutil.disk_usage(place).free / 1e9:,.1f} GB at {place}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"
