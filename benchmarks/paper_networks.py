"""How much faster the paper's pre-train networks train than its target networks, on today's hardware.

    python -m benchmarks.paper_networks                 from the checkout: torch and torchvision are all it needs
    python -m benchmarks.paper_networks --compile       on a CPU, with torch.compile too (needs a C++ compiler)
    python -m benchmarks.paper_networks --folder FOLDER from the files of an ImageNet tree, not from the device
    python -m benchmarks.paper_networks --out benchmarks/results/paper_networks_gpu.json

Images/s of the real training loop on OverFeat-fast and ResNet-34: the target, the pre-train network, and the target's
own kernels on the pre-train network's small images (``input_only``), in every precision, memory format, eager and
compiled. The three take turns, on synthetic images that are on the device already or on image files; the first steps do
not count. Results are written after each setting, so a run that is stopped leaves what it has.
"""

import argparse
import dataclasses
import functools
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.epochs import Trainer
from benchmarks.reporting import parser, provenance, write
from rescaler.config import (
    DataSettings,
    Experiment,
    OptimSettings,
    ScheduleSettings,
    ShrinkSettings,
    StepSettings,
)
from rescaler.errors import InputError
from rescaler.measure import Spread, turns
from rescaler.method.description import describe
from rescaler.method.kernels import KERNEL_TABLE
from rescaler.models import overfeat_fast, overfeat_small, resnet34
from rescaler.precision import cannot_compile


@dataclasses.dataclass(frozen=True)
class Network:
    """A network, the side of its images, and how many times faster the paper's pre-train network was (2016)."""

    make: Callable[..., nn.Module]
    image_px: int
    times_faster_paper: float | None = None
    classes: int = 1000
    channels: int = 3


NETWORKS = {
    "OverFeat-fast": Network(overfeat_fast, 231, 2.52),
    "ResNet-34": Network(resnet34, 224, 2.56),
    "demo": Network(overfeat_small, 28, None, 10, 1),
}
VARIANTS: dict[str, tuple[object, bool]] = {
    "target": (0, False),
    "pretrain": ("never", False),
    "input_only": ("never", True),
}
"""Resize epoch, and whether the target's kernels are kept."""
PRECISIONS = {"cpu": ("fp32", "bf16"), "cuda": ("bf16", "tf32", "fp32")}
BATCH_SIZE = {"cpu": 8, "cuda": 128}
"""The paper's 128 where there is a GPU."""
ROUND_S = {"device": 0.7, "files": 6.0}
"""Seconds of one network before the next one's turn: this many batches, but one at least. The workers that read files
begin each turn with nothing read, which must not be most of it."""
WARM_UP_BATCHES = 4
"""Compiled networks compile within three."""
IMAGENET_IMAGES = 1_281_167
PEAK_TFLOPS: dict[str, dict[str, float]] = {
    "NVIDIA H100 80GB HBM3": {"fp32": 67, "tf32": 495, "bf16": 989},
    "NVIDIA H200": {"fp32": 67, "tf32": 495, "bf16": 989},
    "NVIDIA A100-SXM4-40GB": {"fp32": 19.5, "tf32": 156, "bf16": 312},
    "NVIDIA A100-SXM4-80GB": {"fp32": 19.5, "tf32": 156, "bf16": 312},
}
"""NVIDIA's data sheets: dense, not sparse."""


def steps(device_type: str, precisions: Sequence[str] | None, compiled: bool) -> list[StepSettings]:
    """What is measured, eager first: compiling takes minutes and may meet the end of the time."""
    wanted = [name for name in PRECISIONS[device_type] if precisions is None or name in precisions]
    eager = [StepSettings(name, form) for form in ("channels_last", "contiguous") for name in wanted]
    return eager + [StepSettings(name, compile=True) for name in wanted if compiled]


def shown(step: StepSettings) -> str:
    """How a step is computed, in words."""
    return f"{step.precision} {step.memory_format}{' compiled' if step.compile else ''}"


def experiment(network: Network, variant: str, step: StepSettings, arguments: argparse.Namespace) -> Experiment:
    """One of the three, on images of the device or on files."""
    resize_epoch, input_only = VARIANTS[variant]
    source: dict[str, Any] = {
        "name": "synthetic",
        "train_images": max(arguments.images, arguments.batch),
        "test_images": 1,
    }
    if arguments.folder is not None:
        source = {"name": "imagenet", "folder": str(arguments.folder), "workers": arguments.workers}
    pixels: dict[str, Any] = {"mean": [0.45] * network.channels, "std": [0.22] * network.channels}
    return Experiment(
        model={"_target_": f"{network.make.__module__}.{network.make.__name__}"},
        shrink=ShrinkSettings(table=dict(KERNEL_TABLE), input_only=input_only),
        data=DataSettings(
            image_px=network.image_px, classes=network.classes, channels=network.channels, **pixels, **source
        ),
        # So small a rate leaves the weights finite; the work is the same.
        schedule=ScheduleSettings(epochs=1, batches_per_epoch=1, learning_rates=[1e-6]),
        optim=OptimSettings(batch_size=arguments.batch),
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
    network: Network, step: StepSettings, arguments: argparse.Namespace, say: Callable[[str], None]
) -> Measured:
    """Seconds a batch of each variant, by clock and round."""
    torch.compiler.reset()  # else the networks measured before would count as recompilations of these
    trainers, counts, compile_s = {}, {}, {}
    for name in VARIANTS:
        say(f"warming up {name}")
        trainers[name] = Trainer(experiment(network, name, step, arguments))
        compile_s[name] = trainers[name].train(WARM_UP_BATCHES).get("compile", 0.0)
        batches = WARM_UP_BATCHES if arguments.folder is None else 4 * arguments.workers
        seconds = sum(trainers[name].train(batches).values()) / batches
        counts[name] = max(1, round(ROUND_S["device" if arguments.folder is None else "files"] / seconds))
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    for number, order in enumerate(turns(VARIANTS, arguments.rounds), start=1):
        say(f"round {number} of {arguments.rounds}")
        for name in order:
            seconds_by_clock = trainers[name].train(counts[name])
            rounds[name].append({clock: value / counts[name] for clock, value in seconds_by_clock.items()})
    return Measured(rounds, compile_s)


def result(
    name: str, step: StepSettings, measured: Measured, arguments: argparse.Namespace, macs: dict[str, int]
) -> dict[str, Any]:
    """One setting's numbers, for JSON."""
    speed = {key: Spread.of([arguments.batch / seconds for seconds in measured.batch_s(key)]) for key in VARIANTS}
    peak = None
    if arguments.device == "cuda":
        peak = PEAK_TFLOPS.get(torch.cuda.get_device_name(), {}).get(step.precision)
    return {
        "network": name,
        "precision": step.precision,
        "memory_format": step.memory_format,
        "compiled": step.compile,
        "batch_size": arguments.batch,
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
        "times_faster": {key: measured.times_faster(key)._asdict() for key in ("pretrain", "input_only")},
    }


def line(row: dict[str, Any]) -> str:
    """One setting's numbers, for a person."""
    speed = "  ".join(f"{key} {value['median']:8,.1f}" for key, value in row["images_per_s"].items())
    faster = "  ".join(
        f"{key} {value['median']:.2f} ({value['low']:.2f} to {value['high']:.2f})"
        for key, value in row["times_faster"].items()
    )
    how = f"{row['precision']} {row['memory_format']:13} {'compiled' if row['compiled'] else 'eager':8}"
    return f"{row['network']:13} {how}  images/s: {speed}  times faster: {faster}"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    made = parser(__doc__)
    paper = [name for name, network in NETWORKS.items() if network.times_faster_paper is not None]
    made.add_argument("--networks", nargs="+", choices=NETWORKS, default=paper, help="default: the paper's two")
    made.add_argument("--precisions", nargs="+", choices=PRECISIONS["cuda"], help="default: all of the device")
    made.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    made.add_argument("--batch", type=int, metavar="N", help="images a step; default: 128, on a CPU 8")
    made.add_argument("--folder", type=Path, metavar="FOLDER", help="an ImageNet tree; default: synthetic images")
    made.add_argument("--workers", type=int, default=8, help="processes that read it; default: %(default)s")
    made.add_argument("--images", type=int, default=1024, help="how many synthetic ones; default: %(default)s")
    made.add_argument("--rounds", type=int, default=7, help="turns of each network; default: %(default)s")
    made.add_argument("--compile", action=argparse.BooleanOptionalAction, help="default: on a GPU alone")
    made.add_argument("--minutes", type=float, default=18, help="no setting begins after these; default: %(default)s")
    return made.parse_args(arguments)


def say(*words: str) -> None:
    """Show in a terminal what is being done, on a line that the next words take."""
    if sys.stderr.isatty():
        print("\r\033[K" + ": ".join(words), end="", file=sys.stderr, flush=True)


def results(
    arguments: argparse.Namespace, compiled: bool, macs: dict[str, dict[str, int]], left_out: list[str]
) -> Iterator[dict[str, Any]]:
    """All settings' results, as they come; those that time or memory does not allow are named in ``left_out``."""
    start = time.monotonic()
    todo = list(itertools.product(steps(arguments.device, arguments.precisions, compiled), arguments.networks))
    for number, (step, name) in enumerate(todo, 1):
        minutes = (time.monotonic() - start) / 60
        if minutes > arguments.minutes:
            left_out.append(f"{name} {shown(step)}: no time left")
            continue
        where = f"[{number}/{len(todo)}, {minutes:.1f} min] {name} {shown(step)}"
        try:
            measured = measure(NETWORKS[name], step, arguments, functools.partial(say, where))
        except torch.OutOfMemoryError:
            left_out.append(f"{name} {shown(step)}: the memory is too small for batches of {arguments.batch} images")
            continue
        finally:
            say("")
        yield result(name, step, measured, arguments, macs[name])


def conclusion(name: str, rows: Sequence[dict[str, Any]], fewer: dict[str, float]) -> str:
    """What a person would get who trains the target as fast as it goes here."""
    best = max(rows, key=lambda row: float(row["images_per_s"]["target"]["median"]))
    how = shown(StepSettings(best["precision"], best["memory_format"], compile=best["compiled"]))
    words = [
        f"{key} {best['times_faster'][key]['median']:.2f} ({times:.2f} times fewer multiplications)"
        for key, times in fewer.items()
    ]
    paper = NETWORKS[name].times_faster_paper
    beside = "" if paper is None else f"; the paper: {paper}"
    return f"{name}, where the target is fastest ({how}), times faster: {', '.join(words)}{beside}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parsed = parse(arguments)
    device = torch.device(parsed.device)
    parsed.batch = parsed.batch or BATCH_SIZE[device.type]
    compiled = device.type == "cuda" if parsed.compile is None else parsed.compile
    left_out: list[str] = []
    if compiled and (reason := cannot_compile(device)) is not None:
        compiled = False
        left_out.append(f"compiled: {reason}")
    source = "synthetic, on the device" if parsed.folder is None else "image files"
    report: dict[str, Any] = provenance("paper_networks", device)
    report |= {"data": source, "networks": {}, "results": [], "left_out": left_out}
    print(f"{report['device']}, torch {report['torch']}, batch {parsed.batch}, images: {source}")
    macs = {name: multiplications(NETWORKS[name]) for name in parsed.networks}
    for name in parsed.networks:
        fewer = {key: macs[name]["target"] / macs[name][key] for key in ("pretrain", "input_only")}
        report["networks"][name] = {
            "times_faster_paper": NETWORKS[name].times_faster_paper,
            "times_fewer_multiplications": fewer,
        }
    try:
        for row in results(parsed, compiled, macs, left_out):
            print(line(row), flush=True)
            report["results"].append(row)
            write(parsed.out, report)
    except InputError as error:
        sys.exit(f"error: {error}")
    write(parsed.out, report)
    for name, entry in report["networks"].items():
        rows = [row for row in report["results"] if row["network"] == name]
        if rows:
            print(conclusion(name, rows, entry["times_fewer_multiplications"]))
    for reason in left_out:
        print(f"left out: {reason}")


def multiplications(network: Network) -> dict[str, int]:
    """Multiplications of one image's forward pass through each variant."""
    with torch.device("meta"):
        target = network.make(num_classes=network.classes, in_channels=network.channels)
    both = [describe(target, network.image_px, input_only=input_only) for input_only in (False, True)]
    return {"target": both[0].target_macs, "pretrain": both[0].pretrain_macs, "input_only": both[1].pretrain_macs}


if __name__ == "__main__":
    main()
