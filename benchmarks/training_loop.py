"""Does the harness slow training down? Its epoch against a hand-written loop and Lightning's Trainer.

    python -m benchmarks.training_loop                     the demo's network on the CPU, both stages
    python -m benchmarks.training_loop --device cuda       ResNet-34 in bf16
    python -m benchmarks.training_loop --out benchmarks/results/training_loop.json

All train the same network on the same number of images of the same size with the same optimizer and threads, paired in
one process; rounds change who goes first. The hand-written loop is what a person would write for a tensor of images on
the device; Lightning gets its batches and its step. Lightning is left out where it is not installed
(``pip install rescaler[lightning]``). Peak memory is that of a process of its own for each loop.
"""

import importlib.util
import logging
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

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
from rescaler.measure import Spread, turns
from rescaler.method import height_width

RATE, MOMENTUM, DECAY = 0.01, 0.9, 1e-4
BARS = {"hand-written": 0.97, "lightning": 1.0}
"""Images/s of the harness over those of each, at least."""
MEMORY_BAR = 1.1
"""Peak memory of the harness over the hand-written loop's, at most."""
Loop = Callable[[int], float]
"""Trains this number of batches; returns seconds."""


def experiment(device: str, resize_epoch: object) -> Experiment:
    """What is trained: on a CPU the demo's network, on a GPU ResNet-34 in bf16."""
    small = device == "cpu"
    data = DataSettings("synthetic", image_px=28, mean=[0.286], std=[0.353], train_images=20_000, test_images=1)
    large = DataSettings("synthetic", None, 224, 1000, 3, [0.45] * 3, [0.22] * 3, train_images=2_000, test_images=1)
    return Experiment(
        model={"_target_": f"rescaler.models.{'overfeat_small' if small else 'resnet34'}"},
        shrink=ShrinkSettings(table={1: 1, 3: 2, 5: 3, 7: 5}),
        data=data if small else large,
        schedule=ScheduleSettings(epochs=1, batches_per_epoch=1, learning_rates=[RATE], weight_decay=DECAY),
        optim=OptimSettings(batch_size=64 if small else 128),
        step=StepSettings(precision="default" if small else "bf16"),
        resize_epoch=resize_epoch,
        device=device,
    )


class Batches:
    """Images on the device, in random order, flipped at random, normalised: as one would write it by hand."""

    def __init__(self, trainer: Trainer) -> None:
        data, self._device = trainer.run.experiment.data, trainer.run.device
        self._batch_size, self._image_px = trainer.run.experiment.optim.batch_size, trainer.first.stage.image_px
        shape = (data.train_images, data.channels, *height_width(self._image_px))
        self._images = torch.randint(0, 256, shape, dtype=torch.uint8).to(self._device)
        self._labels = torch.randint(0, data.classes, (len(self._images),)).to(self._device)
        self._mean, self._std = (
            torch.tensor(values, device=self._device).view(1, -1, 1, 1) for values in (data.mean, data.std)
        )

    def __call__(self, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """So many batches."""
        order = torch.cat(
            [torch.randperm(len(self._images)) for _ in range(-(-count * self._batch_size // len(self._images)))]
        )
        for index in torch.split(order[: count * self._batch_size].to(self._device), self._batch_size):
            flip = torch.rand(len(index), device=self._device) < 0.5
            images = self._images[index]
            images = torch.where(flip[:, None, None, None], images.flip(3), images)
            images = (images.float() / 255 - self._mean) / self._std
            yield images.contiguous(memory_format=torch.channels_last), self._labels[index]


def ours(trainer: Trainer) -> Loop:
    """The harness."""

    def loop(count: int) -> float:
        start = time.perf_counter()
        trainer.train(count)
        return time.perf_counter() - start

    return loop


def hand_written(trainer: Trainer) -> Loop:
    """A loop as in torch's tutorials."""
    network, batches = trainer.run.network(trainer.first.stage), Batches(trainer)
    device, bf16 = trainer.run.device, trainer.first.recipe.step.precision == "bf16"
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=DECAY, fused=True)
    network.train()

    def loop(count: int) -> float:
        start = time.perf_counter()
        for images, labels in batches(count):
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
                loss = cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        loss.item()  # waits for the device
        return time.perf_counter() - start

    return loop


def lightning(trainer: Trainer) -> Loop:
    """Lightning's Trainer with nothing but training switched on; its set-up does not count."""
    import lightning as pl

    network, batches = trainer.run.network(trainer.first.stage), Batches(trainer)
    device, bf16 = trainer.run.device, trainer.first.recipe.step.precision == "bf16"

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network: nn.Module = network
            self.seconds = 0.0

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            return cross_entropy(self.network(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(network.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=DECAY, fused=True)

        def on_train_epoch_start(self) -> None:
            self.seconds = -time.perf_counter()

        def on_train_epoch_end(self) -> None:
            if device.type == "cuda":
                torch.cuda.synchronize()
            self.seconds += time.perf_counter()

    class Images(torch.utils.data.IterableDataset[tuple[Tensor, Tensor]]):
        def __init__(self, count: int) -> None:
            self._count = count

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            return batches(self._count)

    module = Module()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    def loop(count: int) -> float:
        quiet: dict[str, Any] = dict.fromkeys(
            ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
        )
        precision: Literal["bf16-mixed", "32-true"] = "bf16-mixed" if bf16 else "32-true"
        accelerator = "gpu" if device.type == "cuda" else "cpu"
        fit = pl.Trainer(accelerator=accelerator, devices=1, max_epochs=1, precision=precision, **quiet)
        # Else every loop that comes after this one would have to allocate its memory anew.
        with mock.patch("lightning.pytorch.accelerators.cuda._clear_cuda_memory"):
            fit.fit(module, torch.utils.data.DataLoader(Images(count), batch_size=None))
        return module.seconds

    return loop


LOOPS: dict[str, Callable[[Trainer], Loop]] = {"ours": ours, "hand-written": hand_written, "lightning": lightning}


def paired(trainer: Trainer, names: Sequence[str], rounds: int, round_s: float) -> dict[str, list[float]]:
    """Seconds of each loop in each round, all of as many batches as the first does in ``round_s`` or so."""
    loops = {name: LOOPS[name](trainer) for name in names}
    for loop in loops.values():
        loop(5)  # warms up
    count = max(5, round(5 * round_s / loops["ours"](5)))
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for order in turns(names, rounds):
        for name in order:
            seconds[name].append(loops[name](count))
    return seconds


def peak_mib(device: str, resize_epoch: object, name: str) -> float:
    """Peak memory of a process that does nothing but train by one loop; on a GPU that of its tensors."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_mib, (device, resize_epoch, name))


def _peak_mib(device: str, resize_epoch: object, name: str) -> float:
    LOOPS[name](Trainer(experiment(device, resize_epoch)))(20)
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    # Not getrusage's: a process inherits that from the one that started it.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) / 2**10 for line in status.splitlines() if line.startswith("VmHWM:"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the ratios beside their bars, and write them with what they were measured on."""
    command_line = parser(__doc__)
    command_line.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    command_line.add_argument("--rounds", type=int, default=31)
    command_line.add_argument("--round-s", type=float, default=0.4, help="seconds of each loop in a round, about")
    parsed = command_line.parse_args(arguments)
    names = [name for name in LOOPS if name != "lightning" or importlib.util.find_spec("lightning") is not None]
    results = provenance("training_loop", torch.device(parsed.device)) | {"n": parsed.rounds}
    print(f"{results['device']}, torch {results['torch']}, n = {parsed.rounds}; harness / other, median (range)")
    for resize_epoch in ("never", 0):
        trainer = Trainer(experiment(parsed.device, resize_epoch))
        stage = trainer.first.stage
        seconds = paired(trainer, names, parsed.rounds, parsed.round_s)
        memory = {name: peak_mib(parsed.device, resize_epoch, name) for name in ("ours", "hand-written")}
        ratio = memory["ours"] / memory["hand-written"]
        row: dict[str, Any] = {"image_px": stage.image_px, "peak_mib": memory, "peak_ratio": ratio, "images_per_s": {}}
        for name in names[1:]:
            ratios = [other / own for own, other in zip(seconds["ours"], seconds[name], strict=True)]
            spread = Spread.of(ratios)
            row["images_per_s"][name] = spread._asdict() | {"ratios": ratios, "bar": BARS[name]}
            print(
                f"{stage.name:>8} {stage.image_px} px, images/s: {spread.median:.3f} ({spread.low:.3f} to "
                f"{spread.high:.3f}) of {name}'s; at least {BARS[name]} wanted"
            )
        print(f"{'':8} peak memory: {ratio:.3f} of hand-written's; at most {MEMORY_BAR} wanted")
        results[stage.name] = row
    write(parsed.out, results)


if __name__ == "__main__":
    main()
