"""Lay out a run: its device, its data, its networks, and the chain of its epochs."""

import dataclasses
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from rescaler import distributed
from rescaler.chain import NUMERICS, Chain, Epoch, Stage, digest
from rescaler.config import Experiment, RescaleSettings, StepSettings, identity
from rescaler.data import DATA_SETS, EVERY_IMAGE, Batch, EpochImages, ImageData, load_data
from rescaler.data.augment import Augment
from rescaler.errors import InputError
from rescaler.ledger import Ledger
from rescaler.method.shrinking import Shrunk
from rescaler.models.sources import code_digest
from rescaler.networks import (
    Networks,
    Values,
    check_single_image,
    initial_target,
    initial_values,
    networks_of,
    shrunk_stage,
)
from rescaler.optim import make_optimizer
from rescaler.precision import MEMORY_FORMATS, resolve_step
from rescaler.randomness import seed_for
from rescaler.schedule import batches_per_epoch, resolve_resize_epoch, stage_epochs
from rescaler.weights import weights_of

EVALUATION_IMAGES = {"cpu": 250, "cuda": 1024}
"""Images tested at once, by device; fewer where the memory is too small."""


@dataclass(frozen=True)
class Run:
    """One run, ready to train."""

    experiment: Experiment
    resize_epoch: int | Literal["never"]
    device: torch.device
    loaded: ImageData | None
    """None where it was planned without its data."""
    chain: Chain
    comparison: str
    """Shared by the runs whose times and accuracies may stand in one table: same target, data and schedule."""
    origin: "Origin"
    augment: Augment | None = None
    """Augmentation beside the data set's own."""
    notes: tuple[str, ...] = ()
    """What the pre-train networks leave as it is, and why."""

    @property
    def id(self) -> str:
        """Digest of all that can change a number of this run."""
        return self.chain.run_id

    @property
    def ledger(self) -> Ledger:
        """Where its epochs are found and entered."""
        return Ledger.of(self.experiment)

    @property
    def data(self) -> ImageData:
        """Its images."""
        assert self.loaded is not None, "planned with load=False"
        return self.loaded

    def batches(self, epoch: Epoch, image_px: int, *, start: int = 0, share: slice = EVERY_IMAGE) -> Iterator[Batch]:
        """Yield an epoch's training images, at any size, from a batch on."""
        size, layout = epoch.recipe.optim.batch_size, MEMORY_FORMATS[epoch.recipe.step.memory_format]
        wanted = EpochImages(image_px, self.experiment.seed, epoch.number, epoch.recipe.batches, size, start, share)
        for number, (images, labels) in enumerate(self.data.train_batches(wanted), start=start):
            if self.augment is not None:
                positions = range(number * size, (number + 1) * size)[share]
                seeds = (seed_for(self.experiment.seed, "transform", epoch.number, position) for position in positions)
                images = self.augment(images, seeds)
            yield images.contiguous(memory_format=layout), labels

    def network(self, stage: Stage) -> nn.Module:
        """Build the stage's network with its initial weights, on the run's device."""
        network = initial_target(self.experiment)
        if stage.layers:
            network = shrunk_stage(self.experiment, network, self.chain.stages.index(stage)).network
        network = distributed.synchronised(network)
        network = network.to(memory_format=MEMORY_FORMATS[self.experiment.step.memory_format])
        return network.to(self.device)


@dataclass(frozen=True)
class Origin:
    """What a chain starts from."""

    constants: str
    """Digest of the network's definition and code, the data, the seed and the versions."""
    values: Values
    """Sketches of the initial weights."""


def plan(
    experiment: Experiment,
    *,
    elsewhere: str | None = None,
    networks: dict[str, Networks] | None = None,
    load: bool = True,
) -> Run:
    """Load the data, check that the networks fit it, and lay out the run.

    Args:
        experiment: checked settings.
        elsewhere: type of the device that ``auto`` means where it will run, if that is another machine.
        networks: as ``known`` of :func:`rescaler.networks.networks_of`.
        load: load the data; else its published size is taken, and keys compare only with those of other such plans.

    Raises:
        InputError: the experiment cannot run as it is; the message names the key, its value and what is allowed.
    """
    if elsewhere is None:
        device = device_for(experiment.device)
        device_type = device.type
    else:
        device, device_type = torch.device("cpu"), elsewhere if experiment.device == "auto" else experiment.device
    resize_epoch = resolve_resize_epoch(experiment)
    found = networks_of(experiment, {} if networks is None else networks)
    target = found.target
    distributed.check(target, experiment.optim.batch_size, experiment.step.micro_batch_size, device)
    step = resolve_step(experiment.step, experiment.optim.batch_size, device_type, is_here=elsewhere is None and load)
    make_optimizer(target, experiment.optim, step)
    data = load_data(experiment.data, device) if load else None  # after all that can be refused without it
    _check_last_parts(target, experiment, step, data, device_type)
    images = data.train_count if data else DATA_SETS[experiment.data.name].train_images or experiment.data.train_images
    batches = batches_per_epoch(experiment, images)
    warmup = experiment.rescale.warmup_batches
    if warmup > batches:
        raise InputError(f"rescale.warmup_batches must be at most {batches}, the batches of an epoch; got {warmup}")
    same = {
        "numerics": NUMERICS,
        "model": experiment.model,
        "data": identity(experiment.data),
        "fingerprint": data and data.fingerprint,
    }
    if given := weights_of(experiment.init):
        same["init"] = [given.digest, experiment.init.exclude]
    # Code of a custom optimizer, interpolation or augmentation.
    others = {
        "optim._target_": experiment.optim.arguments,
        "rescale.interpolation": {"_target_": experiment.rescale.interpolation},
        "data.augment._target_": experiment.data.augment,
    }
    codes = [
        code_digest(nn.Identity(), options, key)[0]
        for key, options in others.items()
        if "." in options.get("_target_", "")
    ]
    if any(codes):
        same["code"] = codes
    origin = Origin(digest([same, found.definition, experiment.seed]), initial_values(experiment, found))
    schedule = identity(experiment.schedule, compared=True)
    comparison = digest([same, schedule, identity(experiment.optim), identity(step), batches, device_type])[:16]
    chain = Chain(
        origin=Ledger.of(experiment).origin(origin.constants, origin.values),
        stages=_stages(experiment, found.pretrain),
        schedule=experiment.schedule,
        rescale=_resolve_rescale(experiment.rescale, batches, target),
        optim=experiment.optim,
        step=step,
        batches=batches,
        device_type=device_type,
    )
    augment = Augment(experiment.data, device) if experiment.data.augment else None
    return Run(experiment, resize_epoch, device, data, chain, comparison, origin, augment, tuple(found.notes))


def _check_last_parts(
    target: nn.Module, experiment: Experiment, step: StepSettings, data: ImageData | None, device_type: str
) -> None:
    batch, micro = experiment.optim.batch_size, step.micro_batch_size
    if batch % (micro or batch + 1) == 1:
        key = f"optim.batch_size={batch}" + (f" with step.micro_batch_size={micro}" if micro else "")
        check_single_image(target, experiment, key, training=True)
    if data and data.test_count % EVALUATION_IMAGES[device_type] == 1:
        check_single_image(target, experiment, f"the test set of {data.test_count} images", training=False)


def _resolve_rescale(settings: RescaleSettings, batches: int, target: nn.Module) -> RescaleSettings:
    """Return the settings without what acts on nothing: recalibration without BatchNorm, batches that none looks at."""
    normalises = any(isinstance(module, _BatchNorm) for module in target.modules())
    recalibrate = settings.recalibrate and normalises
    looks = recalibrate or settings.interpolation == "fit"
    calibration_batches = min(settings.calibration_batches, batches) if looks else 0
    return dataclasses.replace(settings, recalibrate=recalibrate, calibration_batches=calibration_batches)


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
    """Return the device that the setting ``device`` means here."""
    if name == "cuda" and not torch.cuda.is_available():
        host = socket.gethostname()
        raise InputError(f"device=cuda, but torch finds no CUDA device on {host}; allowed there: auto, cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
