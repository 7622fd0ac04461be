"""The command line of a benchmark, and what it writes beside its numbers."""

import argparse
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from rescaler.files import write_text
from rescaler.provenance import commit, device_name, torch_version

CPU = torch.device("cpu")


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has; help begins with the first line of its module's docstring."""
    made = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    made.add_argument("--out", type=Path, metavar="FILE", help="write all numbers as JSON")
    return made


def provenance(module: str, device: torch.device = CPU) -> dict[str, object]:
    """What the numbers were measured on, and how to measure them again."""
    return {
        "command": shlex.join(["python", "-m", f"benchmarks.{module}", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": commit(),
        "device": device_name(device),
        "load_before": os.getloadavg()[0],  # processes that wanted a core: near 0 if the machine was ours
        "torch": torch_version(),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "cudnn": torch.backends.cudnn.version() if device.type == "cuda" else None,  # type: ignore[no-untyped-call]
        "python": platform.python_version(),
    }


def write(path: Path | None, report: Mapping[str, object]) -> None:
    """Write the numbers, if they are wanted."""
    if path is not None:
        write_text(path, json.dumps(report, indent=1) + "\n")
