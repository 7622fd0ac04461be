"""``rescaler predict``: the most likely classes of pictures."""

import argparse
import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torchvision.datasets.folder import IMG_EXTENSIONS

from rescaler.cli import STDOUT, write
from rescaler.errors import InputError, listed
from rescaler.modelfile import Model
from rescaler.plan import device_for
from rescaler.text import counted, percent

_AT_ONCE = 64
"""Pictures in a batch."""


def run(arguments: argparse.Namespace) -> None:
    """Print and write the classes; raise for pictures that cannot be read once all others are done."""
    if arguments.top < 1:
        raise InputError(f"--top must be at least 1; got {arguments.top}")
    model = Model.read(arguments.model.expanduser())
    unreadable: list[str] = []
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["picture", "rank", "class", "probability"])
    for picture, likely in _predict(model, _pictures(arguments.pictures), arguments.top, unreadable):
        if arguments.csv != STDOUT:
            print(f"{picture}: {', '.join(f'{name} {percent(share)}' for name, share in likely)}")
        writer.writerows([picture, rank, name, f"{share:.6f}"] for rank, (name, share) in enumerate(likely, start=1))
    if arguments.csv is not None:
        write(arguments.csv, text.getvalue())
    if unreadable:
        raise InputError(
            unreadable[0] if len(unreadable) == 1 else f"{counted(len(unreadable), 'picture')}: {'; '.join(unreadable)}"
        )


def _pictures(paths: Sequence[Path]) -> list[Path]:
    """Pictures by name, and all in and below folders.

    Raises:
        InputError: a folder has none.
    """
    found: list[Path] = []
    for path in paths:
        inside = (
            sorted(one for one in path.rglob("*") if one.suffix.lower() in IMG_EXTENSIONS) if path.is_dir() else [path]
        )
        if not inside:
            raise InputError(f"{path} has no pictures: {listed(sorted(IMG_EXTENSIONS), len(IMG_EXTENSIONS))}")
        found += inside
    return found


def _predict(
    model: Model, pictures: Sequence[Path], top: int, unreadable: list[str]
) -> Iterator[tuple[Path, list[tuple[str, float]]]]:
    """Yield each picture with its ``top`` classes and their probabilities; say which could not be read."""
    device = device_for("auto")
    network = model.network().to(device)
    for start in range(0, len(pictures), _AT_ONCE):
        names, images = [], []
        for picture in pictures[start : start + _AT_ONCE]:
            try:
                images.append(model.preprocess(picture))
                names.append(picture)
            except InputError as error:
                unreadable.append(str(error))
        if not images:
            continue
        with torch.inference_mode():
            found = network(torch.stack(images).to(device)).float().softmax(1).topk(min(top, len(model.class_names)))
        for name, shares, indices in zip(names, found.values.tolist(), found.indices.tolist(), strict=True):
            yield name, [(model.class_names[index], share) for index, share in zip(indices, shares, strict=True)]
