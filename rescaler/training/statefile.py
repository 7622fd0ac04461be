"""Tensors in a file that tells whether it is whole."""

import errno
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rescaler.errors import is_out_of_memory
from rescaler.files import sync

Tensors = Mapping[str, Tensor]


def digest(tensors: Tensors) -> str:
    """SHA-256 over names, types, shapes and bytes; independent of memory layout and device."""
    hasher = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()


class Content(NamedTuple):
    """What a file holds."""

    tensors: dict[str, Tensor]
    more: dict[str, Any]


def write(
    path: Path, tensors: Tensors, *, known_digest: str | None = None, more: Mapping[str, Any] | None = None
) -> None:
    """Write a file, whose bytes are on the disk when this returns.

    Args:
        path: the file.
        tensors: by name, on the CPU.
        known_digest: of the tensors, where it is known.
        more: numbers and texts to keep with them.

    Raises:
        OSError: the file cannot be written.
    """
    content = {"digest": known_digest or digest(tensors), "tensors": dict(tensors), "more": dict(more or {})}
    with path.open("wb") as file:  # given a path, torch hides why it could not write
        torch.save(content, file)
    sync(path)


def read(path: Path) -> Content:
    """Read a file, onto the CPU.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read, which says nothing of what is in it.
        MemoryError: there is too little memory to read it, which says nothing either.
        ValueError: it is damaged.
    """
    try:
        with path.open("rb") as file:  # given a path, torch hides why it could not read
            content = torch.load(file, map_location="cpu", weights_only=True)
        found = Content(content["tensors"], content.get("more", {}))
        whole = digest(found.tensors) == content["digest"]
    except Exception as error:  # whatever unpickling or unzipping a damaged file raises
        if is_out_of_memory(error):
            raise MemoryError(f"too little memory to read {path}") from error
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # torch seeks beyond where a file was cut off
            raise
        raise ValueError(f"{path}: {error}") from error
    if not whole:
        raise ValueError(f"{path}: its tensors are not those that were written")
    return found
