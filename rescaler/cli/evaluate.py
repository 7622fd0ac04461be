"""``rescaler evaluate``: loss, accuracies and confusion of a trained network on a test set, at any image size."""

import argparse
import csv
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn

from rescaler.cli import STDOUT, write
from rescaler.compose import jobs, read_experiment
from rescaler.config import DataSettings, StepSettings
from rescaler.data import load_data
from rescaler.errors import InputError, first_line
from rescaler.evaluation import score
from rescaler.method.size import ImageSize, height_width, size_text
from rescaler.modelfile import Model
from rescaler.plan import device_for
from rescaler.precision import MEMORY_FORMATS
from rescaler.text import TextTable, counted, percent

_MATRIX_CLASSES = 12
"""Classes whose confusion is shown as a matrix; of more, the pairs that are confused most."""
_PAIRS = 20


def run(arguments: argparse.Namespace) -> None:
    """Print the scores, print and write the confusion."""
    source = arguments.model.expanduser()
    model = Model.read(source)
    settings, image_px = _data(model, source, arguments.overrides, arguments.config_dir)
    device = device_for("auto")
    network = model.network().to(device).to(memory_format=MEMORY_FORMATS[model.memory_format])
    _check_size(network, torch.zeros(1, settings.channels, *height_width(image_px), device=device), image_px)
    data = load_data(settings, device)
    confusion = torch.zeros(settings.classes, settings.classes, dtype=torch.int64, device=device)
    step = StepSettings(precision=model.precision, memory_format=model.memory_format)
    scores = score(network, step, data, image_px, confusion=confusion)
    names, confusion = list(data.class_names), confusion.cpu()
    if arguments.csv != STDOUT:
        heading = f"{source} on {settings.name}, {counted(data.test_count, 'test image')} of {size_text(image_px)} px"
        top5 = f", top-5 {percent(scores.top5, 2)}" if settings.classes > 5 else ""
        print(f"{heading}: loss {scores.loss:.4f}, top-1 {percent(scores.top1, 2)}{top5}\n")
        _table(confusion, names).print(Console())
        if names != model.class_names:
            print("The classes have other names than those that the network was trained on.")
    if arguments.csv is not None:
        write(arguments.csv, _csv(confusion, names))


def _data(
    model: Model, source: Path, overrides: Sequence[str], config_dir: str | None
) -> tuple[DataSettings, ImageSize]:
    """Return the data to test on, and the image size: the network's own but for what the overrides say.

    Raises:
        InputError: an override is of something else, or the data do not fit the network.
    """
    own = dataclasses.replace(model.data, folder=read_experiment(source).data.folder) if source.is_dir() else model.data
    keys = [word.partition("=")[0].lstrip("+") for word in overrides]
    if odd := [key for key in keys if key != "data" and not key.startswith("data.")]:
        raise InputError(f"evaluate takes settings of data alone; got {odd[0]}")
    if not overrides:
        return own, model.image_px
    same = [] if own.folder or "data" in keys else [f"data={own.name}"]
    composed = jobs([*same, *overrides], config_dir)
    if len(composed) > 1:
        raise InputError(f"evaluate tests one set at a time; got {' '.join(overrides)}")
    given = composed[0].experiment.data
    named = {key.split(".")[1] for key in keys if key != "data"}
    image_px = given.image_px if "image_px" in named else model.image_px
    if "data" in keys:  # another set, fed to the network as its own was
        changes = {name: getattr(own, name) for name in {"mean", "std"} - named}
        found = dataclasses.replace(given, **changes)
    else:  # images of another size are made from the same
        found = dataclasses.replace(own, **{name: getattr(given, name) for name in named - {"image_px"}})
    for key in ("classes", "channels"):
        if (got := getattr(found, key)) != (wanted := getattr(model.data, key)):
            raise InputError(f"data.{key} must be {wanted}, as the network was trained on; got {got}")
    return found, image_px


@torch.inference_mode()
def _check_size(network: nn.Module, image: Tensor, image_px: ImageSize) -> None:
    try:
        network(image)
    except Exception as error:  # whatever a network raises on images of another size than its own
        raise InputError(
            f"data.image_px={size_text(image_px)}: the network cannot take such images: {first_line(error)}"
        ) from error


def _table(confusion: Tensor, names: Sequence[str]) -> TextTable:
    """Images by class and prediction, or the pairs of classes that are confused most."""
    if len(names) <= _MATRIX_CLASSES:
        rows = [[name, *map(str, counts)] for name, counts in zip(names, confusion.tolist(), strict=True)]
        return TextTable("Images of each class (row) by prediction (column)", ["", *names], rows)
    pairs = [row for row in _pairs(confusion, names) if row[0] != row[1]][:_PAIRS]
    cells = [[name, taken, f"{count:,}", percent(share)] for name, taken, count, share in pairs]
    columns = ["Class", "Taken for", "Images", "Of the class"]
    return TextTable(f"The {len(cells)} pairs of classes that are confused most", columns, cells, (), ("Taken for",))


def _pairs(confusion: Tensor, names: Sequence[str]) -> list[tuple[str, str, int, float]]:
    """Class, prediction, images and their share of the class; most first."""
    found = [
        (names[row], names[column], int(confusion[row, column]), float(confusion[row, column] / confusion[row].sum()))
        for row, column in confusion.nonzero().tolist()
    ]
    return sorted(found, key=lambda pair: -pair[2])


def _csv(confusion: Tensor, names: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", "predicted", "images", "share"])
    writer.writerows(_pairs(confusion, names))
    return text.getvalue()
