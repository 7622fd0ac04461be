"""``rescaler export``: a trained network in a format for use elsewhere, checked against the network itself."""

import argparse
import io
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from rescaler.errors import InputError, one_line
from rescaler.files import replacing
from rescaler.method.size import height_width
from rescaler.modelfile import Model

_TOLERANCE = 1e-3
"""Largest difference of scores, relative to the largest score: other kernels round in other ways."""


def run(arguments: argparse.Namespace) -> None:
    """Write the file, run both on one batch, and say how far apart their scores are."""
    if arguments.format not in _FORMATS:
        raise InputError(f"--format must be one of {', '.join(_FORMATS)}; got {arguments.format}")
    suffix, write, scores_of = _FORMATS[arguments.format]
    source = arguments.model.expanduser()
    model = Model.read(source)
    output = arguments.output or Path(f"{source.absolute().name if source.is_dir() else source.stem}{suffix}")
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
                write(model, network, images, temporary)
                got = scores_of(model, temporary, images)
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


def _write_safetensors(model: Model, _network: nn.Module, _images: Tensor, path: Path) -> None:
    model.write(path)


def _write_torch(model: Model, _network: nn.Module, _images: Tensor, path: Path) -> None:
    content = io.BytesIO()  # torch's own writer does not say that a disk is full
    torch.save(model.weights, content)
    path.write_bytes(content.getvalue())


def _write_torchscript(_model: Model, network: nn.Module, images: Tensor, path: Path) -> None:
    content = io.BytesIO()
    torch.jit.save(torch.jit.trace(network, images), content)  # type: ignore[no-untyped-call]
    path.write_bytes(content.getvalue())


def _write_onnx(_model: Model, network: nn.Module, images: Tensor, path: Path) -> None:
    import onnxscript  # noqa: F401 - torch would say less of it where it is missing

    shapes = ({0: torch.export.Dim("images")},)
    program = torch.onnx.export(
        network, (images,), dynamo=True, dynamic_shapes=shapes, input_names=["images"], output_names=["scores"],
        verbose=False,
    )  # fmt: skip
    assert program is not None
    program.save(str(path))


def _of_safetensors(_model: Model, path: Path, images: Tensor) -> Tensor:
    return _scores(Model.read(path).network(), images)


def _of_torch(model: Model, path: Path, images: Tensor) -> Tensor:
    network = model.network()
    network.load_state_dict(torch.load(path, weights_only=True))
    return _scores(network, images)


def _of_torchscript(_model: Model, path: Path, images: Tensor) -> Tensor:
    return _scores(torch.jit.load(path), images)  # type: ignore[no-untyped-call]


def _of_onnx(_model: Model, path: Path, images: Tensor) -> Tensor:
    import onnx
    from onnx.reference import ReferenceEvaluator

    (scores,) = ReferenceEvaluator(onnx.load(path)).run(None, {"images": images.numpy()})
    return torch.from_numpy(scores)


@torch.inference_mode()
def _scores(network: nn.Module, images: Tensor) -> Tensor:
    scores: Tensor = network(images)
    return scores


_Write = Callable[[Model, nn.Module, Tensor, Path], None]
_Scores = Callable[[Model, Path, Tensor], Tensor]
_FORMATS: dict[str, tuple[str, _Write, _Scores]] = {
    "safetensors": (".safetensors", _write_safetensors, _of_safetensors),
    "torch": (".pt", _write_torch, _of_torch),
    "torchscript": (".torchscript.pt", _write_torchscript, _of_torchscript),
    "onnx": (".onnx", _write_onnx, _of_onnx),
}
"""Suffix, what writes the file, and what gives its scores."""
