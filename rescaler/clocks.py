"""Where the time of an epoch goes."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

import torch

from rescaler.data import Batch


class Clocks:
    """Wall-clock seconds of one epoch by what they were spent on; disjoint.

    Args:
        device: whose work is waited for.
        seconds: those that an earlier attempt spent on the epoch.
    """

    def __init__(self, device: torch.device, seconds: Mapping[str, float] | None = None) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float, seconds or {})
        self._device = device
        self._running: list[tuple[str, float]] = []
        self._waits: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextlib.contextmanager
    def running(self, name: str) -> Iterator[None]:
        """Count the time in the block, to its end on the device, less what other clocks counted meanwhile."""
        now = self._now()
        self._count_waits()  # they are the clock's that ran before
        self._running.append((name, now - sum(self.seconds.values())))
        try:
            yield
        finally:
            self.seconds = self.so_far()
            self._running.pop()

    def so_far(self) -> defaultdict[str, float]:
        """Seconds by clock, those of the running ones up to now."""
        now = self._now()
        self._count_waits()
        seconds = self.seconds.copy()
        for name, start in reversed(self._running):
            seconds[name] += now - sum(seconds.values()) - start
        return seconds

    def waiting(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches; the time that the device has nothing to do until each is there goes to ``data``."""
        return self._waiting_cuda(batches) if self._device.type == "cuda" else self._waiting_cpu(batches)

    def _waiting_cpu(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        start = time.perf_counter()
        for batch in batches:
            self.seconds["data"] += time.perf_counter() - start
            yield batch
            start = time.perf_counter()

    def _waiting_cuda(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        # The host runs ahead of the device, so its clock would count waits that cost nothing.
        done = self._mark()
        for batch in batches:
            self._waits.append((done, self._mark()))
            yield batch
            done = self._mark()

    def _count_waits(self) -> None:
        """Add up what the device waited; it has just been waited for."""
        self.seconds["data"] += sum(start.elapsed_time(end) for start, end in self._waits) / 1000
        self._waits.clear()

    def _mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()
