"""The files that a user's network is written in."""

import functools
import hashlib
import pkgutil
import sys
from pathlib import Path

from torch import nn

_KNOWN_BY_VERSION = {"torch", "torchvision", "rescaler", "__main__"}


def source_digests(network: nn.Module, path: str) -> dict[str, str]:
    """SHA-256 of the files that define what makes a network and the classes of its layers, by module.

    They say what shapes and ``str(network)`` do not: what ``forward`` computes, and from what weights it starts. Torch,
    torchvision and this package are left out. What these files import is not looked into.

    Args:
        network: as it was made.
        path: import path of what made it.
    """
    names = {type(module).__module__ for module in network.modules()}
    names.add(getattr(pkgutil.resolve_name(path), "__module__", None) or "torch")
    files = {
        name: getattr(sys.modules.get(name), "__file__", None)
        for name in sorted(names)
        if name.partition(".")[0] not in _KNOWN_BY_VERSION
    }
    return {name: _digest(file) for name, file in files.items() if file is not None}


@functools.cache
def _digest(file: str) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()
