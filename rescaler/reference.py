"""Reference times: what a mini-batch of each network costs, measured once for each network, size, device and precision.

Networks are measured in turns, in one run, and kept beside the ledger: the same reference, the same budgets and keys.
"""

import dataclasses
import json
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import torch

from rescaler.chain import digest
from rescaler.config import CostSettings, Experiment, identity, stage_names
from rescaler.errors import InputError
from rescaler.files import write_text
from rescaler.measure import Spread, candidates, time_networks
from rescaler.method import ImageSize, image_size
from rescaler.networks import networks_of
from rescaler.plan import device_for
from rescaler.precision import resolve_step
from rescaler.record import device_name, read_sealed, sealed, torch_version
from rescaler.schedule import needs_reference
from rescaler.text import status_line

log = logging.getLogger(__name__)

_FOLDER = "reference"
_NO_TIME = ("lr_factor", "label_smoothing", "no_decay")
"""Settings of ``optim`` that change no step's time."""


class Reference(NamedTuple):
    """Seconds of a step of one network: median and range over rounds."""

    network: str
    image_px: ImageSize
    batch_size: int
    step_s: float
    low_s: float
    high_s: float
    rounds: int
    loading_s: float
    """Of a batch of image files; 0 for images in memory."""
    device: str
    torch: str
    measured: str

    @property
    def seconds(self) -> float:
        """What a mini-batch costs: the longer of computing and loading, as one waits for the other."""
        return max(self.step_s, self.loading_s)


def resolve(experiments: Sequence[Experiment], *, elsewhere: str | None = None) -> list[Experiment]:
    """Fill in ``cost.reference`` where it is needed and empty, from what was measured, or from a measurement now.

    Args:
        experiments: checked settings; those that compare costs are best given together.
        elsewhere: type of the device of another machine, where nothing can be measured.

    Raises:
        InputError: the steps can only be measured elsewhere.
    """
    lacking = [one for one in experiments if needs_reference(one) and not one.cost.reference]
    if lacking and elsewhere is not None:
        raise InputError(
            "cost.reference must be given for runs on another machine, as a budget or clock=cost needs it; got []: "
            "measure it there, with `rescaler measure` and these settings"
        )
    times = iter(references(lacking))
    resolved = []
    for one in experiments:
        if needs_reference(one) and not one.cost.reference:
            one = dataclasses.replace(one, cost=CostSettings([reference.seconds for reference in next(times)]))
        resolved.append(one)
    return resolved


def references(experiments: Sequence[Experiment], *, again: bool = False) -> list[list[Reference]]:
    """Return the reference of each network of each experiment, the smallest first; measure what is missing, or all."""
    wanted = [_paths(one) for one in experiments]
    missing: dict[Path, tuple[Experiment, int]] = {}
    targets: dict[Path, tuple[Experiment, int]] = {}
    for experiment, paths in zip(experiments, wanted, strict=True):
        networks = {path: (experiment, number) for number, path in enumerate(paths)}
        missing |= {path: network for path, network in networks.items() if again or not path.exists()}
        targets[paths[-1]] = networks[paths[-1]]
    for target, (experiment, _) in targets.items():
        # A network is compared with its target: both are measured in one run, in turns.
        group = {path: network for path, network in missing.items() if network[0].model == experiment.model}
        if group:
            _measure({target: targets[target], **group}, target)
            missing = {path: network for path, network in missing.items() if path not in group}
    return [[read_reference(path) for path in paths] for paths in wanted]


def read_reference(path: Path) -> Reference:
    """Read one reference.

    Raises:
        InputError: the file is damaged.
    """
    values = read_sealed(path)
    try:
        return Reference(**{**values, "image_px": image_size(values["image_px"])})
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: no reference time: remove it, and it is measured anew") from error


def _paths(experiment: Experiment) -> list[Path]:
    """Where the reference of each network is kept, the smallest first."""
    folder, device = Path(experiment.ledger.folder) / _FOLDER, device_for(experiment.device)
    found = networks_of(dataclasses.replace(experiment, resize_epoch="never", resize_at=None), {})
    each = [(shrunk.image_px, [dataclasses.asdict(layer) for layer in shrunk.layers]) for shrunk in found.pretrain]
    paths = []
    names = stage_names(len(experiment.shrink.stages))
    for name, (image_px, layers) in zip(names, [*each, (experiment.data.image_px, [])], strict=True):
        one = experiment.of_stage(name)
        step = resolve_step(one.step, one.optim.batch_size, device.type, is_here=True)
        optim = {key: value for key, value in identity(one.optim).items() if key not in _NO_TIME}
        what = [found.definition, layers, image_px, one.data.classes, optim, identity(step)]
        loads = [one.data.name, one.data.train or one.data.folder, one.data.workers]
        key = digest([what, loads, device_name(device), torch.get_num_threads(), torch_version()])
        paths.append(folder / f"{key}.json")
    return paths


def _measure(networks: dict[Path, tuple[Experiment, int]], target: Path) -> None:
    """Measure networks, given as experiments and the numbers of their networks, and keep what was not measured yet."""
    experiment = networks[target][0]
    device = device_for(experiment.device)
    named = {str(path): list(candidates(own).values())[number] for path, (own, number) in networks.items()}
    log.info("measuring the reference times of %d networks", len(named))
    with status_line() as say:
        times, loading = time_networks(experiment, named, lambda _: say("measuring reference times"))
    now = Spread.of(times[str(target)]).median
    scale = read_reference(target).step_s / now if target.exists() else 1.0  # the machine may be slower today
    for path, (own, _) in networks.items():
        if path == target and path.exists():
            continue
        candidate = named[str(path)]
        step = Spread.of([seconds * scale for seconds in times[str(path)]])
        reference = Reference(
            network=candidate.name,
            image_px=candidate.image_px,
            batch_size=own.optim.batch_size if candidate.recipe is None else candidate.recipe.optim.batch_size,
            step_s=_rounded(step.median),
            low_s=_rounded(step.low),
            high_s=_rounded(step.high),
            rounds=len(times[str(path)]),
            loading_s=_rounded(loading[str(path)].median) if loading else 0.0,
            device=device_name(device),
            torch=torch_version(),
            measured=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        write_text(path, json.dumps(sealed(reference._asdict()), indent=1))


def _rounded(seconds: float) -> float:
    """Round to four digits, as they are shown: typed in, they give the same keys."""
    return float(f"{seconds:.4g}")
