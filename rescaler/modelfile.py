"""The network that a run trained, as one file: written when the run is done, loaded anywhere.

``model.safetensors`` holds the weights under the names of the network's own ``state_dict()``, and as texts what is
needed to build the network and to feed it.
"""

import dataclasses
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import safetensors.torch
from torch import Tensor, nn

from rescaler.config import DataSettings, Experiment, ShrinkSettings, StageSettings
from rescaler.data import streams_from_files
from rescaler.errors import InputError, one_line
from rescaler.files import replacing, sync
from rescaler.method import ImageSize, image_size
from rescaler.networks import initial_target, shrunk_stage
from rescaler.record import MODEL_FILE, Record, version
from rescaler.weights import CHECK, check_of, model_path, read_tensors

if TYPE_CHECKING:
    from PIL.Image import Image

    from rescaler.plan import Run

log = logging.getLogger(__name__)

_FLAT = ("classes", "channels", "mean", "std")
"""Settings of the data that stand by themselves, for readers other than this one."""


@dataclass(frozen=True)
class Model:
    """A trained network's weights, and what is needed to build and to feed it."""

    weights: dict[str, Tensor]
    model: dict[str, Any]
    """``_target_`` of the target network, and its arguments."""
    data: DataSettings
    class_names: list[str]
    image_px: ImageSize
    """Size of its test images, and of the pictures that it predicts."""
    cropped: bool
    """Test images are the middle of a picture, 224/256 of its shorter side; else all of it."""
    precision: str
    memory_format: str
    run: str
    key: str
    """Of the run's last epoch."""
    epoch: int
    version: str = dataclasses.field(default_factory=version)
    """Of this package, that wrote the file."""
    shrink: dict[str, Any] | None = None
    """Of a pre-train network: how it was shrunk from the target network."""

    @classmethod
    def of(cls, run: "Run", record: Record) -> Self | None:
        """Take the network that a run's last epoch left from the ledger; None where its state is not kept."""
        tensors = run.ledger.state(record.key)
        if tensors is None:
            return None
        part = "ema." if any(name.startswith("ema.") for name in tensors) else "network."
        experiment, stage = run.experiment, run.chain.stage(record.epoch)
        settings = experiment.shrink.stages[run.chain.stages.index(stage)] if stage.layers else None
        shrink = (
            {one.name: getattr(settings, one.name) for one in dataclasses.fields(StageSettings)} if settings else None
        )
        return cls(
            weights={name.removeprefix(part): value for name, value in tensors.items() if name.startswith(part)},
            model=experiment.model,
            data=experiment.data,
            class_names=list(run.data.class_names),
            image_px=stage.test_px,
            cropped=streams_from_files(experiment.data),
            precision=experiment.step.precision,
            memory_format=experiment.step.memory_format,
            run=run.id,
            key=record.key,
            epoch=record.epoch,
            shrink=shrink,
        )

    @classmethod
    def read(cls, source: Path) -> Self:
        """Read a run's folder, or a file that a run or ``rescaler export`` wrote."""
        path = model_path(source)
        weights, texts = read_tensors(path)
        try:
            words = {one.name for one in dataclasses.fields(cls) if one.type is str} | {"format"}
            values: dict[str, Any] = {name: text if name in words else json.loads(text) for name, text in texts.items()}
            values["image_px"] = image_size(values["image_px"])
            data = {**values["data"], **{name: values[name] for name in _FLAT}}
            known = {one.name for one in dataclasses.fields(DataSettings)}
            names = {one.name for one in dataclasses.fields(cls)} - {"weights", "data"}
            return cls(
                weights,
                data=DataSettings(**{name: value for name, value in data.items() if name in known}),
                **{name: values[name] for name in names if name in values},
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path} is no model that a run of rescaler wrote: {one_line(error)}") from error

    def write(self, path: Path) -> None:
        """Write the file in one step."""
        values = {one.name: getattr(self, one.name) for one in dataclasses.fields(self) if one.name != "weights"}
        data = {name: value for name, value in dataclasses.asdict(self.data).items() if name != "folder"}
        values |= {name: data.pop(name) for name in _FLAT} | {"data": data, "format": "pt"}
        texts = {
            name: value if isinstance(value, str) else json.dumps(value)
            for name, value in values.items()
            if value is not None
        }
        texts[CHECK] = check_of(self.weights, texts)
        with replacing(path) as temporary:
            temporary.write_bytes(safetensors.torch.save(self.weights, texts))
            sync(temporary)

    def network(self) -> nn.Module:
        """Build the network with its weights, in evaluation mode, on the CPU."""
        shrink = self.shrink and {
            **self.shrink,
            "table": {int(large): small for large, small in self.shrink.get("table", {}).items()},
        }
        settings = ShrinkSettings(**shrink) if shrink else ShrinkSettings()
        experiment = Experiment(model=self.model, data=self.data, shrink=settings)
        network = initial_target(experiment)
        if shrink:
            network = shrunk_stage(experiment, network, 0).network
        try:
            network.load_state_dict(self.weights)
        except RuntimeError as error:
            raise InputError(f"{self.model['_target_']} makes another network now: {one_line(error)}") from error
        return network.eval()

    def preprocess(self, picture: "str | Path | Image") -> Tensor:
        """Turn a picture, a path or Pillow's image, into the network's normalised input ``(channels, h, w)``."""
        from rescaler.data.decoding import preprocess  # not at the top: it needs the extra `images`

        return preprocess(picture, self.data, self.image_px, cropped=self.cropped)


def write_model(run: "Run", record: Record, folder: Path) -> None:
    """Write the network that a run's last epoch left to its folder."""
    if (model := Model.of(run, record)) is not None:
        model.write(folder / MODEL_FILE)
        return
    state = f"the ledger has the record of epoch {record.epoch}, but no longer its state"
    log.warning("no %s: %s, as no run's folder held it", MODEL_FILE, state)


def load(run_or_file: "str | Path") -> nn.Module:
    """Load a trained network in evaluation mode, on the CPU, with what is needed to use it.

    >>> network = rescaler.load("runs/mine/0")
    >>> scores = network(network.preprocess("picture.png")[None])
    >>> network.classes[scores.argmax()]

    Args:
        run_or_file: folder of a run that is done, or its ``model.safetensors`` wherever it lies.

    Returns:
        The network, with two attributes more: ``preprocess``, from a path or Pillow's image to its normalised input
        ``(channels, h, w)`` (needs the extra ``images``), and ``classes``, their names in the order of its scores.

    Raises:
        InputError: there is no model, or its network's code cannot be found.
    """
    model = Model.read(Path(run_or_file).expanduser())
    network: Any = model.network()
    network.preprocess = dataclasses.replace(model, weights={}).preprocess
    network.classes = model.class_names
    return network  # type: ignore[no-any-return]
