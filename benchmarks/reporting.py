"""The command line of a benchmark, and what it writes beside its numbers."""

import argparse
import contextlib
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from rescaler.config import StepSettings
from rescaler.files import write_text
from rescaler.record import commit, device_name, torch_version

CPU = torch.device("cpu")
PRECISIONS = {"cpu": ("fp32", "bf16"), "cuda": ("bf16", "tf32", "fp32")}
"""The most wanted first: time may end before the others."""


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has; help begins with the first line of its module's docstring."""
    made = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    made.add_argument("--out", type=Path, metavar="FILE", help="write all numbers as JSON")
    return made


def timing_parser(doc: str | None, *, minutes: float) -> argparse.ArgumentParser:
    """The options of benchmarks that time training steps in turns."""
    made = parser(doc)
    made.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    made.add_argument("--precisions", nargs="+", choices=PRECISIONS["cuda"], help="default: all of the device")
    made.add_argument("--batch", type=int, metavar="N", help="images a step; default: 128, on a CPU 8")
    made.add_argument("--rounds", type=int, default=7, help="turns of each network; default: %(default)s")
    made.add_argument("--minutes", type=float, default=minutes, help="it ends in these; default: %(default)s")
    return made


def batch_size(arguments: argparse.Namespace) -> int:
    """The batch that was asked for; else the paper's 128 where there is a GPU."""
    return arguments.batch or (128 if arguments.device == "cuda" else 8)


def eager_steps(device_type: str, precisions: Sequence[str] | None) -> list[StepSettings]:
    """Every precision of the device that is wanted, in each memory format, and where cuDNN times its algorithms."""
    wanted = [name for name in PRECISIONS[device_type] if precisions is None or name in precisions]
    timed = [StepSettings(name, cudnn_benchmark=True) for name in wanted if device_type == "cuda" and name != "fp32"]
    last, contiguous = ([StepSettings(name, form) for name in wanted] for form in ("channels_last", "contiguous"))
    return last + timed + contiguous


def shown(step: StepSettings) -> str:
    """How a step is computed, in words."""
    flags = {"cudnn_benchmark": step.cudnn_benchmark, "compiled": step.compile}
    return " ".join([step.precision, step.memory_format, *(name for name, is_set in flags.items() if is_set)])


class Budget:
    """Minutes that a benchmark may take: nothing begins that might not end in them.

    Args:
        minutes: from now on.
        guesses: minutes that settings of a kind may take, before one of them has been measured.
    """

    def __init__(self, minutes: float, guesses: Mapping[str, float] | None = None) -> None:
        self._minutes, self._start = minutes, time.monotonic()
        self._longest = dict(guesses or {})

    def passed(self) -> float:
        """Minutes since it began."""
        return (time.monotonic() - self._start) / 60

    def left(self) -> float:
        """Minutes until it ends."""
        return self._minutes - self.passed()

    def allows(self, kind: str = "") -> bool:
        """Whether what takes as long as the longest of its kind did would end in time."""
        return self.left() > self._longest.get(kind, 0)

    @contextlib.contextmanager
    def spent(self, kind: str = "") -> Iterator[None]:
        """Remember how long it takes."""
        start = self.passed()
        try:
            yield
        finally:
            self._longest[kind] = max(self._longest.get(kind, 0), self.passed() - start)


def say(*words: str) -> None:
    """Show in a terminal what is being done, on a line that the next words take."""
    if sys.stderr.isatty():
        print("\r\033[K" + ": ".join(words), end="", file=sys.stderr, flush=True)


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
