"""What epochs take here: real training steps of every network of a sweep, and the loading of their images."""

import json
from collections.abc import Sequence

from rescaler.compose import Job, distinctions
from rescaler.config import Experiment
from rescaler.measuring import Spread
from rescaler.plan import device_for
from rescaler.provenance import device_name, torch_version
from rescaler.sweeps.forecast import batches_without_data, what_takes_time
from rescaler.training.loading import batch_loading_s, how_to_load_faster, loading_notes
from rescaler.training.probe import candidates, doubts, measure, step_recipe
from rescaler.waiting import told


def epoch_hours(jobs: Sequence[Job]) -> tuple[list[list[float]], list[str]]:
    """Measure what an epoch of each network takes; what takes the same time in several runs is measured once.

    Args:
        jobs: the runs.

    Returns:
        For each run, the hours of an epoch of each network, the smallest first; and notes on how they were measured.

    Raises:
        InputError: a network cannot be built, files are damaged, or the device's memory is too small.
    """
    measured: dict[str, list[float]] = {}
    notes = []
    for job, own in zip(jobs, distinctions(jobs), strict=True):
        key = json.dumps(what_takes_time(job.experiment))
        if key not in measured:
            measured[key], said = _measured(job.experiment, own)
            notes += said
    notes.append("Steps are of random images on the device; evaluation and the rescale are not counted.")
    return [measured[json.dumps(what_takes_time(job.experiment))] for job in jobs], notes


def _measured(experiment: Experiment, own: str) -> tuple[list[float], list[str]]:
    """Hours of an epoch of each network, and what to say of it; ``own``: what tells the run from others."""
    device, batch_size = device_for(experiment.device), experiment.optim.batch_size
    with told() as say:
        say("building the networks")
        networks, recipe = candidates(experiment), step_recipe(experiment, device.type)
        rounds = measure(networks, recipe, device=device, progress=lambda text: say(f"probe: {text}"))
        sizes_px = {name: network.image_px for name, network in networks.items()}
        loading = batch_loading_s(experiment.data, sizes_px, batch_size=batch_size, device=device, progress=say)
    step_s = {name: Spread.of(seconds) for name, seconds in rounds.items()}
    slowest_s = {name: max(step.median, loading[name].median if loading else 0) for name, step in step_s.items()}
    faster = {name: Spread.of_ratios(rounds["target"], rounds[name]) for name in rounds if name != "target"}
    batches, where = batches_without_data(experiment), f"{device_name(device)}, torch {torch_version()}"
    notes = [
        f"Measured{own}: {', '.join(f'{name} {step.in_ms()}' for name, step in step_s.items())} a step of "
        f"{batch_size} images, {batches:,} steps an epoch; {where}.",
        f"Times faster than the target's, round by round: "
        f"{', '.join(f'{name} {times.shown()}' for name, times in faster.items())}.",
        *(doubt for name, times in faster.items() for doubt in doubts(name, times)),
        *loading_notes(experiment.data, loading, batch_size),
    ]
    if waiting := [name for name, step in step_s.items() if slowest_s[name] > step.median]:
        notes.append(f"Loading sets the pace of {', '.join(waiting)}: {how_to_load_faster(experiment.data)}.")
    return [batches * seconds / 3600 for seconds in slowest_s.values()], notes
