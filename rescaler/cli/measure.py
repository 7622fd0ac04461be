"""``rescaler measure``: the reference time of each network's step, by which budgets and fair comparisons count."""

import argparse
import contextlib
import dataclasses
import json
import math

from rescaler.compose import jobs
from rescaler.config import Experiment
from rescaler.errors import InputError
from rescaler.measure import Spread
from rescaler.method.size import height_width, image_size, size_text
from rescaler.networks import networks_of
from rescaler.reference import references
from rescaler.text import TextTable

_NOISY = 1.5
"""Slowest round over fastest from which on a measurement is called noisy."""
_NEAR = 0.1
"""Share of the pre-train images' side up to which others are near."""


def run(arguments: argparse.Namespace) -> None:
    """Print the reference times of the networks of some settings; measure those that are missing."""
    experiments = [
        job.experiment
        for job in jobs(arguments.overrides, arguments.config_dir, arguments.config_path, arguments.config_name)
    ]
    if arguments.sizes:
        experiments = [other for one in experiments for other in _of_near_sizes(one)]
    rows, notes, given = [], list[str](), list[str]()
    for each in references(experiments, again=arguments.again):
        for one in each:
            step = Spread(one.step_s, one.low_s, one.high_s)
            row = [
                one.network,
                f"{size_text(one.image_px)} px",
                str(one.batch_size),
                step.in_ms(),
                f"{1000 * one.loading_s:.2f} ms",
            ]
            row += [f"{one.seconds / each[-1].seconds:.3f}", str(one.rounds), one.measured]
            if row not in rows:
                rows.append(row)
            if one.high_s > _NOISY * one.low_s:
                notes.append("A measurement is noisy: measure again (--again) while nothing else runs.")
        px = json.dumps(each[0].image_px, separators=(",", ":"))
        size = f"shrink.image_px={px} " if arguments.sizes else ""
        given.append(f"{size}cost.reference=[{','.join(f'{one.seconds:g}' for one in each)}]")
    last = each[-1]
    columns = ("Network", "Images", "Batch", "Step", "Loading", "Cost", "n", "Measured")
    notes = [
        "Step: median (lowest to highest) of n rounds, in which the networks took turns. Cost: in steps of the target.",
        *dict.fromkeys([*notes, *(f"As a setting: {words}" for words in given)]),
    ]
    print(TextTable(f"Reference times, {last.device}, torch {last.torch}", columns, rows, notes, ("Network",)))


def _of_near_sizes(experiment: Experiment) -> list[Experiment]:
    """Return the experiment with each size of pre-train images near its own that its networks take."""
    experiment = dataclasses.replace(experiment, resize_epoch="never", resize_at=None)
    h, w = height_width(networks_of(experiment, {}).pretrain[0].image_px)
    found = []
    for px in range(math.ceil((1 - _NEAR) * h), math.floor((1 + _NEAR) * h) + 1):
        size = image_size((px, round(px * w / h)))
        other = dataclasses.replace(experiment, shrink=dataclasses.replace(experiment.shrink, image_px=size))
        with contextlib.suppress(InputError):
            networks_of(other, {})
            found.append(other)
    return found
