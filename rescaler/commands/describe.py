"""``rescaler describe``: the pre-train network beside the target, layer by layer, and how fast both are here."""

import argparse
import csv
import dataclasses
import functools
import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from rescaler.commands.loading import loading_notes, loading_s
from rescaler.commands.networks import candidates, descriptions
from rescaler.commands.output import STDOUT, progress, write
from rescaler.errors import InputError
from rescaler.measuring import Spread
from rescaler.texttable import TextTable

if TYPE_CHECKING:
    from rescaler.method.description import Description
    from rescaler.settings import Experiment, StepSettings

# Hydra and torch take seconds to import, so they are imported where they are used.

_CPU_BATCH = 16
"""Images in a timed step on a CPU, at most, unless asked for: a step of the paper's 128 takes many seconds there."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "describe",
        help="what shrinking makes of a network, layer by layer, and how fast it is here",
        description="Kernels, feature maps and multiplications of both networks. No images needed.",
        epilog="example: python -m rescaler describe model=resnet34 data=imagenet --measure",
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings, as for python -m rescaler.run")
    parser.add_argument("--all", action="store_true", help="a row for each layer, even where layers are alike")
    parser.add_argument("--measure", action="store_true", help="time training steps of the networks on this device")
    parser.add_argument(
        "--batch",
        type=int,
        metavar="N",
        help=f"images in a timed step; default: optim.batch_size, on a CPU at most {_CPU_BATCH}",
    )
    parser.add_argument("--csv", metavar="FILE", help="write each layer's numbers as CSV; - for standard output")
    parser.add_argument("--markdown", metavar="FILE", help="write the tables as Markdown; - for standard output")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Do what the command line asks.

    Raises:
        InputError: a setting is impossible, or the network cannot be shrunk this way.
    """
    if arguments.batch is not None and (arguments.batch < 1 or not arguments.measure):
        raise InputError(f"--batch must be at least 1, and is for --measure; got {arguments.batch}")
    from rescaler.compose import jobs

    described: list[Description] = []
    tables: list[TextTable] = []
    for job in jobs(arguments.overrides):
        stages = [stage for stage in descriptions(job.experiment) if stage not in described]
        if not stages:  # a sweep over what does not change the networks
            continue
        described += stages
        shown = [stage.table(every=arguments.all) for stage in stages]
        if arguments.measure:
            shown.append(_measured(job.experiment, arguments.batch))
        tables += shown
    if STDOUT not in (arguments.csv, arguments.markdown):
        print(*tables, sep="\n\n\n")
    if arguments.csv is not None:
        write(arguments.csv, _csv(described))
    if arguments.markdown is not None:
        write(arguments.markdown, "\n".join(table.markdown() for table in tables))


def _csv(descriptions: "Sequence[Description]") -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for description in descriptions:
        for layer in description.layers:
            row = {
                "network": description.network,
                "target_px": description.target_px,
                "pretrain_px": description.pretrain_px,
                **{key: _cell(value) for key, value in dataclasses.asdict(layer).items()},
                "ratio": layer.ratio,
                "scale": layer.scale,
                "eq4_low_macs": layer.bounds_macs[0],
                "eq4_high_macs": layer.bounds_macs[1],
            }
            if text.tell() == 0:
                writer.writerow(row)
            writer.writerow(row.values())
    return text.getvalue()


def _cell(value: object) -> object:
    return "x".join(map(str, value)) if isinstance(value, tuple) else value


def _measured(experiment: "Experiment", batch_size: int | None) -> TextTable:
    """Training steps of all networks, in turn, in every precision and memory format of the device."""
    from rescaler.provenance import device_name, torch_version
    from rescaler.training.plan import device_for
    from rescaler.training.probe import measure, step_recipe

    device = device_for(experiment.device)
    if batch_size is None:
        batch_size = experiment.optim.batch_size
        batch_size = batch_size if device.type == "cuda" else min(batch_size, _CPU_BATCH)
    optim = dataclasses.replace(experiment.optim, batch_size=batch_size)
    networks = candidates(experiment)
    measured = {}
    with progress() as say:
        for step in _steps(experiment.step, device.type):
            recipe = step_recipe(dataclasses.replace(experiment, optim=optim, step=step), device.type)
            setting = f"{step.precision} {step.memory_format}"
            told = functools.partial(_tell, say, setting)
            measured[setting] = measure(networks, recipe, device=device, progress=told)
        loading = loading_s(experiment, networks, batch_size=batch_size, device=device, say=say)
    rows, verdicts = [], loading_notes(experiment, loading, batch_size)
    for setting, step_s in measured.items():
        target_s = step_s.pop("target")
        for name, pretrain_s in step_s.items():
            faster = Spread.of_ratios(target_s, pretrain_s)
            milliseconds = [f"{1000 * Spread.of(seconds).median:,.2f} ms" for seconds in (pretrain_s, target_s)]
            ratio = f"{faster.median:.2f} ({faster.low:.2f} to {faster.high:.2f})"
            rows.append([*setting.split(), name, *milliseconds, ratio, str(len(target_s))])
            verdicts += _verdict(setting, name, faster)
            if loading:
                verdicts += _waiting(setting, name, target_s, pretrain_s, loading)
    heading = f"Measured: a training step of {batch_size} images, {device_name(device)}, torch {torch_version()}"
    columns = ("Precision", "Memory format", "Network", "Step", "Target's", "Times faster", "n")
    note = (
        "How many times faster than the target's: median (lowest to highest) of n rounds, in which the networks took "
        "turns. Random images on the device."
    )
    return TextTable(heading, columns, rows, [note, *verdicts], ("Memory format", "Network"))


def _tell(say: Callable[[str], None], setting: str, text: str) -> None:
    say(f"{setting}: {text}")


def _steps(step: "StepSettings", device_type: str) -> "list[StepSettings]":
    """The settings of the step in every precision and memory format."""
    precisions: tuple[str, ...] = ("fp32", "tf32", "bf16", "fp16") if device_type == "cuda" else ("fp32", "bf16")
    return [
        dataclasses.replace(step, precision=precision, memory_format=form)
        for precision in precisions
        for form in ("channels_last", "contiguous")
    ]


def _waiting(
    setting: str, name: str, targets_s: Sequence[float], pretrains_s: Sequence[float], loading: Mapping[str, Spread]
) -> list[str]:
    """What loading leaves of the saving, where a network would wait for its images."""
    target_s, pretrain_s = Spread.of(targets_s).median, Spread.of(pretrains_s).median
    loaded_target_s, loaded_s = max(target_s, loading["target"].median), max(pretrain_s, loading[name].median)
    if (loaded_target_s, loaded_s) == (target_s, pretrain_s):
        return []
    return [
        f"Loading sets the pace ({setting}): with it an epoch of the {name} network is "
        f"{loaded_target_s / loaded_s:.2f} times faster than the target's, not {target_s / pretrain_s:.2f}."
    ]


def _verdict(setting: str, name: str, faster: Spread) -> list[str]:
    if faster.median <= 1:
        slower = f"its step takes {1 / faster.median:.2f} times as long as the target's"
        return [f"The {name} network is not faster here ({setting}): {slower}."]
    if faster.low <= 1:
        return [f"The {name} network is not clearly faster here ({setting}): in some rounds it was slower."]
    return []
