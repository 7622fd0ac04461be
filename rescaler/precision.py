"""Precision, memory format and compilation of the training step."""

import contextlib
import ctypes
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import torch

from rescaler.config import StepSettings
from rescaler.errors import InputError, one_line

MEMORY_FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_step(step: StepSettings, batch_size: int, device_type: str, *, is_here: bool = True) -> StepSettings:
    """Return the settings without what changes no number on the device.

    Args:
        step: the settings.
        batch_size: of a step.
        device_type: of the device that trains.
        is_here: whether that is this machine's, which can then be asked what it can do.

    Raises:
        InputError: this device cannot do it; the message names the key and its value.
    """
    on_cpu = device_type == "cpu"
    for_cuda = {
        "step.precision=tf32": step.precision == "tf32",
        "step.cudnn_benchmark=true": step.cudnn_benchmark,
        "step.cuda_graphs=true": step.cuda_graphs,
    }
    if on_cpu and any(for_cuda.values()):
        setting = next(setting for setting, asked in for_cuda.items() if asked)
        raise InputError(f"{setting} needs a CUDA device; got device=cpu")
    if step.compile and is_here and (reason := cannot_compile(torch.device(device_type))) is not None:
        raise InputError(f"step.compile=true, but torch.compile does not work here: {reason}")
    size = step.micro_batch_size
    return dataclasses.replace(
        step,
        precision="fp32" if on_cpu and step.precision == "default" else step.precision,
        micro_batch_size=size if size is not None and size < batch_size else None,
    )


def autocast(precision: str, device_type: str) -> torch.autocast:
    """The precision of a forward pass. Enter it anew in every step: it keeps copies of the weights until it is left."""
    return torch.autocast(device_type, dtype=_AUTOCAST.get(precision), enabled=precision in _AUTOCAST)


@contextlib.contextmanager
def computing(step: StepSettings) -> Iterator[None]:
    """Set up TF32 and cuDNN's benchmark inside the block."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    wanted: list[tuple[Any, str, Any]] = [(cudnn, "benchmark", step.cudnn_benchmark)]
    if step.precision in ("fp32", "tf32"):
        float32 = "tf32" if step.precision == "tf32" else "ieee"
        wanted += [(library, "fp32_precision", float32) for library in (cudnn.conv, matmul)]  # type: ignore[attr-defined]
    before = [getattr(library, name) for library, name, _ in wanted]
    try:
        for library, name, value in wanted:
            setattr(library, name, value)
        yield
    finally:
        for (library, name, _), value in zip(wanted, before, strict=True):
            setattr(library, name, value)


@functools.cache
def cannot_compile(device: torch.device) -> str | None:
    """Return why torch.compile does not work here (no C++ compiler, no Triton), or None."""
    try:
        torch.compile(torch.nn.ReLU())(torch.ones(8, device=device))
    except Exception as error:  # whatever the compiler raises
        return one_line(error)[:200]
    return None


def compilations() -> int:
    """Return how many graphs torch.compile has compiled in this process."""
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"]


@functools.cache
def keep_freed_memory() -> None:
    """Let glibc keep what a step frees for the next step, not return it to the system: steps on a CPU fault less."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL("libc.so.6")
        for option, most in ((_M_TRIM_THRESHOLD, 2**31 - 1), (_M_MMAP_THRESHOLD, 2**25)):
            libc.mallopt(option, most)
