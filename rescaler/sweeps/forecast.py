"""What runs and sweeps will take, from the hours of one epoch of each network. Loads no data and no network."""

import dataclasses
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rescaler.config import Experiment, StageSettings
from rescaler.data import DATA_SETS
from rescaler.schedule import batches_per_epoch, next_rule, rescale_recipe, resolve_resize_epoch, stage_epochs


@dataclass(frozen=True)
class PlannedEpoch:
    """One scheduled epoch."""

    stage: int
    """Index of its network: the smallest first, the target last."""
    recipe: str
    """All that can change its numbers, given the epochs before it."""
    hours: float


@dataclass(frozen=True)
class Forecast:
    """The scheduled epochs of one run. Held ones (section 5.2) follow from its accuracies: none knows them before."""

    resize_epoch: int | Literal["never"]
    stage_epochs: tuple[int, ...]
    """Epochs of each network, the smallest first, the target last."""
    epochs: tuple[PlannedEpoch, ...]
    target_hours: float
    """Hours of the target baseline: as many epochs, all of the target network."""
    held: bool
    """Held epochs will come on top."""

    @property
    def hours(self) -> float:
        """Hours of the run, as if it were alone."""
        return sum(epoch.hours for epoch in self.epochs)

    @property
    def saved_hours(self) -> float:
        """Against the target baseline."""
        return self.target_hours - self.hours


def batches_without_data(experiment: Experiment) -> int:
    """Mini-batches of an epoch, by the published size of the data set, which is not needed.

    Raises:
        InputError: a batch takes more images than there are.
    """
    published = DATA_SETS[experiment.data.name].train_images
    return batches_per_epoch(experiment, experiment.data.train_images if published is None else published)


def what_takes_time(experiment: Experiment) -> dict[str, Any]:
    """The settings that the time of an epoch follows from, by key."""
    data = experiment.data
    return {
        "model": dict(experiment.model),
        "shrink": dataclasses.asdict(experiment.shrink),
        "data": [data.image_px, data.channels, data.classes, data.name, data.folder, data.workers],
        "optim.batch_size": experiment.optim.batch_size,
        "schedule.batches_per_epoch": batches_without_data(experiment),
        "step": dataclasses.asdict(experiment.step),
        "device": experiment.device,
    }


def forecast(experiment: Experiment, epoch_hours: Sequence[float]) -> Forecast:
    """Lay out a run's scheduled epochs.

    Args:
        experiment: settings that :func:`rescaler.config.check` has passed.
        epoch_hours: hours of one epoch of each network, the smallest first, the target last.
    """
    schedule = experiment.schedule
    epochs: list[PlannedEpoch] = []
    for stage, count in enumerate(stage_epochs(experiment)):
        for _ in range(count):
            rule = next_rule(schedule, 0, [0.0] * len(epochs))
            assert rule is not None
            recipe = [rule.learning_rate, rule.learning_rate_end, rule.weight_decay]
            if not epochs:
                recipe += _origin(experiment)
            if not epochs or epochs[-1].stage != stage:
                recipe += _stage(experiment, stage, resized=bool(epochs))
            epochs.append(PlannedEpoch(stage, json.dumps(recipe), epoch_hours[stage]))
    return Forecast(
        resize_epoch=resolve_resize_epoch(experiment),
        stage_epochs=tuple(stage_epochs(experiment)),
        epochs=tuple(epochs),
        target_hours=schedule.epochs * epoch_hours[-1],
        held=schedule.hold_after_resize and len({epoch.stage for epoch in epochs}) > 1,
    )


def _origin(experiment: Experiment) -> list[Any]:
    settings = dataclasses.asdict(experiment) | {"data": experiment.data.that_change_numbers()}
    return [settings[key] for key in ("model", "data", "optim", "step", "seed", "device")] + [
        experiment.schedule.batches_per_epoch
    ]


def _stage(experiment: Experiment, stage: int, *, resized: bool) -> list[Any]:
    stages = experiment.shrink.stages
    keys = [field.name for field in dataclasses.fields(StageSettings)]
    shrunk = {key: getattr(stages[stage], key) for key in keys} if stage < len(stages) else None
    if not resized:
        return [shrunk]
    batches = experiment.schedule.batches_per_epoch or sys.maxsize
    rescale = rescale_recipe(experiment.rescale, batches, normalises=True)  # the network is not known here
    return [shrunk, rescale, experiment.schedule.hold_after_resize]


def shared_hours(forecasts: Iterable[Forecast], *, beside: Iterable[Forecast] = ()) -> float:
    """Hours of several runs where epochs in common are trained once.

    Args:
        forecasts: the runs.
        beside: runs that are trained anyway; what they have in common with the others costs nothing more.
    """
    # Two runs share an epoch exactly when they share all up to it.
    trained = {run.epochs[:end] for run in beside for end in range(1, len(run.epochs) + 1)}
    wanted = {run.epochs[:end] for run in forecasts for end in range(1, len(run.epochs) + 1)}
    return sum(epochs[-1].hours for epochs in wanted - trained)
