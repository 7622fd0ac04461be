"""Weights to start from: read from a file, a run, torchvision or timm, and put into the target network."""

import contextlib
import functools
import hashlib
import io
import json
import warnings
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import torch
from torch import Tensor, nn

from rescaler.checkpoint import digest
from rescaler.config import InitSettings
from rescaler.errors import InputError, listed, one_line
from rescaler.randomness import seeded
from rescaler.record import MODEL_FILE, SUMMARY_FILE

CHECK = "sha256"
"""Name of the check sum among the texts of a model's file."""
_MOST_NAMES = 5
_WRAPPERS = ("state_dict", "model")
"""Keys under which training scripts save a network's weights."""
_PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before names."""


class Weights(NamedTuple):
    """Tensors by name, on the CPU, and a digest of them."""

    tensors: Mapping[str, Tensor]
    digest: str


def weights_of(init: InitSettings) -> Weights | None:
    """Read the weights that a network starts from; None where it starts from its own."""
    source = init.from_
    if source is None:
        return None
    try:
        if source.startswith(tuple(_LIBRARIES)):
            return _from_library(*source.split(":", 1))
        path = model_path(Path(source).expanduser())
        try:
            found = path.stat()
        except OSError as error:
            allowed = ", ".join(f"{library}NAME" for library in _LIBRARIES)
            raise InputError(f"{error.strerror}; allowed: a file of weights, a run's folder, {allowed}") from error
        return _from_file(path.absolute(), (found.st_mtime_ns, found.st_size, found.st_ino))
    except InputError as error:
        raise InputError(f"init.from={source}: {error}") from error


def load_weights(network: nn.Module, init: InitSettings) -> None:
    """Overwrite a network's initial values with the weights that ``init`` names, if any; raise if they do not fit."""
    weights = weights_of(init)
    if weights is None:
        return
    own = network.state_dict()
    unused = [pattern for pattern in init.exclude if not any(fnmatchcase(name, pattern) for name in own)]
    if unused:
        raise InputError(f"init.exclude: {listed(unused)} fits no name of the network; it has {listed(own)}")
    wanted = {name for name in own if not any(fnmatchcase(name, pattern) for pattern in init.exclude)}
    found = {name: value for name, value in weights.tensors.items() if name in wanted}
    # Of before torch 0.4.1; BatchNorm itself takes it for zero.
    missing = [name for name in own if name in wanted - found.keys() and not name.endswith(".num_batches_tracked")]
    more = [name for name in weights.tensors if name not in own]
    source = f"init.from={init.from_}"
    if missing:
        but = f"; it has {listed(more, _MOST_NAMES)}" if more else ""
        raise InputError(
            f"{source} lacks {listed(missing, _MOST_NAMES)} of the network{but}: init.exclude=[PATTERN] leaves such out"
        )
    odd = [
        f"{name} is {tuple(value.shape)} there and {tuple(own[name].shape)} in the network"
        for name, value in found.items()
        if value.shape != own[name].shape
    ]
    if odd:
        raise InputError(f"{source} does not fit: {listed(odd, _MOST_NAMES)}: leave such out by init.exclude=[PATTERN]")
    network.load_state_dict(found, strict=False)


def unused_weights(network: nn.Module, init: InitSettings) -> str:
    """Say in words which of the given weights the network has no place for; empty if it has one for all."""
    weights = weights_of(init)
    more = [name for name in weights.tensors if name not in network.state_dict()] if weights else []
    return f"init.from={init.from_}: not used, as the network lacks it: {listed(more, _MOST_NAMES)}" if more else ""


def model_path(source: Path) -> Path:
    """Return the file of a run's trained network; ``source`` itself where it is no folder."""
    if not source.is_dir():
        return source
    if (path := source / MODEL_FILE).is_file():
        return path
    if (source / SUMMARY_FILE).exists():
        raise InputError(f"{source} has no {MODEL_FILE}: the run is not done; the command that started it finishes it")
    below = listed(sorted(str(path.parent) for path in source.glob(f"*/{MODEL_FILE}")), _MOST_NAMES)
    raise InputError(f"{source} is no folder of a run: it has no {MODEL_FILE}{f'; name one of {below}' * bool(below)}")


def check_of(tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> str:
    """Return the check sum of tensors and of the texts beside them, but for itself."""
    said = {name: text for name, text in texts.items() if name != CHECK}
    return hashlib.sha256(f"{digest(tensors)} {json.dumps(said, sort_keys=True)}".encode()).hexdigest()


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file, or one of ``torch.save`` without arbitrary objects, onto the CPU.

    Returns:
        Tensors by name, and what the file says beside them.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    with contextlib.suppress(safetensors.SafetensorError), safetensors.safe_open(path, "pt") as file:
        found, texts = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
        if CHECK in texts and texts.pop(CHECK) != check_of(found, texts):
            raise InputError(f"{path} is damaged: its content is not what was written")
        return found, texts
    try:
        with warnings.catch_warnings(action="ignore"):  # of formats that are no longer written
            saved = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds
        raise InputError(f"{path} holds no weights: it is neither safetensors nor of torch.save(state_dict)") from error
    tensors = _unwrapped(saved)
    if not tensors:
        raise InputError(f"{path} holds no weights by name")
    return tensors, {}


def _unwrapped(saved: Any) -> dict[str, Tensor]:
    for key in _WRAPPERS:
        if isinstance(saved, Mapping) and isinstance(saved.get(key), Mapping):
            saved = saved[key]
    tensors = saved if isinstance(saved, Mapping) else {}
    tensors = {str(name): value for name, value in tensors.items() if isinstance(value, Tensor)}
    for prefix in _PREFIXES:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


@functools.lru_cache(maxsize=1)  # the runs of a sweep start from the same
def _from_file(path: Path, _stamp: tuple[int, ...]) -> Weights:
    return _checked(read_tensors(path)[0])


@functools.lru_cache(maxsize=1)
def _from_library(library: str, name: str) -> Weights:
    try:
        with seeded(0):  # building the network that the weights are for draws initial values
            return _checked(_LIBRARIES[f"{library}:"](name).state_dict())
    except InputError:
        raise
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is not installed: pip install {error.name}") from error
    except Exception as error:  # an unknown name, a failed download: whatever the library raises
        raise InputError(f"{library} cannot give them ({type(error).__name__}: {one_line(error)})") from error


def _torchvision(name: str) -> nn.Module:
    """Build the network of some weights, such as ``ResNet18_Weights.IMAGENET1K_V1``, as only that renames old keys."""
    from torchvision.models import get_model, get_weight

    weights = get_weight(name)
    network: nn.Module = get_model(name.partition("_Weights.")[0].lower(), weights=weights, progress=False)
    return network


def _timm(name: str) -> nn.Module:
    import timm

    network: nn.Module = timm.create_model(name, pretrained=True)
    return network


_LIBRARIES = {"torchvision:": _torchvision, "timm:": _timm}


def _checked(tensors: Mapping[str, Tensor]) -> Weights:
    if odd := [name for name, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()]:
        raise InputError(f"values of {listed(odd, _MOST_NAMES)} are not finite")
    return Weights(tensors, digest(tensors))
