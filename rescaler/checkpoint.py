"""Checkpoints: tensors and numbers in a safetensors file with a check sum."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from rescaler.errors import is_out_of_memory
from rescaler.files import sync

Tensors = Mapping[str, Tensor]


def digest(tensors: Tensors) -> str:
    """Return SHA-256 over names, types, shapes and bytes; independent of memory layout and device."""
    hasher = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()


class Content(NamedTuple):
    """What a checkpoint holds."""

    tensors: dict[str, Tensor]
    more: dict[str, Any]


def write(
    path: Path, tensors: Tensors, *, known_digest: str | None = None, more: Mapping[str, Any] | None = None
) -> None:
    """Write a checkpoint, whose bytes are on the disk when this returns.

    Args:
        path: the file.
        tensors: by name, on the CPU.
        known_digest: of the tensors, where it is known.
        more: numbers and texts to keep with them.

    Raises:
        OSError: the file cannot be written.
    """
    words = json.dumps(dict(more or {}), sort_keys=True)
    check = hashlib.sha256(f"{known_digest or digest(tensors)} {words}".encode()).hexdigest()
    own: dict[int, int] = {}
    apart = {  # the format has no tensors that share their memory
        name: tensor if own.setdefault(tensor.data_ptr(), len(own)) == len(own) - 1 else tensor.clone()
        for name, tensor in tensors.items()
    }
    content = safetensors.torch.save(apart, {"more": words, "check": check})
    with path.open("wb") as file:
        file.write(content)
    sync(path)


def read(path: Path) -> Content:
    """Read a checkpoint, onto the CPU.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read, which says nothing of what is in it.
        MemoryError: there is too little memory to read it, which says nothing either.
        ValueError: it is damaged.
    """
    try:
        content = path.read_bytes()
        tensors = safetensors.torch.load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        check = hashlib.sha256(f"{digest(tensors)} {header['more']}".encode()).hexdigest()
        found = Content(tensors, json.loads(header["more"]))
        if check != header["check"]:
            raise ValueError("its content is not what was written")
    except OSError:
        raise
    except BaseException as error:  # whatever reading a damaged file raises; a panic of safetensors is no Exception
        if is_out_of_memory(error):
            raise MemoryError(f"too little memory to read {path}") from error
        if not isinstance(error, Exception):
            raise
        raise ValueError(f"{path}: {error}") from error
    return found
