"""Measure how fast networks train here, and how fast image files load.

Networks take turns, so that a machine that slows down or speeds up does so for all of them. Training steps are real
ones, on random images that never leave the device.
"""

import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import nn

from rescaler.chain import Recipe, Stage
from rescaler.config import DataSettings, Experiment, stage_names
from rescaler.data import image_folder, load_data, streams_from_files
from rescaler.data.order import Batch, EpochImages
from rescaler.errors import enough_memory
from rescaler.method import ImageSize, height_width, size_text
from rescaler.networks import initial_target, shrunk_stages
from rescaler.plan import device_for
from rescaler.precision import MEMORY_FORMATS, computing, resolve_step
from rescaler.record import device_name, torch_version
from rescaler.schedule import Stretch, network_names
from rescaler.state import State
from rescaler.text import status_line
from rescaler.train import Step

_WARM_UP_STEPS = 3
"""Compiled networks compile within three."""
_ROUND_S = 0.3
"""Seconds of one network before the next one's turn: this many, but one step at least."""
_MOST_STEPS = 100
_FEWEST_ROUNDS = 3

_LOADING_ROUNDS = 5
_LOADING_ROUND_S = 0.5
"""Seconds of a round, in which at least one batch is loaded."""
_MOST_IMAGES = 1_000_000
_AHEAD = 2
"""Batches that each worker has ready when the first is asked for: they come faster than it makes more."""


class Spread(NamedTuple):
    """Median and range of a measurement repeated."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Median and range of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    @classmethod
    def of_ratios(cls, numerators: Sequence[float], denominators: Sequence[float]) -> "Spread":
        """The spread of the ratios, round by round, of two things that were measured in turns."""
        return cls.of([a / b for a, b in zip(numerators, denominators, strict=True)])

    def shown(self, unit: str = "", scale: float = 1) -> str:
        """Median and range, each times ``scale``, as ``2.61 ms (2.43 to 2.78)``."""
        median, low, high = (f"{scale * value:,.2f}" for value in self)
        return f"{median}{unit} ({low} to {high})"

    def in_ms(self) -> str:
        """Seconds, written as milliseconds."""
        return self.shown(" ms", 1000)


def turns(names: Iterable[str], rounds: int) -> Iterator[list[str]]:
    """Order of each round: forwards and backwards, so that nobody always follows the same other."""
    order = list(names)
    for _ in range(rounds):
        yield order
        order = order[::-1]


class Candidate(NamedTuple):
    """A network and the images that it takes."""

    network: nn.Module
    image_px: ImageSize
    channels: int
    classes: int
    name: str = ""
    recipe: Recipe | None = None
    """Its own, where the settings of its stage differ from the others'."""


def candidates(experiment: Experiment) -> dict[str, Candidate]:
    """The networks of an experiment by name, the smallest first and the target last."""
    data, target = experiment.data, initial_target(experiment)
    networks = [(shrunk.network, shrunk.image_px) for shrunk in shrunk_stages(experiment, target)]
    networks.append((target, data.image_px))
    stages, device_type = stage_names(len(experiment.shrink.stages)), device_for(experiment.device).type
    found = {}
    for name, stage, (network, image_px) in zip(network_names(experiment), stages, networks, strict=True):
        own = step_recipe(experiment.of_stage(stage), device_type) if stage in experiment.stages else None
        found[name] = Candidate(network, image_px, data.channels, data.classes, name, own)
    return found


def step_recipe(experiment: Experiment, device_type: str, *, is_here: bool = True) -> Recipe:
    """Recipe whose steps do the work of the experiment's, at learning rate 0: the weights stay as they are."""
    optim, decay = experiment.optim, experiment.schedule.weight_decay
    step = resolve_step(experiment.step, optim.batch_size, device_type, is_here=is_here)
    stage = Stage("measured", 0, Stretch(1, 1, 1, 1.0), optim, step, experiment.data, decay)
    return Recipe(stage, None, 0.0, 0.0, decay, batches=1, device_type=device_type)


def time_steps(
    networks: Mapping[str, Candidate],
    recipe: Recipe,
    *,
    device: torch.device,
    rounds: int = 7,
    budget_s: float = 60.0,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, list[float]]:
    """Time training steps of several networks in turn; no new round begins after ``budget_s``, once there are three.

    Returns:
        For each network seconds of its mean step in each round; the i-th of all networks were measured side by side.
    """
    step_s: dict[str, list[float]] = {name: [] for name in networks}
    with computing(recipe.step), enough_memory(f" for batches of {recipe.optim.batch_size} images"):
        trainers = {}
        for name, candidate in networks.items():
            progress(f"warming up {name}")
            trainers[name] = _Trainer(candidate, candidate.recipe or recipe, device)
        start = time.perf_counter()
        for number, order in enumerate(turns(trainers, rounds)):
            if number >= _FEWEST_ROUNDS and time.perf_counter() - start > budget_s:
                break
            progress(f"round {number + 1} of {rounds}")
            for name in order:
                step_s[name].append(trainers[name].mean_s(trainers[name].count))
    if recipe.step.compile:
        torch.compiler.reset()  # else the next networks' shapes would count as recompilations of these
    return step_s


def doubts(name: str, faster: Spread, where: str = "here") -> list[str]:
    """Warnings about a network that is not clearly faster than the target; none about one that is."""
    if faster.median <= 1:
        slower = f"its step takes {1 / faster.median:.2f} times as long as the target's"
        return [f"The {name} network is not faster {where}: {slower}."]
    if faster.low <= 1:
        return [f"The {name} network is not clearly faster {where}: in some rounds it was slower."]
    return []


class _Trainer:
    """Trains a network on one batch, over and over."""

    def __init__(self, candidate: Candidate, recipe: Recipe, device: torch.device) -> None:
        memory_format = MEMORY_FORMATS[recipe.step.memory_format]
        state = State(candidate.network.to(device).to(memory_format=memory_format))
        state.prepare(recipe)
        self._step = Step(state, recipe)
        shape = (recipe.optim.batch_size, candidate.channels, *height_width(candidate.image_px))
        self._images = torch.randn(shape, device=device).contiguous(memory_format=memory_format)
        self._labels = torch.randint(candidate.classes, (recipe.optim.batch_size,), device=device)
        self.mean_s(_WARM_UP_STEPS)  # compiles, and lets libraries choose their algorithms
        self.count = max(1, min(_MOST_STEPS, round(_ROUND_S / self.mean_s(_WARM_UP_STEPS))))
        """Steps of a turn."""

    def mean_s(self, count: int) -> float:
        """Seconds of a step, as the mean of ``count``."""
        self._wait()
        start = time.perf_counter()
        for number in range(1, count + 1):
            self._step(self._images, self._labels, learning_rate=0.0, number=number)
        self._wait()
        return (time.perf_counter() - start) / count

    def _wait(self) -> None:
        if self._labels.device.type == "cuda":
            torch.cuda.synchronize(self._labels.device)


def batch_loading_s(
    data: DataSettings,
    sizes_px: Mapping[str, ImageSize],
    *,
    batch_size: int,
    device: torch.device,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Spread] | None:
    """Seconds to load a training batch for each network while nothing else is done; None without files here."""
    if data.name != "custom":
        if not streams_from_files(data):
            return None
        from rescaler.data.prepared import is_prepared  # needs pyarrow

        folder = image_folder(data)
        if not (is_prepared(folder) or (folder / "train").is_dir() or (data.name == "folder" and folder.is_dir())):
            return None
    images = load_data(data, device)
    found = {}
    for image_px in dict.fromkeys(sizes_px.values()):
        progress(f"loading images of {size_text(image_px)} pixels")
        most_batches = 1 + _MOST_IMAGES // batch_size
        batches = images.train_batches(
            EpochImages(image_px, 0, 1, most_batches, batch_size, pad_px=data.pad_px, flip=data.flip)
        )
        for _ in itertools.islice(batches, 1 + _AHEAD * data.workers):
            pass
        found[image_px] = Spread.of([_loading_round_s(batches) for _ in range(_LOADING_ROUNDS)])
    return {name: found[image_px] for name, image_px in sizes_px.items()}


def loading_notes(data: DataSettings, loading_s: Mapping[str, Spread] | None, batch_size: int) -> list[str]:
    """Result of :func:`batch_loading_s` in words; nothing where no file is read."""
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
    """Advice for the case that loading is slower than computing."""
    from rescaler.data.prepared import is_prepared  # needs pyarrow

    cores, ways = len(os.sched_getaffinity(0)), []
    if data.name != "custom" and not is_prepared(image_folder(data)):
        ways.append("prepare the images once (python -m rescaler prepare, with this run's settings)")
    if data.workers < cores:
        ways.append(f"raise data.workers (it is {data.workers}; {cores} cores are there)")
    return " or ".join(ways) or f"{cores} cores and this disk load no faster"


def _loading_round_s(batches: Iterator[Batch]) -> float:
    start, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - start < _LOADING_ROUND_S:
        next(batches)
        count += 1
    return (time.perf_counter() - start) / count


def time_networks(
    experiment: Experiment, networks: Mapping[str, Candidate], say: Callable[[str], None]
) -> tuple[dict[str, list[float]], dict[str, Spread] | None]:
    """Results of :func:`time_steps` and :func:`batch_loading_s` with an experiment's settings on its device."""
    device = device_for(experiment.device)
    rounds = time_steps(networks, step_recipe(experiment, device.type), device=device, progress=say)
    sizes_px = {name: network.image_px for name, network in networks.items()}
    size = experiment.optim.batch_size
    return rounds, batch_loading_s(experiment.data, sizes_px, batch_size=size, device=device, progress=say)


def epoch_hours(experiment: Experiment, batches: int, label: str = "") -> tuple[list[float], list[str]]:
    """Measure how long an epoch of each network takes, loading included."""
    device, batch_size = device_for(experiment.device), experiment.optim.batch_size
    with status_line() as say:
        say("building the networks")
        rounds, loading = time_networks(experiment, candidates(experiment), say)
    step_s = {name: Spread.of(seconds) for name, seconds in rounds.items()}
    slowest_s = {name: max(step.median, loading[name].median if loading else 0) for name, step in step_s.items()}
    faster = {name: Spread.of_ratios(rounds["target"], rounds[name]) for name in rounds if name != "target"}
    notes = [
        f"Measured{label}: {', '.join(f'{name} {step.in_ms()}' for name, step in step_s.items())} a step of "
        f"{batch_size} images, {batches:,} steps an epoch; {device_name(device)}, torch {torch_version()}.",
        f"Times faster than the target's, round by round: "
        f"{', '.join(f'{name} {times.shown()}' for name, times in faster.items())}.",
        *(doubt for name, times in faster.items() for doubt in doubts(name, times)),
        *loading_notes(experiment.data, loading, batch_size),
    ]
    if waiting := [name for name, step in step_s.items() if slowest_s[name] > step.median]:
        notes.append(f"Loading sets the pace of {', '.join(waiting)}: {how_to_load_faster(experiment.data)}.")
    return [batches * seconds / 3600 for seconds in slowest_s.values()], notes
