"""What made a number: device, versions, commit."""

import functools
import importlib.metadata
import platform
import subprocess
from pathlib import Path

import torch


@functools.cache
def device_name(device: torch.device) -> str:
    """The device as a reader knows it, with the number of threads where it is a CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_cpu_model()}, {torch.get_num_threads()} threads"


def torch_version() -> str:
    """Version of torch, with its build."""
    return str(torch.__version__)


def version() -> str:
    """Version of this package."""
    return importlib.metadata.version("rescaler")


@functools.cache
def commit() -> str | None:
    """Commit of the checkout that this package is imported from, with ``+`` where files differ; None outside of one."""
    here = Path(__file__).parent
    try:
        tracked = subprocess.run(
            ["git", "ls-files", "--error-unmatch", __file__], cwd=here, capture_output=True, check=False
        )
        if tracked.returncode != 0:
            return None
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        changed = subprocess.run(["git", "diff", "--quiet", "HEAD"], cwd=here, check=False)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if changed.returncode else "")


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
