"""How fast networks train here: real training steps, timed, on random images that never leave the device.

Networks take turns, so that a machine that slows down or speeds up does so for all of them.
"""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import nn

from rescaler.chain import Recipe
from rescaler.config import Experiment
from rescaler.errors import enough_memory
from rescaler.measuring import Spread, turns
from rescaler.networks import initial_target, shrunk_stages
from rescaler.plan import epoch_constants
from rescaler.precision import MEMORY_FORMATS, computing
from rescaler.schedule import network_names
from rescaler.state import State
from rescaler.train import TrainingStep

_WARM_UP_STEPS = 3
"""Compiled networks compile within three."""
_ROUND_S = 0.3
"""Seconds of one network before the next one's turn: this many, but one step at least."""
_MOST_STEPS = 100
_FEWEST_ROUNDS = 3


class Candidate(NamedTuple):
    """A network and the images that it takes."""

    network: nn.Module
    image_px: int
    channels: int
    classes: int


def candidates(experiment: Experiment) -> dict[str, Candidate]:
    """The networks of an experiment by name, the smallest first and the target last.

    Raises:
        InputError: ``model`` describes no network, or it cannot be shrunk this way.
    """
    data, target = experiment.data, initial_target(experiment)
    networks = [(shrunk.network, shrunk.image_px) for shrunk in shrunk_stages(experiment, target)]
    networks.append((target, data.image_px))
    return {
        name: Candidate(network, image_px, data.channels, data.classes)
        for name, (network, image_px) in zip(network_names(experiment), networks, strict=True)
    }


def step_recipe(experiment: Experiment, device_type: str, *, is_here: bool = True) -> Recipe:
    """A recipe whose steps do the work of the experiment's, at learning rate 0: the weights stay as they are.

    Raises:
        InputError: the device cannot compute that way; the message names the key and its value.
    """
    constants = epoch_constants(experiment, 1, device_type, is_here=is_here)
    decay = experiment.schedule.weight_decay
    return Recipe(0, (), rescale=None, learning_rate=0.0, learning_rate_end=0.0, weight_decay=decay, **constants)


def measure(
    networks: Mapping[str, Candidate],
    recipe: Recipe,
    *,
    device: torch.device,
    rounds: int = 7,
    budget_s: float = 60.0,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, list[float]]:
    """Time training steps of several networks in turn.

    Args:
        networks: by name; they are moved to the device and the recipe's memory format.
        recipe: how to compute; the same for all, whatever image size it has.
        device: where.
        rounds: turns of each network.
        budget_s: no new round begins after these seconds, once there are three.
        progress: is told what is being done, a few times.

    Returns:
        For each network seconds of its mean step in each round; the i-th of all networks were measured side by side.

    Raises:
        InputError: the device's memory is too small.
    """
    step_s: dict[str, list[float]] = {name: [] for name in networks}
    with computing(recipe), enough_memory(f" for batches of {recipe.batch_size} images"):
        trainers = {}
        for name, candidate in networks.items():
            progress(f"warming up {name}")
            trainers[name] = _Trainer(candidate, recipe, device)
        start = time.perf_counter()
        for number, order in enumerate(turns(trainers, rounds)):
            if number >= _FEWEST_ROUNDS and time.perf_counter() - start > budget_s:
                break
            progress(f"round {number + 1} of {rounds}")
            for name in order:
                step_s[name].append(trainers[name].turn_s())
    if recipe.compile:
        torch.compiler.reset()  # else the next networks' shapes would count as recompilations of these
    return step_s


def doubts(name: str, faster: Spread, where: str = "here") -> list[str]:
    """What to say of a network that is not clearly faster than the target; nothing of one that is.

    Args:
        name: the network's.
        faster: how many times faster it was.
        where: on what, or how, it was measured.
    """
    if faster.median <= 1:
        slower = f"its step takes {1 / faster.median:.2f} times as long as the target's"
        return [f"The {name} network is not faster {where}: {slower}."]
    if faster.low <= 1:
        return [f"The {name} network is not clearly faster {where}: in some rounds it was slower."]
    return []


class _Trainer:
    """Trains a network on one batch, over and over."""

    def __init__(self, candidate: Candidate, recipe: Recipe, device: torch.device) -> None:
        memory_format = MEMORY_FORMATS[recipe.memory_format]
        state = State(candidate.network.to(device).to(memory_format=memory_format))
        state.prepare(recipe)
        self._step = TrainingStep(state, recipe)
        shape = (recipe.batch_size, candidate.channels, candidate.image_px, candidate.image_px)
        self._images = torch.randn(shape, device=device).contiguous(memory_format=memory_format)
        self._labels = torch.randint(candidate.classes, (recipe.batch_size,), device=device)
        self._steps_s(_WARM_UP_STEPS)  # compiles, and lets libraries choose their algorithms
        self._count = max(1, min(_MOST_STEPS, round(_ROUND_S / self._steps_s(_WARM_UP_STEPS))))

    def turn_s(self) -> float:
        """Seconds of a step, as the mean of some."""
        return self._steps_s(self._count)

    def _steps_s(self, count: int) -> float:
        self._wait()
        start = time.perf_counter()
        for number in range(1, count + 1):
            self._step(self._images, self._labels, learning_rate=0.0, number=number)
        self._wait()
        return (time.perf_counter() - start) / count

    def _wait(self) -> None:
        if self._labels.device.type == "cuda":
            torch.cuda.synchronize(self._labels.device)
