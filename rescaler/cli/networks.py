"""Commands on networks: ``rescaler describe``, and ``measure`` for their reference times."""

import argparse
import contextlib
import dataclasses
import itertools
import json
import math
from collections.abc import Iterator, Sequence

from rescaler.cli import STDOUT, write, write_csv
from rescaler.cli.arguments import CPU_BATCH
from rescaler.compose import jobs
from rescaler.config import LOOKED_AT, DataSettings, Experiment
from rescaler.data import image_folder
from rescaler.errors import InputError, listed
from rescaler.measure import Spread, batch_loading_s, candidates, doubts, loading_notes, step_recipe, time_steps
from rescaler.method import height_width, image_size, size_text
from rescaler.method.description import Description, compare
from rescaler.method.trace import outline
from rescaler.networks import initial_target, networks_of, shrunk_stages
from rescaler.plan import device_for
from rescaler.record import device_name, torch_version
from rescaler.reference import references
from rescaler.text import TextTable, counted, status_line

_NOISY = 1.5
"""Slowest round over fastest from which on a measurement is called noisy."""
_NEAR = 0.1
"""Share of the pre-train images' side up to which others are near."""


def describe(arguments: argparse.Namespace) -> None:
    """Print and write the tables."""
    if arguments.batch is not None and (arguments.batch < 1 or not arguments.measure):
        raise InputError(f"--batch must be at least 1, and is for --measure; got {arguments.batch}")
    described: list[Description] = []
    tables: list[TextTable] = []
    seen: list[DataSettings] = []
    for job in jobs(arguments.overrides, arguments.config_dir, arguments.config_path, arguments.config_name):
        stages = [stage for stage in _descriptions(job.experiment) if stage not in described]
        if not stages:  # a sweep over what does not change the networks
            continue
        described += stages
        data = job.experiment.data
        if data.name in LOOKED_AT and data not in seen and (data.train or image_folder(data).is_dir()):
            seen.append(data)
            tables.append(_pictures(data))
        shown = [stage.table(every=arguments.all) for stage in stages]
        if arguments.measure:
            shown.append(_measured(job.experiment, arguments.batch))
        tables += shown
    if STDOUT not in (arguments.csv, arguments.markdown):
        print(*tables, sep="\n\n\n")
    if arguments.csv is not None:
        write_csv(arguments.csv, _csv(described))
    if arguments.markdown is not None:
        write(arguments.markdown, "\n".join(table.markdown() for table in tables))


def _descriptions(experiment: Experiment) -> list[Description]:
    """Each pre-train network beside the target, the smallest first; no data set is needed."""
    target, data = outline(initial_target(experiment)), experiment.data
    stages = shrunk_stages(experiment, target)
    return [compare(target, shrunk, data.image_px, channels=data.channels) for shrunk in stages]


def _pictures(data: DataSettings) -> TextTable:
    """What a set of pictures holds, and how its images are fed."""
    from rescaler.data.contents import SAMPLE, look, source  # imports what decodes pictures

    seen = look(data)
    least, most = (seen.train.index(pick(seen.train)) for pick in (min, max))
    sizes = " to ".join(f"{width} x {height}" for height, width in dict.fromkeys(seen.sizes))
    rows = [
        ["classes", f"{len(seen.classes)}: {listed(seen.classes, 8)}"],
        ["training pictures", f"{sum(seen.train):,}"],
        ["of the smallest class", f"{seen.train[least]:,} ({seen.classes[least]})"],
        ["of the largest class", f"{seen.train[most]:,} ({seen.classes[most]})"],
        ["test pictures", f"{seen.test:,}" if seen.test else "none"],
        ["sizes", f"{sizes} px"],
        ["colour", "none" if seen.is_grey else "RGB"],
        ["data.channels", str(data.channels)],
        ["data.image_px", size_text(data.image_px)],
        ["data.in_memory", str(data.in_memory).lower()],
        ["data.mean", str(data.mean)],
        ["data.std", str(data.std)],
    ]
    notes = [f"Sizes, colour, mean and std: of {counted(seen.sampled, 'training picture')}, drawn with a fixed seed."]
    if unread := min(SAMPLE, sum(seen.train)) - seen.sampled:
        notes.append(f"{counted(unread, 'picture')} cannot be read: `rescaler prepare` leaves out and names such.")
    if data.holdout:
        notes.append(f"data.holdout={data.holdout} of each class is kept from training and tested on.")
    if seen.is_grey and data.channels == 3:
        notes.append("Without colour, data.channels=1 data.in_memory=true saves two thirds of the memory.")
    return TextTable(f"Pictures: {source(data)}", ["Of the pictures", "Found"], rows, notes, ["Found"])


def _csv(descriptions: Sequence[Description]) -> Iterator[Sequence[object]]:
    for number, (description, layer) in enumerate((one, layer) for one in descriptions for layer in one.layers):
        row = {
            "network": description.network,
            "target_px": _cell(description.target_px),
            "pretrain_px": _cell(description.pretrain_px),
            **{key: _cell(value) for key, value in dataclasses.asdict(layer).items()},
            "ratio": layer.ratio,
            "scale": layer.scale,
            "eq4_low_macs": layer.bounds_macs[0],
            "eq4_high_macs": layer.bounds_macs[1],
        }
        if number == 0:
            yield list(row)
        yield list(row.values())


def _cell(value: object) -> object:
    return "x".join(map(str, value)) if isinstance(value, tuple) else value


def _measured(experiment: Experiment, batch_size: int | None) -> TextTable:
    """Training steps of all networks, in turn, in every precision and memory format of the device."""
    device = device_for(experiment.device)
    if batch_size is None:
        batch_size = experiment.optim.batch_size
        batch_size = batch_size if device.type == "cuda" else min(batch_size, CPU_BATCH)
    optim = dataclasses.replace(experiment.optim, batch_size=batch_size)
    networks = candidates(experiment)
    sizes_px = {name: network.image_px for name, network in networks.items()}
    precisions = ("fp32", "tf32", "bf16", "fp16") if device.type == "cuda" else ("fp32", "bf16")
    rows = []
    with status_line() as say:
        loading = batch_loading_s(experiment.data, sizes_px, batch_size=batch_size, device=device, progress=say)
        verdicts = loading_notes(experiment.data, loading, batch_size)
        for precision, form in itertools.product(precisions, ("channels_last", "contiguous")):
            step = dataclasses.replace(experiment.step, precision=precision, memory_format=form)
            recipe = step_recipe(dataclasses.replace(experiment, optim=optim, step=step), device.type)
            how = f"{precision} {form}"

            def tell(text: str, how: str = how) -> None:
                say(f"{how}: {text}")

            step_s = time_steps(networks, recipe, device=device, progress=tell)
            target_s = step_s.pop("target")
            for name, pretrain_s in step_s.items():
                faster = Spread.of_ratios(target_s, pretrain_s)
                own, target = Spread.of(pretrain_s).median, Spread.of(target_s).median
                milliseconds = [f"{1000 * seconds:,.2f} ms" for seconds in (own, target)]
                rows.append([precision, form, name, *milliseconds, faster.shown(), str(len(target_s))])
                verdicts += doubts(name, faster, f"here ({how})")
                loaded, loaded_target = own, target
                if loading:
                    loaded, loaded_target = max(own, loading[name].median), max(target, loading["target"].median)
                if (loaded, loaded_target) != (own, target):
                    verdicts.append(
                        f"Loading sets the pace ({how}): with it an epoch of the {name} network is "
                        f"{loaded_target / loaded:.2f} times faster than the target's, not {target / own:.2f}."
                    )
    heading = f"Measured: a training step of {batch_size} images, {device_name(device)}, torch {torch_version()}"
    columns = ("Precision", "Memory format", "Network", "Step", "Target's", "Times faster", "n")
    note = (
        "How many times faster than the target's: median (lowest to highest) of n rounds, in which the networks took "
        "turns. Random images on the device."
    )
    return TextTable(heading, columns, rows, [note, *verdicts], ("Memory format", "Network"))


def measure(arguments: argparse.Namespace) -> None:
    """Print the reference times of the networks of some settings; measure those that are missing."""
    experiments = [
        job.experiment
        for job in jobs(arguments.overrides, arguments.config_dir, arguments.config_path, arguments.config_name)
    ]
    if arguments.sizes:
        experiments = [other for one in experiments for other in _of_near_sizes(one)]
    rows: list[list[str]] = []
    notes = [
        "Step: median (lowest to highest) of n rounds, in which the networks took turns. Cost: in steps of the target."
    ]
    for each in references(experiments, again=arguments.again):
        for one in each:
            step = Spread(one.step_s, one.low_s, one.high_s)
            times = [step.in_ms(), f"{1000 * one.loading_s:.2f} ms", f"{one.seconds / each[-1].seconds:.3f}"]
            row = [one.network, f"{size_text(one.image_px)} px", str(one.batch_size), *times]
            row += [str(one.rounds), one.measured]
            if row not in rows:
                rows.append(row)
            if one.high_s > _NOISY * one.low_s:
                notes.append("A measurement is noisy: measure again (--again) while nothing else runs.")
        px = json.dumps(each[0].image_px, separators=(",", ":"))
        size = f"shrink.image_px={px} " if arguments.sizes else ""
        notes.append(f"As a setting: {size}cost.reference=[{','.join(f'{one.seconds:g}' for one in each)}]")
    last = each[-1]
    columns = ("Network", "Images", "Batch", "Step", "Loading", "Cost", "n", "Measured")
    heading = f"Reference times, {last.device}, torch {last.torch}"
    print(TextTable(heading, columns, rows, list(dict.fromkeys(notes)), ("Network",)))


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
