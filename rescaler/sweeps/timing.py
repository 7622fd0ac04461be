"""What epochs take here: real training steps of every network of a sweep, and the loading of their images."""

import json
from collections.abc import Sequence

from rescaler.compose import Job, distinctions
from rescaler.measuring import Spread
from rescaler.provenance import device_name, torch_version
from rescaler.sweeps.forecast import batches_per_epoch, what_takes_time
from rescaler.training.loading import batch_loading_s, how_to_load_faster, loading_notes
from rescaler.training.plan import device_for
from rescaler.training.probe import candidates, measure, step_recipe
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
    lines = []
    for job, own in zip(jobs, distinctions(jobs), strict=True):
        experiment = job.experiment
        device, batch_size, batches = (
            device_for(experiment.device),
            experiment.optim.batch_size,
            batches_per_epoch(experiment),
        )
        key = json.dumps(what_takes_time(experiment))
        if key in measured:
            continue
        with told() as say:
            say("building the networks")
            networks = candidates(experiment)
            steps = measure(
                networks,
                step_recipe(experiment, device.type),
                device=device,
                progress=lambda text: say(f"probe: {text}"),
            )
            sizes_px = {name: network.image_px for name, network in networks.items()}
            loading = batch_loading_s(experiment.data, sizes_px, batch_size=batch_size, device=device, progress=say)
        step_s = {name: Spread.of(rounds) for name, rounds in steps.items()}
        slowest_s = {name: max(step.median, loading[name].median if loading else 0) for name, step in step_s.items()}
        measured[key] = [batches * seconds / 3600 for seconds in slowest_s.values()]
        each = ", ".join(f"{name} {spread.in_ms()}" for name, spread in step_s.items())
        lines.append(
            f"Measured{own}: {each} a step of {batch_size} images, {batches:,} steps an epoch; "
            f"{device_name(device)}, torch {torch_version()}."
        )
        lines += loading_notes(experiment.data, loading, batch_size)
        waiting = [name for name, step in step_s.items() if slowest_s[name] > step.median]
        if waiting:
            lines.append(f"Loading sets the pace of {', '.join(waiting)}: {how_to_load_faster(experiment.data)}.")
    lines.append("Steps are of random images on the device; evaluation and the rescale are not counted.")
    return [measured[json.dumps(what_takes_time(job.experiment))] for job in jobs], lines
