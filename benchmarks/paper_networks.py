"""How much faster the paper's pre-train networks train than its target networks, on today's hardware.

    python -m benchmarks.paper_networks                 from the checkout: torch and torchvision are all it needs
    python -m benchmarks.paper_networks --compile       on a CPU, with torch.compile too (needs a C++ compiler)
    python -m benchmarks.paper_networks --out benchmarks/results/paper_networks_gpu.json

Images/s of a training step of OverFeat-fast and ResNet-34: the target, the pre-train network, and the target's own
kernels on the pre-train network's small images (``input only``), in every precision, memory format, eager and compiled.
The three take turns on random images that never leave the device; the first steps do not count. Results are written
after each setting, so a run that is stopped leaves what it has.
"""

import argparse
import functools
import itertools
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rescaler.description import describe
from rescaler.errors import InputError
from rescaler.files import write_text
from rescaler.models import overfeat_fast, resnet34
from rescaler.probe import Candidate, Setting, Spread, Step, measure, ratios
from rescaler.provenance import commit, device_name, torch_version
from rescaler.shrinking import shrink

NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, float]] = {
    "OverFeat-fast": (overfeat_fast, 231, 2.52),
    "ResNet-34": (resnet34, 224, 2.56),
}
"""How to make each, the side of its images, and how many times faster the paper's pre-train network was (2016)."""
CLASSES, CHANNELS = 1000, 3
PRECISIONS: dict[str, tuple[str, ...]] = {"cpu": ("fp32", "bf16"), "cuda": ("fp32", "tf32", "bf16")}
BATCH_SIZE = {"cpu": 8, "cuda": 128}
"""The paper's 128 where there is a GPU."""


def candidates(target: nn.Module, image_px: int) -> dict[str, Candidate]:
    """The three networks that are compared."""
    pretrain, input_only = shrink(target, image_px), shrink(target, image_px, input_only=True)
    networks = {
        "target": (target, image_px),
        "pretrain": (pretrain.network, pretrain.image_px),
        "input_only": (input_only.network, input_only.image_px),
    }
    return {name: Candidate(network, px, CHANNELS, CLASSES) for name, (network, px) in networks.items()}


def settings(device_type: str, precisions: Sequence[str] | None, compiled: bool) -> list[Setting]:
    """What is measured, eager first: compiling takes minutes and may meet the end of the time."""
    choices = itertools.product(
        (False, True) if compiled else (False,),
        [name for name in PRECISIONS[device_type] if precisions is None or name in precisions],
        ("channels_last", "contiguous"),
    )
    return [Setting(precision, memory_format, compiled) for compiled, precision, memory_format in choices]


def result(name: str, setting: Setting, steps: dict[str, list[Step]], batch_size: int) -> dict[str, Any]:
    """One setting's numbers, for JSON."""
    target = steps["target"]
    return {
        "network": name,
        "precision": setting.precision,
        "memory_format": setting.memory_format,
        "compiled": setting.compiled,
        "batch_size": batch_size,
        "n": len(target),
        "images_per_s": {
            key: Spread.of([batch_size / step.step_s for step in rounds])._asdict() for key, rounds in steps.items()
        },
        "times_faster": {
            key: {part: ratios(target, steps[key], f"{part}_s")._asdict() for part in ("step", "forward", "backward")}
            for key in ("pretrain", "input_only")
        },
    }


def line(row: dict[str, Any]) -> str:
    """One setting's numbers, for a person."""
    speed = "  ".join(f"{key} {value['median']:8,.1f}" for key, value in row["images_per_s"].items())
    faster = "  ".join(
        f"{key} {value['step']['median']:.2f} ({value['step']['low']:.2f} to {value['step']['high']:.2f})"
        for key, value in row["times_faster"].items()
    )
    how = f"{row['precision']} {row['memory_format']:13} {'compiled' if row['compiled'] else 'eager':8}"
    return f"{row['network']:13} {how}  images/s: {speed}  times faster: {faster}"


def cannot_compile(device: torch.device) -> str | None:
    """Why torch.compile does not work here, if so (no C++ compiler on a CPU, no Triton on a GPU)."""
    try:
        torch.compile(torch.nn.ReLU())(torch.ones(8, device=device))
    except Exception as error:  # whatever the compiler raises
        return " ".join(str(error).split())[:200]
    return None


def provenance(device: torch.device) -> dict[str, object]:
    """What the numbers were measured on, and how to measure them again."""
    return {
        "command": shlex.join(["python", "-m", "benchmarks.paper_networks", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": commit(),
        "device": device_name(device),
        "load_before": os.getloadavg()[0],  # processes that wanted a core: near 0 if the machine was ours
        "torch": torch_version(),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "cudnn": torch.backends.cudnn.version() if device.type == "cuda" else None,  # type: ignore[no-untyped-call]
        "python": sys.version.split()[0],
    }


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS["cuda"], help="default: all of the device")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, metavar="N", help="images a step; default: 128, on a CPU 8")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each network; default: %(default)s")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="default: on a GPU alone")
    parser.add_argument("--minutes", type=float, default=18, help="no setting begins after these; default: %(default)s")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write all numbers as JSON")
    return parser.parse_args(arguments)


def say(*words: str) -> None:
    """Show in a terminal what is being done, on a line that the next words take."""
    if sys.stderr.isatty():
        print("\r\033[K" + ": ".join(words), end="", file=sys.stderr, flush=True)


def measured(arguments: argparse.Namespace, compiled: bool, left_out: list[str]) -> Iterator[dict[str, Any]]:
    """All settings' results, as they come; those that time does not allow are named in ``left_out``."""
    device = torch.device(arguments.device)
    start = time.monotonic()
    networks = {name: candidates(make(), px) for name, (make, px, _) in NETWORKS.items() if name in arguments.networks}
    todo = list(itertools.product(settings(device.type, arguments.precisions, compiled), networks))
    for number, (setting, name) in enumerate(todo, 1):
        minutes = (time.monotonic() - start) / 60
        if minutes > arguments.minutes:
            left_out.append(f"{name} {setting}: no time left")
            continue

        where = f"[{number}/{len(todo)}, {minutes:.1f} min] {name} {setting}"
        steps = measure(
            networks[name],
            setting,
            device=device,
            batch_size=arguments.batch,
            rounds=arguments.rounds,
            progress=functools.partial(say, where),
        )
        say("")
        yield result(name, setting, steps, arguments.batch)


def conclusion(name: str, rows: Sequence[dict[str, Any]], multiplications: dict[str, float]) -> str:
    """What a person would get who trains the target as fast as it goes here."""
    best = max(rows, key=lambda row: float(row["images_per_s"]["target"]["median"]))
    how = Setting(best["precision"], best["memory_format"], best["compiled"])
    faster = {key: best["times_faster"][key]["step"]["median"] for key in multiplications}
    words = [
        f"{key} {faster[key]:.2f} ({fewer:.2f} times fewer multiplications)" for key, fewer in multiplications.items()
    ]
    return (
        f"{name}, where the target is fastest ({how}), times faster: {', '.join(words)}; the paper: {NETWORKS[name][2]}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parsed = parse(arguments)
    device = torch.device(parsed.device)
    parsed.batch = parsed.batch or BATCH_SIZE[device.type]
    compiled = device.type == "cuda" if parsed.compile is None else parsed.compile
    left_out = []
    if compiled and (reason := cannot_compile(device)) is not None:
        compiled = False
        left_out.append(f"compiled: {reason}")
    torch.backends.cudnn.benchmark = True  # shapes are fixed: cuDNN may try which algorithm is fastest
    report: dict[str, Any] = provenance(device) | {"networks": {}, "results": [], "left_out": left_out}
    print(f"{report['device']}, torch {report['torch']}, batch {parsed.batch}")
    for name in parsed.networks:
        make, px, paper = NETWORKS[name]
        with torch.device("meta"):
            target = make()
        fewer = {key: describe(target, px, input_only=key == "input_only").ratio for key in ("pretrain", "input_only")}
        report["networks"][name] = {"times_faster_paper": paper, "times_fewer_multiplications": fewer}
    try:
        for row in measured(parsed, compiled, left_out):
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


def write(path: Path | None, report: dict[str, Any]) -> None:
    """Write what there is so far."""
    if path is not None:
        write_text(path, json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
