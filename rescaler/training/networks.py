"""The networks of an experiment: the target, and the pre-train networks that follow from it."""

import dataclasses
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import nn

from rescaler.errors import ArgumentError, InputError, first_line
from rescaler.experiment import resolve_resize_epoch
from rescaler.method.shrinking import Shrunk, shrink
from rescaler.method.trace import Shapes, outline
from rescaler.models import build, loss_and_scores
from rescaler.randomness import seed_for
from rescaler.settings import Experiment
from rescaler.training.chain import digest


class Networks(NamedTuple):
    """The networks of an experiment, whatever its seed."""

    target: nn.Module
    pretrain: list[Shrunk]
    """The smallest first; empty where none is trained."""


def networks_of(experiment: Experiment, known: dict[str, Networks]) -> Networks:
    """The networks that an experiment trains, which take its images and give scores of its classes.

    Args:
        experiment: settings that :func:`rescaler.experiment.check` has passed.
        known: networks of the experiments before, to which these are added: a sweep has few.

    Raises:
        InputError: the networks cannot be built, or do not fit the data.
    """
    trains_small = resolve_resize_epoch(experiment) != 0
    settings = dataclasses.asdict(experiment)
    key = digest([settings["model"], settings["data"], settings["shrink"], trains_small])
    if key not in known:
        target = initial_target(experiment)
        _check_output(target, experiment)
        known[key] = Networks(target, shrunk_stages(experiment, target) if trains_small else [])
    return known[key]


def initial_target(experiment: Experiment) -> nn.Module:
    """The target network with the initial weights that follow from the seed, on the CPU.

    Raises:
        InputError: ``model`` does not describe a network.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(experiment.seed, "init"))
        return build(experiment.model, classes=experiment.data.classes, channels=experiment.data.channels)


def _check_output(target: nn.Module, experiment: Experiment) -> None:
    data = experiment.data
    images, outlined = torch.zeros(2, data.channels, data.image_px, data.image_px), outline(target)
    try:
        with Shapes():
            logits = outlined.eval()(images)
            trained = outlined.train()(images)
    except Exception as error:  # whatever the user's network raises on these images
        raise InputError(
            f"the network {experiment.model['_target_']} cannot take images of "
            f"{data.channels}x{data.image_px}x{data.image_px} (data.channels, data.image_px): {first_line(error)}"
        ) from error
    if not isinstance(logits, torch.Tensor) or logits.shape != (2, data.classes):
        got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise InputError(
            f"the network {experiment.model['_target_']} must return (images, data.classes={data.classes}) scores; "
            f"got {got} for 2 images"
        )
    for name, value in target.state_dict().items():
        if not isinstance(value, torch.Tensor):
            raise InputError(
                f"the network {experiment.model['_target_']} keeps {name} beside its tensors, which no checkpoint here "
                "holds: give it buffers instead (register_buffer)"
            )
    loss_and_scores(trained, torch.zeros(2, dtype=torch.int64))


def shrunk_stages(experiment: Experiment, target: nn.Module) -> list[Shrunk]:
    """All pre-train networks, the smallest first.

    Raises:
        InputError: the target cannot be shrunk this way, or a network is not larger than the one before it.
    """
    found = [shrunk_stage(experiment, target, number) for number in range(len(experiment.shrink.stages))]
    for number, (small, large) in enumerate(pairwise(found), start=1):
        _check_growth(small, large, _key(number), experiment.data.image_px)
    return found


def _key(number: int) -> str:
    return "shrink" if number == 0 else f"shrink.middle[{number - 1}]"


def _check_growth(small: Shrunk, large: Shrunk, key: str, image_px: int) -> None:
    if large.image_px < small.image_px:
        raise InputError(
            f"{key}.image_px must be between {small.image_px}, that of the stage before, and data.image_px={image_px}; "
            f"got {large.image_px}"
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
            f"{small.image_px} px: give it another table, or an image_px up to data.image_px={image_px}"
        )


def shrunk_stage(experiment: Experiment, target: nn.Module, number: int) -> Shrunk:
    """One of the pre-train networks, counted from 0, the smallest.

    Raises:
        InputError: the target cannot be shrunk this way.
    """
    settings = experiment.shrink.stages[number]
    try:
        return shrink(
            target,
            experiment.data.image_px,
            table=settings.table,
            pretrain_px=settings.image_px,
            padding=settings.padding,
            channels=experiment.data.channels,
            input_only=settings.input_only,
        )
    except ArgumentError as error:
        stage = _key(number)
        keys = {
            "image_px": "data.image_px",
            "pretrain_px": f"{stage}.image_px",
            "pretrain_padding": "the network's pretrain_padding",
        }
        raise InputError(f"{keys.get(error.argument, f'{stage}.{error.argument}')}{error.problem}") from error
    except InputError as error:
        if number == 0:
            raise
        raise InputError(f"{_key(number)}: {error}") from error
