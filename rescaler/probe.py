"""How fast networks train here: timed steps on random images that never leave the device.

Networks take turns, so that a machine that slows down or speeds up does so for all of them.
"""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from rescaler.arithmetic import MEMORY_FORMATS, autocast, float32_as
from rescaler.errors import InputError
from rescaler.models import loss_and_scores
from rescaler.optimizer import SGD

_WARM_UP_STEPS = 3
_ROUND_S = 0.3
_MOST_STEPS = 100
"""Steps of one network before the next one's turn: so many seconds of them, but one at least."""
_FEWEST_ROUNDS = 3


@dataclass(frozen=True)
class Setting:
    """How a step is computed."""

    precision: str = "default"
    memory_format: str = "channels_last"
    compiled: bool = False

    def __str__(self) -> str:
        return f"{self.precision} {self.memory_format}" + " compiled" * self.compiled


class Candidate(NamedTuple):
    """A network and the images that it takes."""

    network: nn.Module
    image_px: int
    channels: int
    classes: int


class Step(NamedTuple):
    """Seconds of one training step by what they were spent on."""

    forward_s: float
    """With the loss."""
    backward_s: float
    update_s: float

    @property
    def step_s(self) -> float:
        """All of them."""
        return sum(self)


class Spread(NamedTuple):
    """Median and range of a measurement repeated."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of at least one value."""
        return cls(statistics.median(values), min(values), max(values))


def measure(
    candidates: Mapping[str, Candidate],
    setting: Setting,
    *,
    device: torch.device,
    batch_size: int,
    rounds: int = 7,
    budget_s: float = 60.0,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, list[Step]]:
    """Time training steps of several networks in turn: SGD with momentum on cross-entropy, at learning rate 0.

    Args:
        candidates: networks by name; they are moved to the device and its memory format.
        setting: how to compute; the same for all.
        device: where.
        batch_size: images a step.
        rounds: turns of each network.
        budget_s: no new round begins after so many seconds, once there are three.
        progress: is told what is being done, a few times.

    Returns:
        For each network its mean step in each round; the i-th of all networks were measured side by side.

    Raises:
        InputError: the device's memory is too small.
    """
    steps: dict[str, list[Step]] = {name: [] for name in candidates}
    with float32_as(setting.precision), _enough_memory(batch_size):
        trainers = {}
        for name, candidate in candidates.items():
            progress(f"warming up {name}")
            trainers[name] = _Trainer(candidate, setting, device, batch_size)
        start = time.perf_counter()
        for number, order in enumerate(turns(trainers, rounds)):
            if number >= _FEWEST_ROUNDS and time.perf_counter() - start > budget_s:
                break
            progress(f"round {number + 1} of {rounds}")
            for name in order:
                steps[name].append(trainers[name].turn())
    if setting.compiled:
        torch.compiler.reset()  # else the next networks' shapes would count as recompilations of these
    return steps


def turns(names: Iterable[str], rounds: int) -> Iterator[list[str]]:
    """Who measures when, round by round: forwards and backwards, so that nobody always follows the same other."""
    order = list(names)
    for _ in range(rounds):
        yield order
        order = order[::-1]


def ratios(large: Sequence[Step], small: Sequence[Step], part: str = "step_s") -> Spread:
    """How many times faster ``small`` is, round by round, of what :func:`measure` gave."""
    return Spread.of([getattr(a, part) / getattr(b, part) for a, b in zip(large, small, strict=True)])


class _Trainer:
    """Trains a network on one batch, over and over."""

    def __init__(self, candidate: Candidate, setting: Setting, device: torch.device, batch_size: int) -> None:
        memory_format = MEMORY_FORMATS[setting.memory_format]
        network = candidate.network.to(device).to(memory_format=memory_format).train()
        # Static shapes: else torch takes the second network's image size for a reason to compile for all sizes.
        self._network = torch.compile(network, dynamic=False) if setting.compiled else network
        # At learning rate 0 the work is the same, and the weights stay finite.
        weights = list(network.parameters())
        momentum = [torch.zeros_like(weight) for weight in weights]
        self._optimizer = SGD(weights, momentum, coefficient=0.9, weight_decay=1e-4)
        shape = (batch_size, candidate.channels, candidate.image_px, candidate.image_px)
        self._images = torch.randn(shape, device=device).contiguous(memory_format=memory_format)
        self._labels = torch.randint(candidate.classes, (batch_size,), device=device)
        self._device = device
        self._precision = setting.precision
        self._steps(1)  # compiles, and lets libraries choose their algorithms
        self._count = max(1, min(_MOST_STEPS, round(_ROUND_S / self._steps(_WARM_UP_STEPS).step_s)))

    def turn(self) -> Step:
        """The mean of some steps."""
        return self._steps(self._count)

    def _steps(self, count: int) -> Step:
        self._synchronize()
        marks = [self._step() for _ in range(count)]
        self._synchronize()
        parts = zip(*([_elapsed_s(a, b) for a, b in zip(four, four[1:], strict=False)] for four in marks), strict=True)
        return Step(*map(statistics.fmean, parts))

    def _step(self) -> "list[_Mark]":
        """One step, and the moments before and after its three parts."""
        marks = [self._mark()]
        with autocast(self._precision, self._device.type):
            loss, _ = loss_and_scores(self._network(self._images), self._labels)
        marks.append(self._mark())
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        marks.append(self._mark())
        self._optimizer.step()
        marks.append(self._mark())
        return marks

    def _mark(self) -> "_Mark":
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


_Mark = float | torch.cuda.Event
"""A moment: on the host's clock, or in the device's queue, which the host runs ahead of."""


def _elapsed_s(start: _Mark, end: _Mark) -> float:
    if isinstance(start, float) and isinstance(end, float):
        return end - start
    return float(start.elapsed_time(end)) / 1000  # type: ignore[union-attr, arg-type]


@contextlib.contextmanager
def _enough_memory(batch_size: int) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"the device's memory is too small for batches of {batch_size} images: {reason}") from error
