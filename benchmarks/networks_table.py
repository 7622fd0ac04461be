"""Shrink every classification network of torchvision, and write what came of it to docs/networks.md.

    python -m benchmarks.networks_table

Needs torch and torchvision alone, and Linux for the figures of memory. The networks of the first table have shapes but
no values (torch's meta device); those of the last have both.
"""

import argparse
import concurrent.futures
import contextlib
import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from torch import nn

from rescaler import rescale, shrink
from rescaler.errors import InputError
from rescaler.method.description import compare, quantity
from rescaler.record import device_name
from rescaler.text import TextTable

TABLE = Path(__file__).parent.parent / "docs" / "networks.md"
IMAGE_PX = {"inception_v3": 299, "efficientnet_v2_s": 384, "efficientnet_v2_m": 480, "efficientnet_v2_l": 480}
"""Sides of the images that torchvision trained for, where they are not 224."""
REPEATS = 3
LARGEST = ("vgg19", "convnext_large", "efficientnet_v2_l", "regnet_y_128gf")


@dataclass(frozen=True)
class Row:
    """What shrinking made of one network; only the sentence where it was refused."""

    name: str
    target_px: int
    pretrain_px: int = 0
    target_macs: int = 0
    pretrain_macs: int = 0
    shrink_s: float = 0.0
    refusal: str = ""


def shrunk(name: str) -> Row:
    """Shrink a network of torchvision's, without values."""
    target_px = IMAGE_PX.get(name, 224)
    with without_values():
        network = _make(name)
    start = time.perf_counter()
    try:
        made = shrink(network, target_px)
    except InputError as error:
        return Row(name, target_px, refusal=str(error))
    seconds = time.perf_counter() - start
    compared = compare(network, made, target_px, channels=3)
    return Row(name, target_px, made.image_px, compared.target_macs, compared.pretrain_macs, seconds)


def _make(name: str) -> nn.Module:
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    network: nn.Module = torchvision.models.get_model(name, **options)
    return network


@contextlib.contextmanager
def without_values() -> Iterator[None]:
    """Networks made within have their parameters on the meta device; what they compute to be made is computed."""
    register = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None:
            parameter = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = on_meta  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


@dataclass(frozen=True)
class Cost:
    """What shrinking and rescaling a network with values took."""

    name: str
    target_mib: float
    pretrain_mib: float
    peak_mib: float
    """Most memory in use, less what was in use before the target was made."""
    shrink_s: float
    """Seconds of the fastest repeat, like the other two."""
    rescale_s: float
    copy_s: float
    """Seconds of a plain copy of the target's values, to compare with: ``shrink`` has to copy nearly as many."""


def cost(name: str) -> Cost:
    """Shrink and rescale a network with values, in a process of its own, whose memory nothing earlier has touched."""
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(_cost, name).result()


def _cost(name: str) -> Cost:
    image_px = IMAGE_PX.get(name, 224)
    rescale(shrink(torchvision.models.alexnet(), 224).network, torchvision.models.alexnet())  # torch's own first calls
    before_mib = _memory_mib("VmRSS")
    with without_values():
        target = _make(name)
    target = target.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in target.state_dict().values():
            tensor.fill_(1)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    peak_mib, shrink_s, rescale_s, copy_s = 0.0, [], [], []
    for _ in range(REPEATS):
        start = time.perf_counter()
        pretrain = shrink(target, image_px).network
        middle = time.perf_counter()
        rescale(pretrain, target)
        end = time.perf_counter()
        shrink_s.append(middle - start)
        rescale_s.append(end - middle)
        peak_mib = peak_mib or _memory_mib("VmHWM") - before_mib
        pretrain_mib = _size_mib(pretrain)
        del pretrain
        start = time.perf_counter()
        copies = [tensor.clone() for tensor in target.state_dict().values()]
        copy_s.append(time.perf_counter() - start)
        del copies
    return Cost(name, _size_mib(target), pretrain_mib, peak_mib, min(shrink_s), min(rescale_s), min(copy_s))


def _memory_mib(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) / 1024


def _size_mib(network: nn.Module) -> float:
    return float(sum(tensor.nbytes for tensor in network.state_dict().values()) / 2**20)


def _tables(rows: list[Row], costs: list[Cost]) -> str:
    done = [row for row in rows if not row.refusal]
    zoo = TextTable(
        "Multiplications of one image, forward",
        ("Network", "Target, px", "Pre-train, px", "Target", "Pre-train", "Ratio", "Shrink, s"),
        [
            (
                row.name,
                str(row.target_px),
                str(row.pretrain_px),
                quantity(row.target_macs),
                quantity(row.pretrain_macs),
                f"{row.target_macs / row.pretrain_macs:.2f}",
                f"{row.shrink_s:.2f}",
            )
            for row in done
        ],
    )
    refusals = [(row.name, row.refusal) for row in rows if row.refusal]
    refused = TextTable("Refused", ("Network", "Why"), refusals, words=("Why",))
    largest = TextTable(
        "Time and memory of the largest",
        ("Network", "Target, MiB", "Pre-train, MiB", "Peak of both, MiB", "Shrink, s", "Rescale, s", "Plain copy, s"),
        [
            (
                row.name,
                *(f"{mib:,.0f}" for mib in (row.target_mib, row.pretrain_mib, row.peak_mib)),
                *(f"{seconds:.2f}" for seconds in (row.shrink_s, row.rescale_s, row.copy_s)),
            )
            for row in costs
        ],
    )
    return "\n".join(table.markdown() for table in (zoo, refused, largest))


def _page(tables: str) -> str:
    device = device_name(torch.device("cpu"))
    return f"""# Torchvision's classification networks, shrunk

`python -m benchmarks.networks_table` wrote this page ({device}, torch {torch.__version__}, torchvision
{torchvision.__version__}).

Every network is as torchvision makes it, shrunk without any option. Images have the size that torchvision trained for;
the size before the rescale follows from the first kernel that shrinks. Auxiliary classifiers count. *Shrink* is the
time of one `rescaler.shrink` of the network's structure, without values to copy.

{tables}
The peak is what the process needed beyond what it had before it made the target: both networks, and what `shrink` and
`rescale` need for themselves. Times are the fastest of {REPEATS}. `shrink` has to copy what it does not shrink: the
last column is what copying all of the target's values takes by itself.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=TABLE, help="file to write (default: %(default)s)")
    out = parser.parse_args().out
    rows = []
    names = torchvision.models.list_models(module=torchvision.models)
    for number, name in enumerate(names, 1):
        print(f"{number}/{len(names)} {name}", flush=True)
        rows.append(shrunk(name))
    costs = []
    for name in LARGEST:
        print(f"{name}, with values", flush=True)
        costs.append(cost(name))
    out.write_text(_page(_tables(rows, costs)))
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
