"""How fast image files are loaded here, so that no saving is promised that loading would eat."""

import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping

import torch

from rescaler.config import DataSettings
from rescaler.data import Batch, EpochImages, image_folder, load_data, streams_from_files
from rescaler.measuring import Spread

_ROUNDS = 5
_ROUND_S = 0.5
"""Seconds of a round, in which at least one batch is loaded."""
_MOST_IMAGES = 1_000_000
_AHEAD = 2
"""Batches that each worker has ready when the first is asked for: they come faster than it makes more."""


def batch_loading_s(
    data: DataSettings,
    sizes_px: Mapping[str, int],
    *,
    batch_size: int,
    device: torch.device,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Spread] | None:
    """Seconds to load a training batch for each network while nothing else is done.

    Args:
        data: where the files are, and how many processes decode them.
        sizes_px: by network, the side of its images.
        batch_size: images in a batch.
        device: where batches go.
        progress: is told what is being done.

    Returns:
        Median and range of some rounds by network; None where no file is read: the set is in memory, or not here.

    Raises:
        InputError: the files are damaged, or contradict the settings.
    """
    if not _files_are_here(data):
        return None
    images = load_data(data, device)
    found = {}
    for image_px in dict.fromkeys(sizes_px.values()):
        progress(f"loading images of {image_px} pixels")
        most_batches = 1 + _MOST_IMAGES // batch_size
        batches = images.train_batches(
            EpochImages(image_px, seed=0, epoch=1, batches=most_batches, batch_size=batch_size)
        )
        for _ in itertools.islice(batches, 1 + _AHEAD * data.workers):
            pass
        found[image_px] = Spread.of([_round_s(batches) for _ in range(_ROUNDS)])
    return {name: found[image_px] for name, image_px in sizes_px.items()}


def loading_notes(data: DataSettings, loading_s: Mapping[str, Spread] | None, batch_size: int) -> list[str]:
    """What :func:`batch_loading_s` found, in words; nothing where no file is read.

    Args:
        data: as it was given.
        loading_s: as it was returned.
        batch_size: as it was given.
    """
    if not streams_from_files(data):
        return []
    if loading_s is None:
        return [f"Loading is not in it, and may eat what is saved: data.folder={image_folder(data)} holds no images."]
    each = ", ".join(f"{name} {spread.in_ms()}" for name, spread in loading_s.items())
    return [
        f"Loading: {each} for {batch_size} images, with data.workers={data.workers} and nothing else to do. A step "
        "takes the longer of computing and loading."
    ]


def how_to_load_faster(data: DataSettings) -> str:
    """What a person can do about loading that sets the pace."""
    from rescaler.data.prepared import is_prepared  # needs pyarrow

    cores, ways = len(os.sched_getaffinity(0)), []
    if not is_prepared(image_folder(data)):
        ways.append("prepare the images once (python -m rescaler prepare, with this run's settings)")
    if data.workers < cores:
        ways.append(f"raise data.workers (it is {data.workers}; {cores} cores are there)")
    return " or ".join(ways) or f"{cores} cores and this disk load no faster"


def _files_are_here(data: DataSettings) -> bool:
    if not streams_from_files(data):
        return False
    from rescaler.data.prepared import is_prepared  # needs pyarrow

    return is_prepared(image_folder(data)) or (image_folder(data) / "train").is_dir()


def _round_s(batches: Iterator[Batch]) -> float:
    start, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - start < _ROUND_S:
        next(batches)
        count += 1
    return (time.perf_counter() - start) / count
