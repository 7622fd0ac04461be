"""What only a GPU shows, in one command: the paper's networks and ResNet-50, and 2x2 kernels beside 3x3.

    python -m benchmarks.gpu --minutes 8 --out benchmarks/results/gpu.json

Torch and torchvision are all it needs, from the checkout; for ``compiled``, Triton and a C compiler. The parts:

    networks      whole training steps of OverFeat-fast, ResNet-34 and ResNet-50 (target, pre-train, input only) by
                  precision and memory format, and the share of the training time that this would save in the paper's
                  schedule: benchmarks.paper_networks
    even_kernels  2x2 and 3x3 convolutions, with and without copies of feature maps: benchmarks.even_kernels
    compiled      networks again, compiled

Each part ends by its share of the minutes, and what it leaves goes to the next. The JSON is written after each setting;
a part that fails is named in it, and the others are measured.
"""

import argparse
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from benchmarks import even_kernels, paper_networks
from benchmarks.reporting import Budget, provenance, timing_parser, write
from rescaler.errors import first_line

NETWORKS = ("--networks", "OverFeat-fast", "ResNet-34", "ResNet-50")


class Part(NamedTuple):
    """Another benchmark."""

    parse: Callable[[Sequence[str]], argparse.Namespace]
    run: Callable[[argparse.Namespace, Callable[[dict[str, Any]], None]], None]
    options: tuple[str, ...]
    """Its own, beside those that all have."""
    ends: float
    """Share of the minutes after which it has ended."""


PARTS = {
    "networks": Part(paper_networks.parse, paper_networks.run, (*NETWORKS, "--modes", "eager"), 0.55),
    "even_kernels": Part(even_kernels.parse, even_kernels.run, (), 0.7),
    "compiled": Part(paper_networks.parse, paper_networks.run, (*NETWORKS, "--modes", "compiled"), 1.0),
}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    made = timing_parser(__doc__, minutes=8)
    made.set_defaults(device="cuda")
    made.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    parsed = made.parse_args(arguments)
    if parsed.device == "cuda" and not torch.cuda.is_available():
        sys.exit("error: torch finds no CUDA device; --device cpu tries the command out")
    return parsed


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parsed = parse(arguments)
    budget = Budget(parsed.minutes)
    shared = ["--device", parsed.device, "--rounds", str(parsed.rounds)]
    shared += ["--batch", str(parsed.batch)] if parsed.batch else []
    shared += ["--precisions", *parsed.precisions] if parsed.precisions else []
    report: dict[str, Any] = provenance("gpu", torch.device(parsed.device)) | {"parts": {}, "failed": {}}
    print(f"{report['device']}, torch {report['torch']}, CUDA {report['cuda']}, cuDNN {report['cudnn']}")
    for name in parsed.parts:
        part = PARTS[name]
        minutes = max(0.0, part.ends * parsed.minutes - budget.passed())
        print(f"\n{name}: {minutes:.1f} of {parsed.minutes:g} minutes", flush=True)

        def save(numbers: dict[str, Any], name: str = name) -> None:
            report["parts"][name] = numbers
            write(parsed.out, report | {"minutes": budget.passed()})

        try:
            part.run(part.parse([*shared, *part.options, f"--minutes={minutes}"]), save)
        except Exception as error:  # whatever a library raises there: what the other parts show is wanted all the same
            traceback.print_exc()
            report["failed"][name] = f"{type(error).__name__}: {first_line(error)}"
            write(parsed.out, report | {"minutes": budget.passed()})
    rows = [row for name in ("networks", "compiled") for row in report["parts"].get(name, {}).get("results", [])]
    if rows:
        print(f"\nEager or compiled. {paper_networks.summary(rows)}")
    print(f"\n{budget.passed():.1f} minutes")
    if report["failed"]:
        sys.exit(f"error: {report['failed']}")


if __name__ == "__main__":
    main()
