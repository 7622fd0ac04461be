"""Lay out a run: its data, its networks by stage and its chain of epochs."""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from rescaler import processes
from rescaler.arithmetic import MEMORY_FORMATS, step_constants
from rescaler.chain import NUMERICS, Chain, Stage, digest
from rescaler.data import ImageData, load_data
from rescaler.errors import InputError
from rescaler.experiment import resolve_resize_epoch, stage_epochs
from rescaler.models import build, loss_and_scores
from rescaler.randomness import seed_for
from rescaler.settings import Experiment
from rescaler.shrinking import Shrunk, shrink
from rescaler.trace import Shapes, outline


@dataclass(frozen=True)
class Run:
    """One run, ready to train."""

    experiment: Experiment
    resize_epoch: int | Literal["never"]
    device: torch.device
    data: ImageData
    chain: Chain
    notes: tuple[str, ...] = ()
    """What the pre-train networks leave as it is, and why."""

    @functools.cached_property
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
        network = initial_target(self.experiment)
        if stage.layers:
            network = _shrunk(self.experiment, network, self.chain.stages.index(stage)).network
        network = processes.synchronised(network)
        network = network.to(memory_format=MEMORY_FORMATS[self.experiment.step.memory_format])
        return network.to(self.device)


def initial_target(experiment: Experiment) -> nn.Module:
    """The target network with the initial weights that follow from the seed, on the CPU.

    Raises:
        InputError: ``model`` does not describe a network.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(experiment.seed, "init"))
        return build(experiment.model, classes=experiment.data.classes, channels=experiment.data.channels)


class Networks(NamedTuple):
    """The networks of an experiment, whatever its seed."""

    target: nn.Module
    pretrain: list[Shrunk]
    """The smallest first; empty where none is trained."""


def plan(experiment: Experiment, *, elsewhere: str | None = None, networks: dict[str, Networks] | None = None) -> Run:
    """Load the data, check that the networks fit it, and lay out the run.

    Args:
        experiment: settings that :func:`rescaler.experiment.check` has passed.
        elsewhere: type of the device that ``auto`` means where it will run, if that is another machine.
        networks: those of the runs planned before, to which this one's are added: a sweep has few.

    Raises:
        InputError: the experiment cannot run as it is; the message names the key, its value and what is allowed.
    """
    if elsewhere is None:
        device = device_for(experiment.device)
        device_type = device.type
    else:
        device, device_type = torch.device("cpu"), elsewhere if experiment.device == "auto" else experiment.device
    data = load_data(experiment.data, device)
    resize_epoch = resolve_resize_epoch(experiment)
    target, shrunk = _networks(experiment, {} if networks is None else networks)
    optim, batches = experiment.optim, experiment.schedule.batches_per_epoch
    batches = data.train_count // optim.batch_size if batches is None else batches
    if batches == 0:
        raise InputError(
            f"optim.batch_size must be at most {data.train_count}, all training images; got {optim.batch_size}"
        )
    chain = Chain(
        origin=digest(_origin(experiment, data, seed=experiment.seed, network=target)),
        stages=_stages(experiment, shrunk),
        schedule=experiment.schedule,
        rescale=_rescale(experiment, target, batches),
        constants={
            **dataclasses.asdict(optim),
            **step_constants(experiment.step, optim.batch_size, device_type, is_here=elsewhere is None),
            "batches": batches,
            "device_type": device_type,
        },
    )
    notes = dict.fromkeys(note for network in shrunk for note in network.notes)
    return Run(experiment, resize_epoch, device, data, chain, tuple(notes))


def _networks(experiment: Experiment, known: dict[str, Networks]) -> Networks:
    trains_small = resolve_resize_epoch(experiment) != 0
    settings = dataclasses.asdict(experiment)
    key = digest([settings["model"], settings["data"], settings["shrink"], trains_small])
    if key not in known:
        target = initial_target(experiment)
        _check_output(target, experiment)
        known[key] = Networks(target, shrunk_stages(experiment, target) if trains_small else [])
    return known[key]


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


def _stages(experiment: Experiment, pretrain: Sequence[Shrunk]) -> tuple[Stage, ...]:
    epochs = stage_epochs(experiment)
    stages = []
    for number, shrunk in enumerate(pretrain):
        # The smallest is called the same however many follow, as runs share its epochs.
        name = ("pretrain", "middle")[number] if number < 2 else f"middle{number}"
        layers = tuple(dataclasses.asdict(layer) for layer in shrunk.layers)
        stages.append(Stage(name, shrunk.image_px, sum(epochs[: number + 1]), layers))
    if epochs[-1] > 0:
        stages.append(Stage("target", experiment.data.image_px, sum(epochs)))
    return tuple(stages)


def shrunk_stages(experiment: Experiment, target: nn.Module) -> list[Shrunk]:
    """All pre-train networks, the smallest first.

    Raises:
        InputError: the target cannot be shrunk this way, or a network is not larger than the one before it.
    """
    found = [_shrunk(experiment, target, number) for number in range(len(experiment.shrink.stages))]
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


def _shrunk(experiment: Experiment, target: nn.Module, number: int) -> Shrunk:
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
    except InputError as error:
        if number == 0:
            raise
        raise InputError(f"{_key(number)}: {error}") from error


def _rescale(experiment: Experiment, target: nn.Module, batches: int) -> dict[str, Any]:
    """The settings of the rescale as the recipe has them; what is off, or has nothing to act on, is left out."""
    settings = experiment.rescale
    recipe: dict[str, Any] = {"interpolation": settings.interpolation, "momentum": settings.momentum}
    if settings.recalibrate and any(isinstance(module, _BatchNorm) for module in target.modules()):
        recipe["recalibrate"] = True
    if settings.interpolation == "fit" or "recalibrate" in recipe:
        recipe["calibration_batches"] = min(settings.calibration_batches, batches)
    warmup = settings.warmup_batches
    if warmup > batches:
        raise InputError(f"rescale.warmup_batches must be at most {batches}, the batches of an epoch; got {warmup}")
    return recipe | ({"warmup_batches": warmup} if warmup > 0 else {})


def _check_output(target: nn.Module, experiment: Experiment) -> None:
    data = experiment.data
    images = torch.zeros(2, data.channels, data.image_px, data.image_px)
    try:
        with Shapes():
            logits = outline(target).eval()(images)
            trained = outline(target).train()(images)
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
    loss_and_scores(trained, torch.zeros(2, dtype=torch.int64))


def device_for(name: str) -> torch.device:
    """The device that the setting ``device`` means here."""
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device=cuda, but torch finds no CUDA device here; allowed: auto, cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
