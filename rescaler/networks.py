"""The networks of an experiment: the target, and the pre-train networks that are shrunk from it."""

import dataclasses
import importlib.metadata
from itertools import pairwise
from operator import lt
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rescaler.chain import digest
from rescaler.config import Experiment
from rescaler.errors import ArgumentError, InputError, first_line
from rescaler.method import ImageSize, height_width, size_text
from rescaler.method.shrinking import Shrunk, shrink
from rescaler.method.trace import Shapes, outline
from rescaler.models import loss_and_scores
from rescaler.models.factory import build, code_digest
from rescaler.randomness import seed_for, seeded
from rescaler.schedule import trains_small as has_small_stage
from rescaler.weights import load_weights, unused_weights, weights_of

VERSION = "_version_"
"""Key of ``model`` that stands for code that cannot be read; no argument of the network."""
Values = dict[str, list[float]]
"""Sketches of initial weights by name."""


class Networks(NamedTuple):
    """The networks of an experiment, whatever its seed."""

    target: nn.Module
    pretrain: list[Shrunk]
    """The smallest first; empty where none is trained."""
    definition: str
    """Digest of the target's code, layers and shapes."""
    notes: list[str]
    """What of its code cannot be read, or of given weights is not used; what pre-train networks leave as it is."""
    values: dict[int, Values]
    """Sketches of the target's initial weights by seed, as far as they were asked for."""


def networks_of(experiment: Experiment, known: dict[str, Networks]) -> Networks:
    """Build the networks that an experiment trains, and check that they take its images and score its classes.

    ``known`` are networks of the experiments before, to which these are added: a sweep has few.
    """
    trains_small = has_small_stage(experiment)
    settings = experiment.to_dict()
    given = weights_of(experiment.init)
    key = digest(
        [*(settings[name] for name in ("model", "data", "shrink", "init")), given and given.digest, trains_small]
    )
    if key not in known:
        target = initial_target(experiment)
        _check_output(target, experiment)
        shrunk = shrunk_stages(experiment, target) if trains_small else []
        definition, sourceless = _definition(target, experiment)
        notes = [
            f"the code of {name} cannot be read, and a change of it is not seen: set +model.{VERSION}=N, and raise N"
            for name in sourceless
        ]
        notes += filter(None, [unused_weights(target, experiment.init)])
        notes += dict.fromkeys(note for network in shrunk for note in network.notes)
        known[key] = Networks(target, shrunk, definition, notes, {experiment.seed: _sketches(target)})
    return known[key]


def initial_values(experiment: Experiment, networks: Networks) -> Values:
    """Return sketches of the target's initial weights, once for each seed."""
    if experiment.seed not in networks.values:
        networks.values[experiment.seed] = _sketches(initial_target(experiment))
    return networks.values[experiment.seed]


def _definition(target: nn.Module, experiment: Experiment) -> tuple[str, tuple[str, ...]]:
    code, sourceless = code_digest(target, experiment.model)
    # A user's layers may print addresses and sets, which are others in every process; their code says what they are.
    layers = [
        [name, type(module).__qualname__, module.extra_repr() if _package(module) in ("torch", "torchvision") else ""]
        for name, module in target.named_modules()
    ]
    shapes = [[name, list(tensor.shape), str(tensor.dtype)] for name, tensor in target.state_dict().items()]
    return digest([code, layers, shapes, _versions(target)]), sourceless


def _versions(target: nn.Module) -> dict[str, str]:
    # Torch's is in every record, and not here: a new one does not orphan a ledger.
    packages = {_package(module) for module in target.modules()}
    return {package: importlib.metadata.version(package) for package in sorted(packages & {"torchvision", "timm"})}


def _package(module: nn.Module) -> str:
    return type(module).__module__.partition(".")[0]


_STRETCHES = 5


def sketch(tensor: Tensor) -> list[float]:
    """Return a few sums over a tensor's values, which differ where the values do by more than rounding.

    The sums of five equal stretches, and the root of the sum of squares.
    """
    flat = tensor.detach().flatten()
    flat = flat if flat.dtype in (torch.float32, torch.float64) else flat.to(torch.float64)
    sums = [stretch.sum().item() for stretch in flat.tensor_split(_STRETCHES)]
    return [*sums, torch.linalg.vector_norm(flat).item()]


def _sketches(network: nn.Module) -> Values:
    return {name: sketch(tensor) for name, tensor in network.state_dict().items()}


def initial_target(experiment: Experiment) -> nn.Module:
    """Build the target network with the initial weights that follow from the seed or are given, on the CPU."""
    with seeded(seed_for(experiment.seed, "init")):
        options = {key: value for key, value in experiment.model.items() if key != VERSION}
        network = build(options, classes=experiment.data.classes, channels=experiment.data.channels)
    load_weights(network, experiment.init)
    return network


def _output(network: nn.Module, channels: int, image_px: ImageSize, *, images: int = 2, training: bool = False) -> Any:
    """Call an outline of a network on images for the shape of its output."""
    with Shapes():
        return network.train(training)(torch.zeros(images, channels, *height_width(image_px)))


def _check_output(target: nn.Module, experiment: Experiment) -> None:
    data, name, outlined = experiment.data, f"the network {experiment.model['_target_']}", outline(target)
    try:
        logits = _output(outlined, data.channels, data.image_px)
        trained = _output(outlined, data.channels, data.image_px, training=True)
    except Exception as error:  # whatever the user's network raises on these images
        shape = "x".join(map(str, (data.channels, *height_width(data.image_px))))
        raise InputError(
            f"{name} cannot take images of {shape} (data.channels, data.image_px): {first_line(error)}"
        ) from error
    if not isinstance(logits, torch.Tensor) or logits.shape != (2, data.classes):
        got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise InputError(f"{name} must return (images, data.classes={data.classes}) scores; got {got} for 2 images")
    for key, value in target.state_dict().items():
        if not isinstance(value, torch.Tensor):
            raise InputError(
                f"{name} keeps {key} beside its tensors, which no checkpoint here holds: give it buffers instead "
                "(register_buffer)"
            )
    loss_and_scores(trained, torch.zeros(2, dtype=torch.int64))


def check_single_image(target: nn.Module, experiment: Experiment, key: str, *, training: bool) -> None:
    """Check that the network takes one image, as the last part of a batch may be; errors name ``key``."""
    data = experiment.data
    try:
        scores = _output(outline(target), data.channels, data.image_px, images=1, training=training)
        got = "" if training or scores.shape == (1, data.classes) else f"it returns {tuple(scores.shape)} for one image"
    except Exception as error:  # whatever the user's network raises
        got = first_line(error)
    if got:
        raise InputError(
            f"{key} leaves a last part of one image, which {experiment.model['_target_']} cannot take: {got}"
        )


def check_test_size(network: nn.Module, experiment: Experiment, test_px: ImageSize, key: str) -> None:
    """Check that a network takes test images of a size of their own; errors name ``key``."""
    try:
        _output(outline(network), experiment.data.channels, test_px)
    except Exception as error:  # whatever the user's network raises
        name = experiment.model["_target_"]
        raise InputError(f"{key}={size_text(test_px)}: {name} cannot take such images: {first_line(error)}") from error


def shrunk_stages(experiment: Experiment, target: nn.Module) -> list[Shrunk]:
    """Shrink the target to all pre-train networks, the smallest first; each must be larger than the one before it."""
    found = [shrunk_stage(experiment, target, number) for number in range(len(experiment.shrink.stages))]
    for number, (small, large) in enumerate(pairwise(found), start=1):
        _check_growth(small, large, _key(number), experiment.data.image_px)
    return found


def _key(number: int) -> str:
    return "shrink" if number == 0 else f"shrink.middle[{number - 1}]"


def _check_growth(small: Shrunk, large: Shrunk, key: str, image_px: ImageSize) -> None:
    before_px, px, most_px = map(size_text, (small.image_px, large.image_px, image_px))
    if any(map(lt, height_width(large.image_px), height_width(small.image_px))):
        raise InputError(
            f"{key}.image_px must be between {before_px}, that of the stage before, and data.image_px={most_px}; "
            f"got {px}"
        )
    kernels, grown = ({layer.name: layer.pretrain_kernel for layer in shrunk.layers} for shrunk in (small, large))
    for name, before in kernels.items():
        after = grown.get(name, before)  # a layer that is not named is the target's own
        if after[0] < before[0] or after[1] < before[1]:
            raise InputError(
                f"{key} must not be smaller than the stage before it, but its layer {name} is: "
                f"{after[0]}x{after[1]} after {before[0]}x{before[1]}"
            )
    if large.image_px == small.image_px and kernels == grown:
        raise InputError(
            f"{key} must differ from the stage before it; it has the same kernels and the same images of "
            f"{px} px: give it another table, or an image_px up to data.image_px={most_px}"
        )


def shrunk_stage(experiment: Experiment, target: nn.Module, number: int) -> Shrunk:
    """Shrink the target to one of the pre-train networks, counted from 0, the smallest."""
    settings, stage, data = experiment.shrink.stages[number], _key(number), experiment.data
    options = {one.name: getattr(settings, one.name) for one in dataclasses.fields(settings) if one.name != "middle"}
    options |= {"pretrain_px": options.pop("image_px"), "trained": experiment.init.from_ is not None}
    try:
        return shrink(target, data.image_px, channels=data.channels, **options)
    except ArgumentError as error:
        keys = {
            "image_px": "data.image_px",
            "pretrain_px": f"{stage}.image_px",
            "pretrain_padding": "the network's pretrain_padding",
        }
        raise InputError(f"{keys.get(error.argument, f'{stage}.{error.argument}')}{error.problem}") from error
    except InputError as error:
        if number == 0:
            raise
        raise InputError(f"{stage}: {error}") from error
