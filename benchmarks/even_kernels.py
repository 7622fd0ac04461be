"""How much faster pairs of 2x2 convolutions train than pairs of 3x3, with and without copies of feature maps.

    python -m benchmarks.even_kernels                   on a GPU where there is one: torch alone is all it needs
    python -m benchmarks.even_kernels --precisions fp32 --out benchmarks/results/even_kernels.json

Forward and backward passes of two convolutions with BatchNorm and ReLU, at the maps of ResNet-34's blocks: the target's
(56, 28, 14 and 7 pixels) and the pre-train network's (40, 20, 10 and 5). ``copied`` pads each even kernel by a pixel on
one side alone, which copies the map (``F.pad``); without it the first convolution pads none and the second one on each
side, as the harness does. All take turns; each number is the median of the rounds with their range. On a GPU passes are
replayed as CUDA graphs, so that what is timed is the device and not the launch of kernels, which large networks hide.
"""

import argparse
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

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
from rescaler.config import StepSettings
from rescaler.measure import Spread, turns
from rescaler.method.layers import Layer, Margins, pretrain_network
from rescaler.precision import MEMORY_FORMATS, autocast, computing
from rescaler.text import TextTable

BLOCKS = {64: (56, 40), 128: (28, 20), 256: (14, 10), 512: (7, 5)}
"""Channels of ResNet-34's blocks, and the sides of their maps in the target and in the pre-train network."""
NONE, ONE = (0, 0, 0, 0), (1, 1, 1, 1)
PAIRS: dict[str, tuple[int, tuple[Margins, Margins]]] = {
    "3x3": (3, (ONE, ONE)),
    "2x2": (2, (NONE, ONE)),
    "2x2 copied": (2, ((0, 1, 0, 1), (1, 0, 1, 0))),
}
"""Side of the kernels, and the padding of each on the left, right, top and bottom."""
ROUND_S = {"cpu": 0.1, "cuda": 0.03}
"""Seconds of one pair before the next one's turn: this many, but one pass at least."""
WARM_UP = 3


def block(pair: str, channels: int) -> nn.Module:
    """A pair of convolutions, each with BatchNorm and ReLU, whose output has the size of its input."""
    side, paddings = PAIRS[pair]
    target = nn.Sequential()
    for _ in paddings:
        target += nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        )
    layers = [
        Layer(str(3 * number), "convolution", (3, 3), (side, side), padding, (0, 0), (0, 0))
        for number, padding in enumerate(paddings)
    ]
    return pretrain_network(target, layers)


def multiplications(pair: str, px: int) -> int:
    """Of one channel's kernels with one channel of a map."""
    side, paddings = PAIRS[pair]
    total = 0
    for left, right, _, _ in paddings:
        px += left + right - side + 1
        total += side**2 * px**2
    return total


def passes(
    pair: str, channels: int, px: int, step: StepSettings, device: torch.device, batch: int, *, graphs: bool
) -> Callable[[int], float]:
    """Prepare a block.

    Returns:
        Runs this number of forward and backward passes, and returns their seconds.
    """
    memory_format = MEMORY_FORMATS[step.memory_format]
    network = block(pair, channels).train().to(device).to(memory_format=memory_format)
    dtype = torch.bfloat16 if step.precision == "bf16" else torch.float32  # as the layer before would give it
    maps = torch.randn(batch, channels, px, px, device=device, dtype=dtype).contiguous(memory_format=memory_format)
    gradient = torch.randn_like(maps)
    inputs = [maps.requires_grad_(), *network.parameters()]

    def once() -> None:
        with autocast(step.precision, device.type):
            output = network(maps)
        torch.autograd.grad(output, inputs, gradient)

    run = _replayed(once) if graphs else once

    def seconds(count: int) -> float:
        _wait(device)
        start = time.perf_counter()
        for _ in range(count):
            run()
        _wait(device)
        return time.perf_counter() - start

    seconds(WARM_UP)
    return seconds


def _replayed(once: Callable[[], None]) -> Callable[[], None]:
    """Capture what it does on the GPU, after a warm-up on another stream, as torch asks for."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            once()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        once()
    return graph.replay


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(channels: int, step: StepSettings, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of a forward and backward pass of each pair at each map, by round."""
    device, batch = torch.device(arguments.device), batch_size(arguments)
    with computing(step):
        each = {
            f"{pair}, {px} px": passes(pair, channels, px, step, device, batch, graphs=arguments.graphs)
            for px in BLOCKS[channels]
            for pair in PAIRS
        }
        counts = {name: max(1, round(ROUND_S[device.type] * WARM_UP / run(WARM_UP))) for name, run in each.items()}
        pass_s: dict[str, list[float]] = {name: [] for name in each}
        for order in turns(each, arguments.rounds):
            for name in order:
                pass_s[name].append(each[name](counts[name]) / counts[name])
    return pass_s


def result(
    channels: int, step: StepSettings, pass_s: Mapping[str, Sequence[float]], arguments: argparse.Namespace
) -> dict[str, Any]:
    """One block's numbers, for JSON; all are compared with 3x3 kernels at the target's map."""
    first = next(iter(pass_s))
    large_px, small_px = BLOCKS[channels]
    fewer = {
        f"{pair}, {px} px": multiplications("3x3", large_px) / multiplications(pair, px)
        for px in (large_px, small_px)
        for pair in PAIRS
    }
    return {
        "channels": channels,
        "target_map_px": large_px,
        "pretrain_map_px": small_px,
        "precision": step.precision,
        "memory_format": step.memory_format,
        "cudnn_benchmark": step.cudnn_benchmark,
        "cuda_graphs": arguments.graphs,
        "batch_size": batch_size(arguments),
        "n": arguments.rounds,
        "pass_s": {name: Spread.of(seconds)._asdict() for name, seconds in pass_s.items()},
        "times_faster": {name: Spread.of_ratios(pass_s[first], seconds)._asdict() for name, seconds in pass_s.items()},
        "times_fewer_multiplications": fewer,
    }


def table(rows: Sequence[Mapping[str, Any]]) -> TextTable:
    """Times faster than 3x3 kernels at the target's map."""
    cells = []
    for row in {row["channels"]: row for row in rows}.values():
        fewer = [f"{value:.2f}" for value in row["times_fewer_multiplications"].values()]
        cells.append(["multiplications", _maps(row), "", *fewer[1:]])
    for row in rows:
        first, *others = row["times_faster"]
        how = f"{row['precision']} {row['memory_format']}{' cudnn_benchmark' if row['cudnn_benchmark'] else ''}"
        faster = [Spread(**row["times_faster"][name]).shown() for name in others]
        cells.append([how, _maps(row), Spread(**row["pass_s"][first]).in_ms(), *faster])
    names = [*PAIRS, *(f"{pair}, small map" for pair in PAIRS)]
    heading = "Forward and backward pass of two convolutions: times faster than 3x3 kernels at the target's map"
    return TextTable(heading, ("Step", "Channels, map", *names), cells, (), ("Channels, map",))


def _maps(row: Mapping[str, Any]) -> str:
    return f"{row['channels']}, {row['target_map_px']} -> {row['pretrain_map_px']} px"


def results(arguments: argparse.Namespace, left_out: list[str]) -> Iterator[dict[str, Any]]:
    """All blocks' results, as they come; those that the time does not allow are named in ``left_out``."""
    budget = Budget(arguments.minutes)
    todo = list(itertools.product(eager_steps(arguments.device, arguments.precisions), arguments.channels))
    for number, (step, channels) in enumerate(todo, 1):
        what = f"{channels} channels {shown(step)}"
        if not budget.allows():
            left_out.append(f"{what}: no time left")
            continue
        say(f"[{number}/{len(todo)}, {budget.passed():.1f} min] {what}")
        with budget.spent():
            pass_s = measure(channels, step, arguments)
        say("")
        yield result(channels, step, pass_s, arguments)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    made = timing_parser(__doc__, minutes=5)
    made.add_argument("--channels", nargs="+", type=int, choices=BLOCKS, default=list(BLOCKS), help="default: all")
    made.add_argument("--graphs", action=argparse.BooleanOptionalAction, help="CUDA graphs; default: on a GPU")
    parsed = made.parse_args(arguments)
    if parsed.graphs is None:
        parsed.graphs = parsed.device == "cuda"
    return parsed


def run(arguments: argparse.Namespace, save: Callable[[dict[str, Any]], None]) -> None:
    """Measure and print; save all numbers after each block."""
    report: dict[str, Any] = {"results": [], "left_out": []}
    for row in results(arguments, report["left_out"]):
        report["results"].append(row)
        save(report)
    save(report)
    print(table(report["results"]))
    for reason in report["left_out"]:
        print(f"left out: {reason}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parsed = parse(arguments)
    about = provenance("even_kernels", torch.device(parsed.device))
    print(f"{about['device']}, torch {about['torch']}, batch {batch_size(parsed)}, n = {parsed.rounds}\n")
    run(parsed, lambda report: write(parsed.out, about | report))


if __name__ == "__main__":
    main()
