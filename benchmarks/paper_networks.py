"""How much faster the paper's pre-train networks train than its target networks, on today's hardware.

    python -m benchmarks.paper_networks                 from the checkout: torch and torchvision are all it needs
    python -m benchmarks.paper_networks --modes eager compiled   on a CPU, with torch.compile too (needs a C++ compiler)
    python -m benchmarks.paper_networks --folder FOLDER from the files of an ImageNet tree, not from the device
    python -m benchmarks.paper_networks --out benchmarks/results/paper_networks_gpu.json

Images/s of the real training loop on OverFeat-fast and ResNet-34: the target, the pre-train network, and the target's
own kernels on the pre-train network's small images (``input_only``), in every precision, memory format, eager and
compiled; and the share of the training time that this would save in the paper's schedule. The three take turns, on
synthetic images that are on the device already or on image files; the first steps do not count. Results are written
after each setting, so a run that is stopped leaves what it has.
"""

import argparse
import dataclasses
import functools
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.models import resnet50

from benchmarks.epochs import Trainer
from benchmarks.reporting import (
    Budget,
    batch_size,
    eager_steps,
    provenance,
    say,
    shown,
    timing_parser,
    write,
)
from rescaler.config import (
    DataSettings,
    Experiment,
    OptimSettings,
    ScheduleSettings,
    ShrinkSettings,
    StepSettings,
)
from rescaler.errors import InputError, first_line
from rescaler.measure import Spread, turns
from rescaler.method.description import describe
from rescaler.method.kernels import KERNEL_TABLE
from rescaler.models import overfeat_fast, overfeat_small, resnet34
from rescaler.models.factory import build
from rescaler.networks import Networks
from rescaler.precision import cannot_compile
from rescaler.text import TextTable


@dataclasses.dataclass(frozen=True)
class Network:
    """A network, the side of its images, and what the paper reports of it (2016)."""

    make: Callable[..., nn.Module]
    image_px: int
    resize_epoch: int
    """The earliest of the paper's, in pre-train epochs."""
    epochs: int
    times_faster_paper: float | None = None
    """Of the pre-train network, than the target."""
    saved_paper: float | None = None
    """Share of the target's training time."""
    classes: int = 1000
    channels: int = 3

    def saved(self, times_faster: Spread) -> Spread:
        """Share of the target's training time that is saved if so many times faster until the resize."""
        return Spread(*(self.resize_epoch / self.epochs * (1 - 1 / times) for times in times_faster))


NETWORKS = {
    "OverFeat-fast": Network(overfeat_fast, 231, 17, 55, 269.1 / 106.8, 1 - 220.0 / 269.1),
    "ResNet-34": Network(resnet34, 224, 28, 90, 179.33 / 70.09, 1 - 145.60 / 179.33),
    "ResNet-50": Network(resnet50, 224, 28, 90),
    "demo": Network(overfeat_small, 28, 17, 55, classes=10, channels=1),
}
"""The paper's hours: Tables 2 and 4. ResNet-50, which it does not have, has ResNet-34's schedule."""
VARIANTS: dict[str, tuple[object, bool]] = {
    "target": (0, False),
    "pretrain": ("never", False),
    "input_only": ("never", True),
}
"""Resize epoch, and whether the target's kernels are kept."""
ROUND_S = {"device": 0.4, "files": 6.0}
"""Seconds of one network before the next one's turn: this many batches, but one at least. The workers that read files
begin each turn with nothing read, which must not be most of it."""
WARM_UP_BATCHES = 4
"""Compiled networks compile within three."""
GUESSES = {"compiled": 2.0}
"""Minutes of a setting of this mode, before one is measured."""
IMAGENET_IMAGES = 1_281_167
PEAK_TFLOPS: dict[str, dict[str, float]] = {
    "NVIDIA H100 80GB HBM3": {"fp32": 67, "tf32": 495, "bf16": 989},
    "NVIDIA H200": {"fp32": 67, "tf32": 495, "bf16": 989},
    "NVIDIA A100-SXM4-40GB": {"fp32": 19.5, "tf32": 156, "bf16": 312},
    "NVIDIA A100-SXM4-80GB": {"fp32": 19.5, "tf32": 156, "bf16": 312},
}
"""NVIDIA's data sheets: dense, not sparse."""


def steps(arguments: argparse.Namespace) -> list[StepSettings]:
    """What is measured, eager first: compiling takes minutes and may meet the end of the time."""
    eager = eager_steps(arguments.device, arguments.precisions)
    compiled = [StepSettings(name, compile=True) for name in dict.fromkeys(step.precision for step in eager)]
    return eager * ("eager" in arguments.modes) + compiled * ("compiled" in arguments.modes)


def experiment(network: Network, variant: str, step: StepSettings, arguments: argparse.Namespace) -> Experiment:
    """One of the three, on images of the device or on files."""
    resize_epoch, input_only = VARIANTS[variant]
    source: dict[str, Any] = {
        "name": "synthetic",
        "train_images": max(arguments.images, batch_size(arguments)),
        "test_images": 1,
    }
    if arguments.folder is not None:
        source = {"name": "imagenet", "folder": str(arguments.folder), "workers": arguments.workers}
    pixels: dict[str, Any] = {"mean": [0.45] * network.channels, "std": [0.22] * network.channels}
    return Experiment(
        model={"_target_": path(network)},
        shrink=ShrinkSettings(table=dict(KERNEL_TABLE), input_only=input_only),
        data=DataSettings(
            image_px=network.image_px, classes=network.classes, channels=network.channels, **pixels, **source
        ),
        # So small a rate leaves the weights finite; the work is the same.
        schedule=ScheduleSettings(epochs=1, batches_per_epoch=1, learning_rates=[1e-6]),
        optim=OptimSettings(batch_size=batch_size(arguments)),
        step=step,
        resize_epoch=resize_epoch,
        device=arguments.device,
    )


@dataclasses.dataclass(frozen=True)
class Measured:
    """What the three variants took."""

    rounds: dict[str, list[dict[str, float]]]
    """Seconds a batch by clock, a dictionary a round."""
    compile_s: dict[str, float]

    def batch_s(self, name: str) -> list[float]:
        """Seconds a batch, by round."""
        return [sum(clocks.values()) for clocks in self.rounds[name]]

    def times_faster(self, name: str) -> Spread:
        """Than the target, round by round."""
        return Spread.of_ratios(self.batch_s("target"), self.batch_s(name))


def measure(
    network: Network,
    step: StepSettings,
    arguments: argparse.Namespace,
    known: dict[str, Networks],
    tell: Callable[[str], None],
) -> Measured:
    """Seconds a batch of each variant, by clock and round."""
    torch.compiler.reset()  # else the networks measured before would count as recompilations of these
    trainers, counts, compile_s = {}, {}, {}
    for name in VARIANTS:
        tell(f"warming up {name}")
        trainers[name] = Trainer(experiment(network, name, step, arguments), known)
        compile_s[name] = trainers[name].train(WARM_UP_BATCHES).get("compile", 0.0)
        batches = WARM_UP_BATCHES if arguments.folder is None else 4 * arguments.workers
        seconds = sum(trainers[name].train(batches).values()) / batches
        counts[name] = max(1, round(ROUND_S["device" if arguments.folder is None else "files"] / seconds))
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    for number, order in enumerate(turns(VARIANTS, arguments.rounds), start=1):
        tell(f"round {number} of {arguments.rounds}")
        for name in order:
            seconds_by_clock = trainers[name].train(counts[name])
            rounds[name].append({clock: value / counts[name] for clock, value in seconds_by_clock.items()})
    return Measured(rounds, compile_s)


def result(
    name: str, step: StepSettings, measured: Measured, arguments: argparse.Namespace, macs: dict[str, int]
) -> dict[str, Any]:
    """One setting's numbers, for JSON."""
    batch = batch_size(arguments)
    speed = {key: Spread.of([batch / seconds for seconds in measured.batch_s(key)]) for key in VARIANTS}
    faster = {key: measured.times_faster(key) for key in ("pretrain", "input_only")}
    peak = None
    if arguments.device == "cuda":
        peak = PEAK_TFLOPS.get(torch.cuda.get_device_name(), {}).get(step.precision)
    return {
        "network": name,
        "precision": step.precision,
        "memory_format": step.memory_format,
        "cudnn_benchmark": step.cudnn_benchmark,
        "compiled": step.compile,
        "batch_size": batch,
        "n": arguments.rounds,
        "images_per_s": {key: spread._asdict() for key, spread in speed.items()},
        "imagenet_epochs_per_h": {key: 3600 * spread.median / IMAGENET_IMAGES for key, spread in speed.items()},
        # A multiplication and an addition, forward and twice as many backward.
        "share_of_peak": {key: peak and 6 * macs[key] * speed[key].median / (1e12 * peak) for key in VARIANTS},
        "share_of_time_by_clock": {
            key: {clock: sum(clocks[clock] for clocks in rounds) / sum(measured.batch_s(key)) for clock in rounds[0]}
            for key, rounds in measured.rounds.items()
        },
        "compile_s": measured.compile_s,
        "times_faster": {key: spread._asdict() for key, spread in faster.items()},
        "saved_fraction": {key: NETWORKS[name].saved(spread)._asdict() for key, spread in faster.items()},
    }


def line(row: dict[str, Any]) -> str:
    """One setting's numbers, for a person."""
    speed = "  ".join(f"{key} {value['median']:8,.1f}" for key, value in row["images_per_s"].items())
    faster = "  ".join(f"{key} {Spread(**value).shown()}" for key, value in row["times_faster"].items())
    return f"{row['network']:13} {how(row):33}  images/s: {speed}  times faster: {faster}"


def how(row: dict[str, Any]) -> str:
    """How a setting is computed, in words."""
    names = ("precision", "memory_format", "cudnn_benchmark")
    return shown(StepSettings(**{name: row[name] for name in names}, compile=row["compiled"]))


def summary(rows: Sequence[dict[str, Any]]) -> TextTable:
    """What a person would get who trains the target as fast as it goes here, by network and precision."""
    fastest: dict[tuple[str, str], dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: float(row["images_per_s"]["target"]["median"])):
        fastest[row["network"], row["precision"]] = row
    cells = []
    for (name, _), row in sorted(fastest.items()):
        network, fewer = NETWORKS[name], fewer_multiplications(name)
        spreads = {key: Spread(**spread) for key, spread in row["times_faster"].items()}
        paper = ("–", "–")
        if network.times_faster_paper is not None and network.saved_paper is not None:
            paper = f"{network.times_faster_paper:.2f}", f"{100 * network.saved_paper:.1f} %"
        cells.append(
            [
                name,
                how(row),
                f"{row['images_per_s']['target']['median']:,.1f}",
                *(f"{spread.shown()} of {fewer[key]:.2f}" for key, spread in spreads.items()),
                paper[0],
                *(f"{100 * network.saved(spread).median:.1f} %" for spread in spreads.values()),
                paper[1],
            ]
        )
    columns = ("Network", "Target's fastest step", "Images/s", "Pre-train", "Input only", "Paper")
    saved = ("Saved: pre-train", "Saved: input only", "Saved: paper")
    notes = [
        "Pre-train, input only: times faster than the target, of the ratio of multiplications. Saved: of the training "
        "time, with the paper's first resize epoch (17 of 55, 28 of 90). Paper: its hours, 2016.",
    ]
    return TextTable("Where the target is fastest", (*columns, *saved), cells, notes, columns[1:2])


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    made = timing_parser(__doc__, minutes=18)
    paper = [name for name, network in NETWORKS.items() if network.times_faster_paper is not None]
    made.add_argument("--networks", nargs="+", choices=NETWORKS, default=paper, help="default: the paper's two")
    made.add_argument("--folder", type=Path, metavar="FOLDER", help="an ImageNet tree; default: synthetic images")
    made.add_argument("--workers", type=int, default=8, help="processes that read it; default: %(default)s")
    made.add_argument("--images", type=int, default=1024, help="how many synthetic ones; default: %(default)s")
    made.add_argument("--modes", nargs="+", choices=("eager", "compiled"), help="default: eager, on a GPU both")
    parsed = made.parse_args(arguments)
    if parsed.modes is None:
        parsed.modes = ["eager", "compiled"] if parsed.device == "cuda" else ["eager"]
    return parsed


def results(arguments: argparse.Namespace, left_out: list[str]) -> Iterator[dict[str, Any]]:
    """All settings' results, as they come; those that time or memory does not allow are named in ``left_out``."""
    todo = list(itertools.product(steps(arguments), arguments.networks))
    if any(step.compile for step, _ in todo) and (reason := cannot_compile(torch.device(arguments.device))):
        left_out.append(f"compiled: {reason}")
        todo = [(step, name) for step, name in todo if not step.compile]
    budget, known = Budget(arguments.minutes, GUESSES), dict[str, Networks]()
    for number, (step, name) in enumerate(todo, 1):
        mode = "compiled" if step.compile else "eager"
        if not budget.allows(mode):
            left_out.append(f"{name} {shown(step)}: no time left")
            continue
        where = f"[{number}/{len(todo)}, {budget.passed():.1f} min] {name} {shown(step)}"
        try:
            with budget.spent(mode):
                measured = measure(NETWORKS[name], step, arguments, known, functools.partial(say, where))
        except RuntimeError as error:  # the memory is too small, or it cannot be compiled
            left_out.append(f"{name} {shown(step)}: {first_line(error)}")
            continue
        finally:
            say("")
        yield result(name, step, measured, arguments, multiplications(name))


def run(arguments: argparse.Namespace, save: Callable[[dict[str, Any]], None]) -> None:
    """Measure and print; save all numbers after each setting."""
    report: dict[str, Any] = {
        "data": "synthetic, on the device" if arguments.folder is None else "image files",
        "networks": {
            name: {
                "times_faster_paper": NETWORKS[name].times_faster_paper,
                "saved_fraction_paper": NETWORKS[name].saved_paper,
                "times_fewer_multiplications": fewer_multiplications(name),
            }
            for name in arguments.networks
        },
        "results": [],
        "left_out": [],
    }
    for row in results(arguments, report["left_out"]):
        print(line(row), flush=True)
        report["results"].append(row)
        save(report)
    save(report)
    if report["results"]:
        print(f"\n{summary(report['results'])}")
    for reason in report["left_out"]:
        print(f"left out: {reason}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parsed = parse(arguments)
    about = provenance("paper_networks", torch.device(parsed.device))
    source = "synthetic" if parsed.folder is None else "files"
    print(f"{about['device']}, torch {about['torch']}, batch {batch_size(parsed)}, images: {source}")
    try:
        run(parsed, lambda report: write(parsed.out, about | report))
    except InputError as error:
        sys.exit(f"error: {error}")


@functools.cache
def multiplications(name: str) -> dict[str, int]:
    """Multiplications of one image's forward pass through each variant."""
    network = NETWORKS[name]
    with torch.device("meta"):
        target = build({"_target_": path(network)}, classes=network.classes, channels=network.channels)
    both = [describe(target, network.image_px, input_only=input_only) for input_only in (False, True)]
    return {"target": both[0].target_macs, "pretrain": both[0].pretrain_macs, "input_only": both[1].pretrain_macs}


def fewer_multiplications(name: str) -> dict[str, float]:
    """How many times fewer than the target's."""
    macs = multiplications(name)
    return {key: macs["target"] / macs[key] for key in ("pretrain", "input_only")}


def path(network: Network) -> str:
    """Import path of the function that makes it."""
    return f"{network.make.__module__}.{network.make.__name__}"


if __name__ == "__main__":
    main()
