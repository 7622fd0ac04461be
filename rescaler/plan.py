"""Lay out a run: its device, its data, its networks, and the chain of its epochs."""

import dataclasses
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from rescaler import distributed
from rescaler.chain import NUMERICS, Chain, Epoch, Stage, digest
from rescaler.config import Experiment, RescaleSettings, ScheduleSettings, StepSettings, identity, require, stage_names
from rescaler.data import load_data, published_size, streams_from_files
from rescaler.data.order import EVERY_IMAGE, Augment, Batch, EpochImages, ImageData, entries
from rescaler.errors import InputError, one_line_with_place
from rescaler.ledger import Ledger
from rescaler.method import RIDGE, ImageSize
from rescaler.method.kernels import rescale_kernel
from rescaler.method.shrinking import Shrunk
from rescaler.models.factory import code_digest
from rescaler.networks import (
    Networks,
    Values,
    check_single_image,
    check_test_size,
    initial_target,
    initial_values,
    networks_of,
    shrunk_stage,
)
from rescaler.optim import make_optimizer
from rescaler.precision import MEMORY_FORMATS, resolve_step
from rescaler.randomness import seed_for
from rescaler.schedule import batches_per_epoch, needs_reference, stretches
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
    augments: Mapping[str, Augment]
    """Augmentation beside the data set's own, by stage."""
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

    def batches(
        self, epoch: Epoch, image_px: ImageSize, *, start: int = 0, share: slice = EVERY_IMAGE
    ) -> Iterator[Batch]:
        """Yield an epoch's training images, at any size, from a batch on."""
        recipe, stage = epoch.recipe, epoch.stage
        size, layout = recipe.optim.batch_size, MEMORY_FORMATS[recipe.step.memory_format]
        wanted = EpochImages(
            image_px, self.experiment.seed, epoch.number, recipe.batches, size, start, share,
            first=epoch.images_before, pad_px=stage.data.pad_px, flip=stage.data.flip, resize=stage.data.resize,
            sampling_weights=stage.data.sampling_weights,
        )  # fmt: skip
        augment, seed = self.augments.get(stage.name), self.experiment.seed
        mixes = augment is not None and augment.mixes
        if mixes:  # an image of this process's share may be mixed with any other of the batch
            wanted = wanted._replace(share=EVERY_IMAGE)
        for number, (images, labels) in enumerate(self.data.train_batches(wanted), start=start):
            if augment is not None:
                positions = range(number * size, (number + 1) * size)[wanted.share]
                images = augment(images, (seed_for(seed, "transform", epoch.number, each) for each in positions))
                if mixes:
                    mixed = augment.mix(images, labels, seed_for(seed, "mixture", epoch.number, number))
                    images, labels = (tensor[share] for tensor in mixed)
            yield images.contiguous(memory_format=layout), labels

    def network(self, stage: Stage) -> nn.Module:
        """Build the stage's network with its initial weights, on the run's device."""
        network = initial_target(self.experiment)
        if stage.layers:
            number = [one.name for one in self.chain.stages].index(stage.name)
            network = shrunk_stage(self.experiment, network, number).network
        if stage.step.dropout is not None:
            for module in network.modules():
                if isinstance(module, _DropoutNd):
                    module.p = stage.step.dropout
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
    found = networks_of(experiment, {} if networks is None else networks)
    target = found.target
    each = [experiment.of_stage(name) for name in stage_names(len(experiment.shrink.stages))]
    steps, is_here = [], elsewhere is None and load
    for one in each:
        distributed.check(target, one.optim.batch_size, one.step.micro_batch_size, device)
        steps.append(resolve_step(one.step, one.optim.batch_size, device_type, is_here=is_here))
        make_optimizer(target, one.optim, steps[-1])
        whole = one.data.resize == "bilinear" or not streams_from_files(one.data)
        require(whole, "data.resize", one.data.resize, "bilinear for images that are read while training")
    step = resolve_step(experiment.step, experiment.optim.batch_size, device_type, is_here=is_here)
    data = load_data(experiment.data, device) if load else None  # after all that can be refused without it
    for one, its in zip(each, steps, strict=True):
        _check_last_parts(target, one, its, data, device_type)
    images = data.train_count if data else published_size(experiment.data)
    batches = batches_per_epoch(experiment, images)
    stages = _stages(experiment, each, steps, target, found.pretrain, images)
    for key in ("warmup_batches", "distill_batches"):
        count = getattr(experiment.rescale, key)
        require(count <= batches, f"rescale.{key}", count, f"at most {batches}, the batches of an epoch")
    same = {
        "numerics": NUMERICS,
        "model": experiment.model,
        "data": identity(experiment.data),
        "fingerprint": data and data.fingerprint,
    }
    if given := weights_of(experiment.init):
        same["init"] = [given.digest, experiment.init.exclude]
    codes = _codes(experiment, stages)
    if any(codes):
        same["code"] = codes
    _try_interpolation(experiment.rescale.interpolation, found.pretrain)
    origin = Origin(digest([same, found.definition, experiment.seed]), initial_values(experiment, found))
    schedule = identity(experiment.schedule, compared=True)
    comparison = digest([same, schedule, identity(experiment.optim), identity(step), batches, device_type])[:16]
    chain = Chain(
        origin=Ledger.of(experiment).origin(origin.constants, origin.values),
        stages=stages,
        schedule=_resolve_schedule(experiment.schedule, batches, target),
        rescale=_resolve_rescale(experiment.rescale, batches, target),
        device_type=device_type,
    )
    augments_of = {stage.name: Augment(stage.data, device) for stage in stages if stage.data.augment}
    resize_epoch: int | Literal["never"] = "never" if stages[-1].layers else chain.forks[-1] if chain.forks else 0
    return Run(experiment, resize_epoch, device, data, chain, comparison, origin, augments_of, tuple(found.notes))


def _codes(experiment: Experiment, stages: Sequence[Stage]) -> list[str]:
    """Return digests of the code of a custom optimizer, interpolation, data set and augmentations."""
    named: dict[str, Mapping[str, Any]] = {
        "optim._target_": experiment.optim.arguments,
        "rescale.interpolation": {"_target_": experiment.rescale.interpolation},
    }
    named |= {f"data.{name}._target_": made for name in ("train", "test") if (made := getattr(experiment.data, name))}
    for stage in stages:
        key = "data" if stage.data.augment == experiment.data.augment else f"stages.{stage.name}.data"
        for name, entry in entries(stage.data.augment, f"{key}.augment"):
            if isinstance(entry, Mapping):
                named[f"{name}._target_"] = entry
    return [
        code_digest(nn.Identity(), options, key)[0]
        for key, options in named.items()
        if "." in options.get("_target_", "")
    ]


def _try_interpolation(mode: str, pretrain: Sequence[Shrunk]) -> None:
    """Rescale a kernel of each size by a custom interpolation, whose errors would else come after the training."""
    sizes = {(layer.pretrain_kernel, layer.target_kernel) for shrunk in pretrain for layer in shrunk.layers}
    for small, large in sizes if "." in mode else ():
        try:
            rescale_kernel(torch.zeros(1, 1, *small), large, mode=mode)
        except Exception as error:  # whatever a custom function raises
            raise InputError(f"rescale.interpolation={mode}: {one_line_with_place(error)}") from error


def _check_last_parts(
    target: nn.Module, experiment: Experiment, step: StepSettings, data: ImageData | None, device_type: str
) -> None:
    batch, micro = experiment.optim.batch_size, step.micro_batch_size
    if 1 in (micro, batch % (micro or batch + 1)):
        key = f"optim.batch_size={batch}" + (f" with step.micro_batch_size={micro}" if micro else "")
        check_single_image(target, experiment, key, training=True)
    if data and data.test_count % EVALUATION_IMAGES[device_type] == 1:
        check_single_image(target, experiment, f"the test set of {data.test_count} images", training=False)


def _normalises(target: nn.Module) -> bool:
    return any(isinstance(module, _BatchNorm) for module in target.modules())


def _resolve_schedule(settings: ScheduleSettings, batches: int, target: nn.Module) -> ScheduleSettings:
    """Return the settings without a recalibration that acts on nothing."""
    count = min(settings.recalibration_batches, batches) if _normalises(target) else 0
    return dataclasses.replace(settings, recalibration_batches=count)


def _resolve_rescale(settings: RescaleSettings, batches: int, target: nn.Module) -> RescaleSettings:
    """Return the settings without what acts on nothing: recalibration without BatchNorm, batches that none looks at."""
    recalibrate, fits = settings.recalibrate and _normalises(target), settings.interpolation == "fit"
    return dataclasses.replace(
        settings,
        recalibrate=recalibrate,
        calibration_batches=min(settings.calibration_batches, batches) if recalibrate or fits else 0,
        ridge=settings.ridge if fits else RIDGE,
        align=settings.align and fits,
    )


def _stages(
    experiment: Experiment,
    each: Sequence[Experiment],
    steps: Sequence[StepSettings],
    target: nn.Module,
    pretrain: Sequence[Shrunk],
    train_images: int,
) -> tuple[Stage, ...]:
    """Return the stages that are trained.

    Args:
        experiment: the experiment.
        each: it with the settings of each stage.
        steps: resolved, of each stage.
        target: the target network.
        pretrain: the pre-train networks; none where only the target is trained.
        train_images: images of the training set.
    """
    base, costs, names = identity(experiment.data), step_costs(experiment), stage_names(len(each) - 1)
    batches = [batches_per_epoch(one, train_images) for one in each]
    stages = []
    for number, stretch in enumerate(stretches(experiment, batches, costs)):
        if stretch.epochs == 0:
            continue
        one, name, data = each[number], names[number], identity(each[number].data)
        small = pretrain[number] if number < len(each) - 1 else None
        if one.data.test_px is not None:
            key = "data.test_px" if one.data.test_px == experiment.data.test_px else f"stages.{name}.data.test_px"
            check_test_size(small.network if small else target, experiment, one.data.test_px, key)
        stages.append(
            Stage(
                name=name,
                image_px=small.image_px if small else experiment.data.image_px,
                stretch=stretch,
                optim=one.optim,
                step=steps[number],
                data=one.data,
                weight_decay=one.schedule.weight_decay,
                layers=tuple(dataclasses.asdict(layer) for layer in small.layers) if small else (),
                feeding={key: data.get(key) for key in {*data, *base} if data.get(key) != base.get(key)},
            )
        )
    return tuple(stages)


def step_costs(experiment: Experiment) -> list[float]:
    """Return the cost of a mini-batch of each network, in steps of the target network; 1 where none is needed.

    Raises:
        InputError: one is needed, and ``cost.reference`` is empty.
    """
    reference = experiment.cost.reference
    if not reference:
        needed = needs_reference(experiment)
        require(not needed, "cost.reference", "[]", "given or measured (rescaler measure) for a budget or clock=cost")
        return [1.0] * (len(experiment.shrink.stages) + 1)
    return [seconds / reference[-1] for seconds in reference]


def device_for(name: str) -> torch.device:
    """Return the device that the setting ``device`` means here."""
    if name == "cuda" and not torch.cuda.is_available():
        host = socket.gethostname()
        raise InputError(f"device=cuda, but torch finds no CUDA device on {host}; allowed there: auto, cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
