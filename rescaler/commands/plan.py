"""``rescaler plan``: what runs and sweeps will take, from a short probe or from given hours per epoch."""

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rescaler.commands.loading import loading_notes, loading_s, milliseconds
from rescaler.commands.networks import candidates, network_names
from rescaler.commands.output import progress
from rescaler.errors import InputError
from rescaler.texttable import TextTable, percent

if TYPE_CHECKING:
    from rescaler.compose import Job
    from rescaler.settings import Experiment
    from rescaler.sweeps.forecast import Forecast

# Hydra and torch take seconds to import, so they are imported where they are used.

_COLUMNS = ("Network", "Epochs", "Training time", "Time saved")
TRAIN_IMAGES = {"fashion_mnist": 60_000, "cifar10": 50_000, "cifar100": 50_000, "imagenet": 1_281_167}
"""Published sizes of the training sets, so that one pass can be planned where the files are not."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "plan",
        help="the time that runs and sweeps will take, before anything is trained",
        description="Time of every run, what it saves against the target network, and what the sweep costs with its "
        "trunk shared. Times some training steps on this device, on random images, unless --hours says how long "
        "epochs take.",
        epilog="example: python -m rescaler plan sweep=table2_imagenet --hours 1.94 4.89",
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings and sweeps, as for rescaler.run")
    parser.add_argument("-m", "--multirun", action="store_true", help="as for rescaler.run; not needed for sweeps here")
    parser.add_argument(
        "--hours",
        nargs="+",
        metavar=("PRETRAIN", "TARGET"),
        help="hours of one epoch of each network, the smallest first; then no network and no data are needed",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Print the plan.

    Raises:
        InputError: a setting is impossible, or hours are wrong in number or value.
    """
    from rescaler.compose import jobs

    given = [word for word in arguments.hours or () if "=" not in word]
    # Settings may follow the hours: they would else be taken for some.
    found = jobs([*arguments.overrides, *(word for word in arguments.hours or () if "=" in word)])
    print(plan_table(found, None if arguments.hours is None else given))


def plan_table(jobs: "Sequence[Job]", hours: Sequence[str] | None, key: str = "--hours") -> TextTable:
    """The time of each run and of all together.

    Args:
        jobs: the runs.
        hours: of one epoch of each network, the smallest first; None: as measured here.
        key: what the user gave the hours by.

    Raises:
        InputError: hours are wrong in number or value.
    """
    from rescaler.sweeps.forecast import forecast

    epoch_hours, basis = _probe(jobs) if hours is None else _given(hours, jobs, key)
    runs = [forecast(job.experiment, each) for job, each in zip(jobs, epoch_hours, strict=True)]
    return _table(jobs, runs, basis)


def _given(words: Sequence[str], jobs: "Sequence[Job]", key: str) -> tuple[list[list[float]], list[str]]:
    """Hours of an epoch by network for each run, as the command line has them, and a note."""
    names = network_names(len(jobs[0].experiment.shrink.stages) + 1)
    try:
        hours = [float(word) for word in words]
        positive = all(0 < value < math.inf for value in hours)
    except ValueError:
        positive = False
    if not positive or len(hours) != len(names):
        raise InputError(f"{key} must be {len(names)} positive numbers ({', '.join(names)}); got {' '.join(words)}")
    settings = [_what_takes_time(job.experiment) for job in jobs]
    swept = [key for key in settings[0] if any(other[key] != settings[0][key] for other in settings)]
    if swept:
        raise InputError(
            f"{key} must hold for every run, but epochs take different times where {swept[0]} is swept: plan one "
            f"value at a time, or leave {key} out to measure"
        )
    each = ", ".join(f"{name} {value:.4g} h" for name, value in zip(names, hours, strict=True))
    return [hours] * len(jobs), [f"Given: {each} an epoch."]


def _probe(jobs: "Sequence[Job]") -> tuple[list[list[float]], list[str]]:
    """Hours of an epoch by network for each run, as measured here, and notes."""
    from rescaler.measuring import Spread
    from rescaler.provenance import device_name, torch_version
    from rescaler.training.loading import how_to_load_faster
    from rescaler.training.plan import device_for
    from rescaler.training.probe import measure, step_recipe

    measured: dict[str, list[float]] = {}
    lines = []
    for job, own in zip(jobs, _own(jobs), strict=True):
        experiment = job.experiment
        device, batch_size, batches = device_for(experiment.device), experiment.optim.batch_size, _batches(experiment)
        key = json.dumps(_what_takes_time(experiment))
        if key in measured:
            continue
        with progress() as say:
            say("building the networks")
            networks = candidates(experiment)
            steps = measure(
                networks,
                step_recipe(experiment, device.type),
                device=device,
                progress=lambda text: say(f"probe: {text}"),
            )
            loading = loading_s(experiment, networks, batch_size=batch_size, device=device, say=say)
        step_s = {name: Spread.of(rounds) for name, rounds in steps.items()}
        slowest_s = {name: max(step.median, loading[name].median if loading else 0) for name, step in step_s.items()}
        measured[key] = [batches * seconds / 3600 for seconds in slowest_s.values()]
        each = ", ".join(f"{name} {milliseconds(spread)}" for name, spread in step_s.items())
        lines.append(
            f"Measured{own}: {each} a step of {batch_size} images, {batches:,} steps an epoch; "
            f"{device_name(device)}, torch {torch_version()}."
        )
        lines += loading_notes(experiment, loading, batch_size)
        waiting = [name for name, step in step_s.items() if slowest_s[name] > step.median]
        if waiting:
            lines.append(f"Loading sets the pace of {', '.join(waiting)}: {how_to_load_faster(experiment.data)}.")
    lines.append("Steps are of random images on the device; evaluation and the rescale are not counted.")
    return [measured[json.dumps(_what_takes_time(job.experiment))] for job in jobs], lines


def _batches(experiment: "Experiment") -> int:
    if experiment.schedule.batches_per_epoch is not None:
        return experiment.schedule.batches_per_epoch
    data, batch_size = experiment.data, experiment.optim.batch_size
    images = data.train_images if data.name == "synthetic" else TRAIN_IMAGES[data.name]
    if batch_size > images:
        raise InputError(f"optim.batch_size must be at most {images}, all training images; got {batch_size}")
    return images // batch_size


def _what_takes_time(experiment: "Experiment") -> dict[str, Any]:
    """By key, what the time of an epoch follows from."""
    data = experiment.data
    return {
        "model": dict(experiment.model),
        "shrink": asdict(experiment.shrink),
        "data": [data.image_px, data.channels, data.classes, data.name, data.folder, data.workers],
        "optim.batch_size": experiment.optim.batch_size,
        "schedule.batches_per_epoch": _batches(experiment),
        "step": asdict(experiment.step),
        "device": experiment.device,
    }


def _table(jobs: "Sequence[Job]", runs: "Sequence[Forecast]", basis: Sequence[str]) -> TextTable:
    from rescaler.results import time_unit

    unit, unit_s = time_unit(3600 * max(run.target_hours for run in runs))

    def time(hours: float) -> str:
        return f"{hours * 3600 / unit_s:,.1f} {unit}"

    rows, own = [], _own(jobs)
    for words, run in zip(own, runs, strict=True):
        saved = f"{time(run.saved_hours)} ({percent(run.saved_hours / run.target_hours)})"
        baseline = run.resize_epoch == 0
        epochs = " + ".join(str(count) for count in run.stage_epochs)
        rows.append([_label(run) + words, epochs, time(run.hours), "–" if baseline else saved])
    notes = [*_sums(runs, time), *basis]
    if any(run.held for run in runs):
        notes.append(
            "Held runs (section 5.2) go on for some epochs more, known only when they are trained: not counted."
        )
    names = ", ".join(dict.fromkeys(job.experiment.name for job in jobs))
    heading = f"{names}: {len(runs)} run{'s' * (len(runs) > 1)} of {max(len(run.epochs) for run in runs)} epochs"
    return TextTable(heading, _COLUMNS, rows, notes)


def _label(run: "Forecast") -> str:
    names = {0: "Target", "never": "Pre-train"}
    return names.get(run.resize_epoch, f"Resized at epoch {run.resize_epoch}") + " (held)" * run.held


def _own(jobs: "Sequence[Job]") -> list[str]:
    """What tells each run from the others of its sweep, beside when it is resized."""
    everywhere = set.intersection(*(set(job.overrides) for job in jobs))
    found = []
    for job in jobs:
        own = [word for word in job.overrides if word not in everywhere and not word.startswith("resize_epoch=")]
        found.append(f" [{' '.join(own)}]" if own else "")
    return found


def _sums(runs: "Sequence[Forecast]", time: Callable[[float], str]) -> list[str]:
    """What the sweep costs, and what its resized runs do where both baselines are trained anyway."""
    from rescaler.sweeps.forecast import shared_hours

    if len(runs) == 1:
        return []
    alone, shared = sum(run.hours for run in runs), shared_hours(runs)
    notes = [
        f"All runs, each alone: {time(alone)}; epochs in common trained once: {time(shared)}{_less(alone, shared)}"
    ]
    resized = [run for run in runs if run.resize_epoch not in (0, "never")]
    baselines = [run for run in runs if run.resize_epoch in (0, "never")]
    if resized and baselines:
        alone, beside = sum(run.hours for run in resized), shared_hours(resized, beside=baselines)
        if beside < alone:
            less = _less(alone, beside)
            notes.append(f"The resized runs, each alone: {time(alone)}; beside the baselines: {time(beside)}{less}")
    return notes


def _less(alone: float, shared: float) -> str:
    return "" if math.isclose(alone, shared) else f" ({percent(1 - shared / alone)} less)"
