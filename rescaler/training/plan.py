"""Lay out a run: its data and its chain of epochs."""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from rescaler.data import DATA_SETS, ImageData, load_data
from rescaler.errors import InputError
from rescaler.experiment import batches_per_epoch, rescale_recipe, resolve_resize_epoch, stage_epochs
from rescaler.method.shrinking import Shrunk
from rescaler.models.sources import source_digests
from rescaler.settings import Experiment
from rescaler.training import processes
from rescaler.training.arithmetic import MEMORY_FORMATS, step_constants
from rescaler.training.chain import NUMERICS, Chain, Stage, digest
from rescaler.training.networks import Networks, initial_target, networks_of, shrunk_stage


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
            network = shrunk_stage(self.experiment, network, self.chain.stages.index(stage)).network
        network = processes.synchronised(network)
        network = network.to(memory_format=MEMORY_FORMATS[self.experiment.step.memory_format])
        return network.to(self.device)


@dataclass(frozen=True)
class _Published:
    """Stands for data that is not loaded."""

    train_count: int
    fingerprint: str = ""


def plan(
    experiment: Experiment,
    *,
    elsewhere: str | None = None,
    networks: dict[str, Networks] | None = None,
    load: bool = True,
) -> Run:
    """Load the data, check that the networks fit it, and lay out the run.

    Args:
        experiment: settings that :func:`rescaler.experiment.check` has passed.
        elsewhere: type of the device that ``auto`` means where it will run, if that is another machine.
        networks: as ``known`` of :func:`rescaler.training.networks.networks_of`.
        load: whether to load the data; else keys and ids can be compared among runs planned alike, and no more.

    Raises:
        InputError: the experiment cannot run as it is; the message names the key, its value and what is allowed.
    """
    if elsewhere is None:
        device = device_for(experiment.device)
        device_type = device.type
    else:
        device, device_type = torch.device("cpu"), elsewhere if experiment.device == "auto" else experiment.device
    resize_epoch = resolve_resize_epoch(experiment)
    target, shrunk = networks_of(experiment, {} if networks is None else networks)
    processes.check(target, experiment.optim.batch_size, experiment.step.micro_batch_size, device)
    # After all that can be refused without it: it may be downloaded.
    if load:
        data = load_data(experiment.data, device)
    else:
        count = DATA_SETS[experiment.data.name].train_images or experiment.data.train_images
        data = cast(ImageData, _Published(count))
    batches = batches_per_epoch(experiment, data.train_count)
    warmup = experiment.rescale.warmup_batches
    if warmup > batches:
        raise InputError(f"rescale.warmup_batches must be at most {batches}, the batches of an epoch; got {warmup}")
    normalises = any(isinstance(module, _BatchNorm) for module in target.modules())
    chain = Chain(
        origin=digest(_origin(experiment, data, seed=experiment.seed, network=target)),
        stages=_stages(experiment, shrunk),
        schedule=experiment.schedule,
        rescale=rescale_recipe(experiment.rescale, batches, normalises=normalises),
        constants=epoch_constants(experiment, batches, device_type, is_here=elsewhere is None),
    )
    notes = dict.fromkeys(note for network in shrunk for note in network.notes)
    return Run(experiment, resize_epoch, device, data, chain, tuple(notes))


def epoch_constants(experiment: Experiment, batches: int, device_type: str, *, is_here: bool = True) -> dict[str, Any]:
    """The entries of a :class:`rescaler.training.chain.Recipe` that are the same in every epoch.

    Args:
        experiment: the settings.
        batches: of an epoch.
        device_type: of the device that trains.
        is_here: whether that is this machine's, which can then be asked what it can do.

    Raises:
        InputError: this device cannot do it; the message names the key and its value.
    """
    return {
        **dataclasses.asdict(experiment.optim),
        **step_constants(experiment.step, experiment.optim.batch_size, device_type, is_here=is_here),
        "batches": batches,
        "device_type": device_type,
    }


def _origin(
    experiment: Experiment, data: ImageData, *, seed: int | None, network: nn.Module | None = None
) -> dict[str, Any]:
    origin = {
        "numerics": NUMERICS,
        "model": dict(experiment.model),
        "data": experiment.data.that_change_numbers(),
        "fingerprint": data.fingerprint,
        "seed": seed,
    }
    if network is not None:
        shapes = [[name, list(tensor.shape)] for name, tensor in network.state_dict().items()]
        origin["network"] = [str(network), shapes]
        if sources := source_digests(network, experiment.model["_target_"]):
            origin["sources"] = sources
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


def device_for(name: str) -> torch.device:
    """The device that the setting ``device`` means here."""
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device=cuda, but torch finds no CUDA device here; allowed: auto, cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
