"""Does the harness slow training down? Its epoch against a hand-written loop, paired in one process.

    python benchmarks/training_loop.py            the demo's network, both stages
    python benchmarks/training_loop.py --rounds 3 --out benchmarks/results/training_loop.json

Both loops train the same network on the same images in the same order with the same optimizer and threads; the
hand-written one is what a person would write for a tensor of images in memory. Rounds alternate which goes first.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rescaler.chain import Epoch
from rescaler.clocks import Clocks
from rescaler.epoch import train_epoch
from rescaler.plan import Run, plan
from rescaler.provenance import device_name
from rescaler.record import Record
from rescaler.settings import DataSettings, Experiment, OptimSettings, ScheduleSettings, ShrinkSettings
from rescaler.state import State

BATCHES, BATCH_SIZE = 120, 64


class Nobody:
    """Watches without looking."""

    def batch(self, epoch: Epoch, done: int) -> None:
        """Ignore."""

    def epoch(self, record: Record, *, reused: bool) -> None:
        """Ignore."""


def hand_written(network: nn.Module, images: Tensor, labels: Tensor, batches: int) -> None:
    """One epoch over uint8 images in memory, flipped at random."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.03, momentum=0.9, weight_decay=1e-4, fused=True)
    network.train()
    for index in torch.split(torch.randperm(len(images))[: batches * BATCH_SIZE], BATCH_SIZE):
        batch = images[index]
        flip = torch.rand(len(index)) < 0.5
        batch = torch.where(flip[:, None, None, None], batch.flip(3), batch)
        batch = ((batch.float() / 255 - 0.286) / 0.353).contiguous(memory_format=torch.channels_last)
        loss = cross_entropy(network(batch), labels[index])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def paired(run: Run, epoch: Epoch, rounds: int) -> Iterator[float]:
    """Ratios of images per second, harness to hand-written, one a round."""
    px = epoch.recipe.image_px
    images = torch.randint(0, 256, (run.data.train_count, 1, px, px), dtype=torch.uint8)
    labels = torch.randint(0, 10, (len(images),))
    networks = [run.network(epoch.stage) for _ in range(2)]

    def ours() -> None:
        train_epoch(State(networks[0]), epoch, run, Clocks(run.device), Nobody())

    def theirs() -> None:
        hand_written(networks[1], images, labels, epoch.recipe.batches)

    for number in range(rounds + 1):
        seconds = {}
        for loop in (ours, theirs) if number % 2 else (theirs, ours):
            start = time.perf_counter()
            loop()
            seconds[loop] = time.perf_counter() - start
        if number > 0:  # the first round warms up
            yield seconds[theirs] / seconds[ours]


def experiment(resize_epoch: object) -> Experiment:
    """The demo's network on synthetic images of Fashion-MNIST's size."""
    return Experiment(
        model={"_target_": "rescaler.models.overfeat_small"},
        shrink=ShrinkSettings(table={1: 1, 3: 2, 5: 3}),
        data=DataSettings(name="synthetic", mean=[0.286], std=[0.353], train_images=20_000, test_images=100),
        schedule=ScheduleSettings(epochs=2, batches_per_epoch=BATCHES, learning_rates=[0.03]),
        optim=OptimSettings(batch_size=BATCH_SIZE),
        resize_epoch=resize_epoch,
        device="cpu",
    )


def main() -> None:
    """Print the ratios, and write them with what they were measured on."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    results: dict[str, object] = {
        "device": device_name(torch.device("cpu")),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "n": arguments.rounds,
    }
    print(f"{results['device']}, torch {torch.__version__}, n = {arguments.rounds}")
    for resize_epoch in ("never", 0):
        run = plan(experiment(resize_epoch))
        epoch = run.chain.next([])
        assert epoch is not None
        ratios = list(paired(run, epoch, arguments.rounds))
        low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
        results[epoch.stage.name] = {"median": middle, "min": low, "max": high, "ratios": ratios}
        print(
            f"{epoch.stage.name:>8} {epoch.stage.image_px} px: images/s of the harness / of a hand-written loop = "
            f"{middle:.3f} ({low:.3f} .. {high:.3f})"
        )
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
