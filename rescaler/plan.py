"""Lay out a run: its data, its networks by stage and its chain of epochs."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from rescaler.chain import NUMERICS, Chain, Stage, digest
from rescaler.data import ImageData, load_data
from rescaler.errors import InputError
from rescaler.experiment import resolve_resize_epoch
from rescaler.models import build
from rescaler.randomness import seed_for
from rescaler.settings import Experiment
from rescaler.shrinking import Shrunk, shrink
from rescaler.trace import meta_copy

MEMORY_FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


@dataclass(frozen=True)
class Run:
    """One run, ready to train."""

    experiment: Experiment
    resize_epoch: int | Literal["never"]
    device: torch.device
    data: ImageData
    chain: Chain

    @property
    def id(self) -> str:
        """Stands for all that can change a number of this run; the same wherever and whenever it is started."""
        chain = dataclasses.asdict(self.chain)
        schedule = chain["schedule"]
        del schedule["auto_resize_before"]  # resolved in the stages
        if not self.chain.forks:
            del chain["rescale"], schedule["hold_after_resize"]
        if not schedule.get("hold_after_resize"):
            del schedule["hold_limit"]
        return digest(chain)[:16]

    @property
    def comparison(self) -> str:
        """Shared by the runs whose times and accuracies may stand in one table: same target, data and schedule."""
        experiment = dataclasses.asdict(self.experiment)
        schedule = experiment["schedule"]
        for key in ("auto_resize_before", "hold_after_resize", "hold_limit"):
            del schedule[key]
        return digest([_origin(self.experiment, self.data, seed=None), schedule, self.chain.constants])[:16]

    def network(self, stage: Stage) -> nn.Module:
        """The stage's network with its initial weights, on the run's device."""
        target = initial_target(self.experiment)
        network = _shrunk(self.experiment, target).network if stage.layers else target
        network = network.to(memory_format=MEMORY_FORMATS[self.experiment.memory_format])
        return network.to(self.device)


def initial_target(experiment: Experiment) -> nn.Module:
    """The target network with the initial weights that follow from the seed, on the CPU.

    Raises:
        InputError: ``model`` does not describe a network.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(experiment.seed, "init"))
        return build(experiment.model, classes=experiment.data.classes, channels=experiment.data.channels)


def plan(experiment: Experiment) -> Run:
    """Load the data, check that the networks fit it, and lay out the run.

    Args:
        experiment: settings that :func:`rescaler.experiment.check` has passed.

    Raises:
        InputError: the experiment cannot run as it is; the message names the key, its value and what is allowed.
    """
    resize_epoch = resolve_resize_epoch(experiment)
    device = _device(experiment.device)
    data = load_data(experiment.data, device)
    target = initial_target(experiment)
    _check_output(target, experiment)
    optim, batches = experiment.optim, experiment.schedule.batches_per_epoch
    batches = data.train_count // optim.batch_size if batches is None else batches
    if batches == 0:
        raise InputError(
            f"optim.batch_size must be at most {data.train_count}, all training images; got {optim.batch_size}"
        )
    chain = Chain(
        origin=digest(_origin(experiment, data, seed=experiment.seed, network=target)),
        stages=_stages(experiment, target, resize_epoch),
        schedule=experiment.schedule,
        rescale=dataclasses.asdict(experiment.rescale),
        constants={
            "momentum": optim.momentum,
            "nesterov": optim.nesterov,
            "batch_size": optim.batch_size,
            "batches": batches,
            "memory_format": experiment.memory_format,
            "device_type": device.type,
        },
    )
    return Run(experiment, resize_epoch, device, data, chain)


def _origin(
    experiment: Experiment, data: ImageData, *, seed: int | None, network: nn.Module | None = None
) -> dict[str, Any]:
    settings = dataclasses.asdict(experiment.data)
    for key in ("folder", "workers"):
        del settings[key]
    origin = {
        "numerics": NUMERICS,
        "model": dict(experiment.model),
        "data": settings,
        "fingerprint": data.fingerprint,
        "seed": seed,
    }
    if network is not None:
        shapes = [[name, list(tensor.shape)] for name, tensor in network.state_dict().items()]
        origin["network"] = [str(network), shapes]
    return origin


def _stages(experiment: Experiment, target: nn.Module, resize_epoch: int | Literal["never"]) -> tuple[Stage, ...]:
    epochs = experiment.schedule.epochs
    final = Stage("target", experiment.data.image_px, epochs)
    if resize_epoch == 0:
        return (final,)
    shrunk = _shrunk(experiment, target)
    layers = tuple(dataclasses.asdict(layer) for layer in shrunk.layers)
    if resize_epoch == "never":
        return (Stage("pretrain", shrunk.image_px, epochs, layers),)
    return (Stage("pretrain", shrunk.image_px, resize_epoch, layers), final)


def _shrunk(experiment: Experiment, target: nn.Module) -> Shrunk:
    settings = experiment.shrink
    return shrink(
        target,
        experiment.data.image_px,
        table=settings.table,
        pretrain_px=settings.image_px,
        padding=settings.padding,
        channels=experiment.data.channels,
    )


def _check_output(target: nn.Module, experiment: Experiment) -> None:
    data = experiment.data
    shape = (2, data.channels, data.image_px, data.image_px)
    try:
        with torch.no_grad():
            logits = meta_copy(target).eval()(torch.empty(shape, device="meta"))
    except Exception as error:  # whatever the user's network raises on these images
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"the network {experiment.model['_target_']} cannot take images of "
            f"{data.channels}x{data.image_px}x{data.image_px} (data.channels, data.image_px): {reason}"
        ) from error
    if not isinstance(logits, torch.Tensor) or logits.shape != (2, data.classes):
        got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise InputError(
            f"the network {experiment.model['_target_']} must return (images, data.classes={data.classes}) scores; "
            f"got {got} for 2 images"
        )


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device=cuda, but torch finds no CUDA device here; allowed: auto, cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
