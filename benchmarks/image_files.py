"""How fast do image files reach the network? Prepared ones and a tree, against ImageFolder with Pillow and torchvision.

    python -m benchmarks.image_files
    python -m benchmarks.image_files --rounds 3 --folder /tmp/photos --out benchmarks/results/image_files.json

Makes a tree of photo-like JPEG files of ImageNet's usual size, 500x375 pixels and about 115 kB each, once. The three
ways to read it take turns in one process, one thread and no worker, so images/s are those of one core; all end with a
normalised float32 batch. Then, with two workers: seconds to the first batch of the next stage, and of an epoch that is
taken up again near its end.
"""

import importlib.metadata
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from benchmarks.photos import CLASSES, TEST, TRAIN, make_tree
from benchmarks.reporting import CPU, parser, provenance, write
from rescaler.config import DataSettings
from rescaler.data.decoding import shorter_px
from rescaler.data.folder import read_tree
from rescaler.data.order import EpochImages
from rescaler.data.preparation import Preparation
from rescaler.data.streaming import FolderImages
from rescaler.measure import Spread, turns

STAGES_PX = (112, 160, 224)
PREPARED_PX = (*STAGES_PX, 147, 231)
"""The stages' and those of the paper's networks, for ``benchmarks.paper_networks --folder FOLDER/prepared``."""
BATCH_SIZE = 64
BATCHES = 8
"""Batches in one turn of one reader."""
EPOCH_BATCHES = 1000
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

Read = Callable[[int], Iterator[tuple[Tensor, Tensor]]]
"""Batches at an image size, without end or nearly so."""


def settings(workers: int) -> DataSettings:
    """Settings that suit the tree and its prepared set."""
    return DataSettings(
        name="imagenet", image_px=max(PREPARED_PX), classes=CLASSES, channels=3, mean=MEAN, std=STD, workers=workers
    )


def ours(folder: Path) -> Read:
    """The harness's own reader."""
    data = FolderImages(folder, settings(workers=0), CPU)
    return lambda px: epoch(data, px)


def epoch(data: FolderImages, image_px: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """An epoch of many batches, of which the first few are read."""
    return data.train_batches(
        EpochImages(
            image_px=image_px, seed=0, epoch=1, batches=EPOCH_BATCHES, batch_size=BATCH_SIZE, start=start, flip=True
        )
    )


def image_folder(folder: Path) -> Read:
    """What a person would write with torchvision, images as uint8 until they are a batch."""
    normalise = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])

    def read(image_px: int) -> Iterator[tuple[Tensor, Tensor]]:
        steps = [v2.RandomResizedCrop(image_px, antialias=True), v2.RandomHorizontalFlip(), v2.PILToTensor()]
        images = ImageFolder(folder / "train", v2.Compose(steps))
        for pixels, labels in DataLoader(images, batch_size=BATCH_SIZE, shuffle=True):
            yield normalise(pixels), labels

    return read


def images_per_s(read: Read, image_px: int) -> float:
    """Images per second over some batches, after a first one."""
    batches = read(image_px)
    next(batches)
    start = time.perf_counter()
    count = sum(len(labels) for _, labels in islice(batches, BATCHES))
    return count / (time.perf_counter() - start)


def rates(readers: dict[str, Read], rounds: int) -> dict[str, Any]:
    """Images per second by size and reader, and what they are to ImageFolder's of the same round."""
    found: dict[str, Any] = {}
    for px in STAGES_PX:
        measured: dict[str, list[float]] = {name: [] for name in readers}
        for order in turns(readers, rounds):
            for name in order:
                measured[name].append(images_per_s(readers[name], px))
        found[str(px)] = {
            name: {
                "images_per_s": spread(values),
                "times_image_folder": spread([a / b for a, b in zip(values, measured["image_folder"], strict=True)]),
            }
            for name, values in measured.items()
        }
    return found


def first_batches(folder: Path, rounds: int) -> dict[str, Any]:
    """Seconds to a first batch, with two workers that are at work already."""
    data = FolderImages(folder, settings(workers=2), CPU)
    small, large = STAGES_PX[-2:]
    found: dict[str, list[float]] = {
        name: [] for name in ("next_stage", "next_stage_after_calibration", "resumed", "not_resumed")
    }
    for _ in range(rounds):
        for name, before, px, start in (
            ("next_stage", epoch(data, small, EPOCH_BATCHES - BATCHES), large, 0),
            ("next_stage_after_calibration", islice(epoch(data, small), 8), large, 0),
            ("resumed", epoch(data, small, EPOCH_BATCHES - BATCHES), small, EPOCH_BATCHES - BATCHES),
            ("not_resumed", epoch(data, small, EPOCH_BATCHES - BATCHES), small, 0),
        ):
            for _ in before:
                pass
            began = time.perf_counter()
            next(epoch(data, px, start))
            found[name].append(time.perf_counter() - began)
    pairs = zip(found["resumed"], found["not_resumed"], strict=True)
    return {f"{name}_s": spread(values) for name, values in found.items()} | {
        "resumed_to_not_resumed": spread([a / b for a, b in pairs])
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and range."""
    return dict(Spread.of(values)._asdict())


def main() -> None:
    """Print what was measured, and write it with what it was measured on."""
    command_line = parser(__doc__)
    command_line.add_argument("--rounds", type=int, default=9)
    command_line.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "rescaler-photos")
    arguments = command_line.parse_args()
    origin = provenance("image_files")
    make_tree(arguments.folder)
    tree, prepared = read_tree(arguments.folder, classes=CLASSES), arguments.folder / "prepared"
    sizes = sorted(map(shorter_px, PREPARED_PX))
    manifest = Preparation(tree, prepared, sizes, workers=2).run(lambda *_: None)
    torch.set_num_threads(1)
    readers = {
        "prepared": ours(prepared),
        "tree": ours(arguments.folder),
        "image_folder": image_folder(arguments.folder),
    }
    files = list((arguments.folder / "train").rglob("*.JPEG"))
    results = origin | {
        **{name: importlib.metadata.version(name) for name in ("torchvision", "pillow", "simplejpeg", "pyarrow")},
        "n": arguments.rounds,
        "images": len(files),
        "mean_file_bytes": sum(file.stat().st_size for file in files) / len(files),
        "mean_prepared_bytes": sum(part.size_bytes for part in manifest.parts) / (TRAIN + TEST),
        "images_per_s_of_one_core": rates(readers, arguments.rounds),
        "first_batch": first_batches(prepared, arguments.rounds),
    }
    print(json.dumps(results, indent=1))
    write(arguments.out, results)


if __name__ == "__main__":
    main()
