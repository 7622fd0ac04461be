"""Several processes that train one run together, one a GPU.

Each runs the same code; the first alone reads and writes the ledger, the run's folder and W&B. With one process, the
usual case, every function here does next to nothing.
"""

import atexit
import contextlib
import os
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from rescaler import process
from rescaler.errors import InputError

T = TypeVar("T")


def init_distributed(device: torch.device) -> None:
    """Meet the other processes, once and for as long as this one lives; where there are no others, do nothing."""
    if process.world_size() == 1 or dist.is_initialized():
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    atexit.register(dist.destroy_process_group)


def together(make: Callable[[], T]) -> T:
    """Return what ``make`` gives in each process, once all of them have it.

    Raises:
        InputError: one of them raised it; in the first process. The others exit without a word.
    """
    if process.world_size() == 1:
        return make()
    made, error = None, None
    try:
        made = make()
    except InputError as caught:
        error = str(caught)
    errors: list[str | None] = [None] * process.world_size()
    dist.all_gather_object(errors, error)
    _raise(next((error for error in errors if error is not None), None))
    return made  # type: ignore[return-value]


def from_first(make: Callable[[], T]) -> T:
    """Return in all processes what ``make`` gives in the first.

    Raises:
        InputError: it raised it; in the first process. The others exit without a word.
    """
    if process.world_size() == 1:
        return make()
    made: list[T | None] = [None]
    error = [None]
    if process.rank() == 0:
        try:
            made = [make()]
        except InputError as caught:
            error = [str(caught)]  # type: ignore[list-item]
    dist.broadcast_object_list(error, src=0)
    _raise(error[0])
    dist.broadcast_object_list(made, src=0)
    return made[0]  # type: ignore[return-value]


def _raise(error: str | None) -> None:
    if error is None:
        return
    if process.rank() == 0:
        raise InputError(error)
    raise SystemExit(1)


def send_from_first(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors with the first process's."""
    if process.world_size() > 1:
        for tensor in tensors:
            sent = tensor.detach().contiguous()
            dist.broadcast(sent, src=0)
            tensor.detach().copy_(sent)


def add_up(tensor: Tensor) -> None:
    """Overwrite a tensor with its sum over the processes."""
    if process.world_size() > 1:
        dist.all_reduce(tensor)


def check(network: nn.Module, batch_size: int, micro_batch_size: int | None, device: torch.device) -> None:
    """Refuse what several processes would train differently from a single process.

    Raises:
        InputError: the batch cannot be shared evenly, or its statistics cannot be taken together.
    """
    count = process.world_size()
    for key, size in (("optim.batch_size", batch_size), ("step.micro_batch_size", micro_batch_size)):
        if size is not None and size % count != 0:
            raise InputError(
                f"{key} must be a multiple of the processes that share it (their number is {count}); got {size}"
            )
    if count > 1 and device.type != "cuda" and any(isinstance(module, _BatchNorm) for module in network.modules()):
        raise InputError(
            f"device={device.type}: a network with BatchNorm cannot be trained by {count} processes without GPUs, as "
            "torch takes the statistics of a shared batch on GPUs only; use one process"
        )


def synchronised(network: nn.Module) -> nn.Module:
    """Make the BatchNorm layers of ``network`` see the whole batch and not a process's share."""
    converted: nn.Module = network
    if process.world_size() > 1:
        converted = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return converted


def replicated(network: nn.Module) -> nn.Module:
    """``network`` to train with: its gradients are the means over the processes."""
    return DistributedDataParallel(network) if process.world_size() > 1 else network


def unsynchronised(network: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Keep gradients of the processes apart inside the block; the next backward pass outside brings them together."""
    return network.no_sync() if isinstance(network, DistributedDataParallel) else contextlib.nullcontext()
