"""How networks compute: precision, memory format, compilation."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch

from rescaler.errors import InputError, one_line
from rescaler.settings import StepSettings

MEMORY_FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def step_constants(step: StepSettings, batch_size: int, device_type: str, *, is_here: bool = True) -> dict[str, Any]:
    """The settings of the step as the recipe of an epoch has them: those that change no number there are left out.

    Args:
        step: the settings.
        batch_size: of a step.
        device_type: of the device that trains.
        is_here: whether that is this machine's, which can then be asked what it can do.

    Raises:
        InputError: this device cannot do it; the message names the key and its value.
    """
    on_cpu = device_type == "cpu"
    if on_cpu and (step.precision == "tf32" or step.cuda_graphs):
        setting = "step.cuda_graphs=true" if step.cuda_graphs else "step.precision=tf32"
        raise InputError(f"{setting} needs a CUDA device; got device=cpu")
    if step.compile and is_here and (reason := cannot_compile(torch.device(device_type))) is not None:
        raise InputError(f"step.compile=true, but torch.compile does not work here: {reason}")
    size = step.micro_batch_size
    return {
        "precision": "fp32" if on_cpu and step.precision == "default" else step.precision,
        "memory_format": step.memory_format,
        "optimizer": step.optimizer,
        "compile": ("reduce-overhead" if step.cuda_graphs else "default") if step.compile else None,
        "micro_batch_size": size if size is not None and size < batch_size else None,
    }


def autocast(precision: str, device_type: str) -> torch.autocast:
    """The precision of a forward pass. Enter it anew in every step: it keeps copies of the weights until it is left."""
    return torch.autocast(device_type, dtype=_AUTOCAST.get(precision), enabled=precision in _AUTOCAST)


@contextlib.contextmanager
def float32_as(precision: str) -> Iterator[None]:
    """Allow or forbid TF32 in float32 work on CUDA; nothing changes for the other precisions."""
    if precision not in ("fp32", "tf32"):
        yield
        return
    backends = torch.backends.cudnn.conv, torch.backends.cuda.matmul  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "tf32" if precision == "tf32" else "ieee"
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.fp32_precision = value


@functools.cache
def cannot_compile(device: torch.device) -> str | None:
    """Why torch.compile does not work here, if so (no C++ compiler on a CPU, no Triton on a GPU)."""
    try:
        torch.compile(torch.nn.ReLU())(torch.ones(8, device=device))
    except Exception as error:  # whatever the compiler raises
        return one_line(error)[:200]
    return None


def compilations() -> int:
    """How many graphs torch.compile has compiled in this process."""
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"]
