"""Commands on a trained network: ``rescaler evaluate``, ``predict`` and ``export``."""

import argparse
import dataclasses
import io
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn

from rescaler.cli import STDOUT, write_csv
from rescaler.compose import jobs, read_experiment
from rescaler.config import DataSettings, StepSettings
from rescaler.data import load_data
from rescaler.errors import InputError, first_line, listed, one_line
from rescaler.evaluation import score
from rescaler.files import replacing
from rescaler.method import ImageSize, height_width, size_text
from rescaler.modelfile import Model
from rescaler.plan import device_for
from rescaler.precision import MEMORY_FORMATS
from rescaler.text import TextTable, counted, percent

_MATRIX_CLASSES = 12
"""Classes whose confusion is shown as a matrix; of more, the pairs that are confused most."""
_PAIRS = 20
_AT_ONCE = 64
_SUFFIXES = {"safetensors": ".safetensors", "torch": ".pt", "torchscript": ".torchscript.pt", "onnx": ".onnx"}
_TOLERANCE = 1e-3
"""Largest difference of scores, relative to the largest score: other kernels round in other ways."""


def evaluate(arguments: argparse.Namespace) -> None:
    """Print the scores, print and write the confusion."""
    source = arguments.model.expanduser()
    model = Model.read(source)
    settings, image_px = _data(model, source, arguments.overrides, arguments.config_dir)
    device = device_for("auto")
    network = model.network().to(device).to(memory_format=MEMORY_FORMATS[model.memory_format])
    try:
        with torch.inference_mode():
            network(torch.zeros(1, settings.channels, *height_width(image_px), device=device))
    except Exception as error:  # whatever a network raises on images of another size than its own
        raise InputError(
            f"data.image_px={size_text(image_px)}: the network cannot take such images: {first_line(error)}"
        ) from error
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
        write_csv(arguments.csv, [("class", "predicted", "images", "share"), *_pairs(confusion, names)])


def _data(
    model: Model, source: Path, overrides: Sequence[str], config_dir: str | None
) -> tuple[DataSettings, ImageSize]:
    """Return the data to test on, and the image size: the network's own but for what the overrides say."""
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


def _table(confusion: Tensor, names: Sequence[str]) -> TextTable:
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


def predict(arguments: argparse.Namespace) -> None:
    """Print and write the classes; raise for pictures that cannot be read once all others are done."""
    if arguments.top < 1:
        raise InputError(f"--top must be at least 1; got {arguments.top}")
    model = Model.read(arguments.model.expanduser())
    unreadable: list[str] = []
    rows: list[Sequence[object]] = [("picture", "rank", "class", "probability")]
    for picture, likely in _predict(model, _pictures(arguments.pictures), arguments.top, unreadable):
        if arguments.csv != STDOUT:
            print(f"{picture}: {', '.join(f'{name} {percent(share)}' for name, share in likely)}")
        rows += [(picture, rank, name, f"{share:.6f}") for rank, (name, share) in enumerate(likely, start=1)]
    if arguments.csv is not None:
        write_csv(arguments.csv, rows)
    if unreadable:
        raise InputError(
            unreadable[0] if len(unreadable) == 1 else f"{counted(len(unreadable), 'picture')}: {'; '.join(unreadable)}"
        )


def _pictures(paths: Sequence[Path]) -> list[Path]:
    from torchvision.datasets.folder import IMG_EXTENSIONS  # takes seconds

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


def export(arguments: argparse.Namespace) -> None:
    """Write the file, run both on one batch, and say how far apart their scores are."""
    if arguments.format not in _SUFFIXES:
        raise InputError(f"--format must be one of {', '.join(_SUFFIXES)}; got {arguments.format}")
    source = arguments.model.expanduser()
    model = Model.read(source)
    name = source.absolute().name if source.is_dir() else source.stem
    output = arguments.output or Path(f"{name}{_SUFFIXES[arguments.format]}")
    if output.absolute() == source.absolute():
        raise InputError(f"-o {output} is the file that is exported")
    network = model.network()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, model.data.channels, *height_width(model.image_px), generator=generator)
    with torch.inference_mode():
        wanted = network(images)
    with replacing(output) as temporary:
        try:
            with warnings.catch_warnings(action="ignore"):  # TorchScript is deprecated, and still asked for
                _export(arguments.format, model, network, images, temporary)
                got = _scores(arguments.format, model, temporary, images)
        except (InputError, OSError, ModuleNotFoundError):
            raise
        except Exception as error:  # whatever an exporter raises on a user's network
            raise InputError(
                f"--format {arguments.format}: the network cannot be exported: {one_line(error)}"
            ) from error
        difference = float((got - wanted).abs().max() / wanted.abs().max().clamp_min(1e-12))
        if not difference <= _TOLERANCE:
            raise InputError(f"--format {arguments.format}: scores differ from the network's by {difference:.1e}")
    print(
        f"{output}: {output.stat().st_size / 1e6:,.1f} MB, images of {'x'.join(map(str, images.shape[1:]))}; scores of "
        f"a batch differ from the network's by {difference:.0e} at most"
    )


def _export(form: str, model: Model, network: nn.Module, images: Tensor, path: Path) -> None:
    content = io.BytesIO()  # torch's own writers do not say that a disk is full
    match form:
        case "safetensors":
            model.write(path)
        case "torch":
            torch.save(model.weights, content)
            path.write_bytes(content.getvalue())
        case "torchscript":
            torch.jit.save(torch.jit.trace(network, images), content)  # type: ignore[no-untyped-call]
            path.write_bytes(content.getvalue())
        case "onnx":
            import onnxscript  # noqa: F401 - torch would say less of it where it is missing

            program = torch.onnx.export(
                network, (images,), dynamo=True, dynamic_shapes=({0: torch.export.Dim("images")},),
                input_names=["images"], output_names=["scores"], verbose=False,
            )  # fmt: skip
            assert program is not None
            program.save(str(path))


@torch.inference_mode()
def _scores(form: str, model: Model, path: Path, images: Tensor) -> Tensor:
    network: nn.Module
    if form == "onnx":
        import onnx
        from onnx.reference import ReferenceEvaluator

        (found,) = ReferenceEvaluator(onnx.load(path)).run(None, {"images": images.numpy()})
        return torch.from_numpy(found)
    if form == "torchscript":
        network = torch.jit.load(path)  # type: ignore[no-untyped-call]
    else:
        network = (Model.read(path) if form == "safetensors" else model).network()
    if form == "torch":
        network.load_state_dict(torch.load(path, weights_only=True))
    scores: Tensor = network(images)
    return scores
