"""Where the time of an epoch goes."""

import contextlib
import functools
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

import torch

from rescaler.data.order import Batch

log = logging.getLogger(__name__)

_LOOK_S = 0.1
_LEAST_S = 1.0
"""Seconds between looks at the time, and between two of them that tell of a suspension."""


class Suspensions:
    """Finds the time in which the system had stopped this process (SIGSTOP, SLURM's suspend).

    A thread looks at the time again and again. Where it could not, and the process computed nothing, it was stopped.
    """

    def __init__(self) -> None:
        self._total_s = 0.0
        self._lock = threading.Lock()
        self._seen = time.monotonic(), time.process_time()
        threading.Thread(target=self._watch, daemon=True).start()

    def total_s(self) -> float:
        """Return the seconds up to now."""
        with self._lock:
            seen = time.monotonic(), time.process_time()
            passed_s, computed_s = (now - before for now, before in zip(seen, self._seen, strict=True))
            self._seen = seen
            if passed_s > _LEAST_S and computed_s < passed_s / 10:
                self._total_s += passed_s - _LOOK_S
                log.warning("the process was suspended for %.1f s, which count as no training time", passed_s)
            return self._total_s

    def _watch(self) -> None:
        while True:
            time.sleep(_LOOK_S)
            self.total_s()


@functools.cache
def _suspensions() -> Suspensions:
    return Suspensions()


class Clocks:
    """Wall-clock seconds of one epoch by what they were spent on; disjoint, and without suspensions.

    Args:
        device: whose work is waited for.
        seconds: those that an earlier attempt spent on the epoch.
    """

    def __init__(self, device: torch.device, seconds: Mapping[str, float] | None = None) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float, seconds or {})
        self._device = device
        self._running: list[tuple[str, float]] = []
        self._waits: list[tuple[torch.cuda.Event, torch.cuda.Event, float]] = []
        self._suspensions = _suspensions()

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
        start = self._now()
        for batch in batches:
            self.seconds["data"] += self._now() - start
            yield batch
            start = self._now()

    def _waiting_cuda(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        # The host runs ahead of the device, so its clock would count waits that cost nothing.
        done, suspended_s = self._mark(), self._suspensions.total_s()
        for batch in batches:
            self._waits.append((done, self._mark(), self._suspensions.total_s() - suspended_s))
            yield batch
            done, suspended_s = self._mark(), self._suspensions.total_s()

    def _count_waits(self) -> None:
        """Add up what the device waited; it has just been waited for."""
        waits = (start.elapsed_time(end) / 1000 - suspended_s for start, end, suspended_s in self._waits)
        self.seconds["data"] += sum(max(0.0, wait) for wait in waits)
        self._waits.clear()

    def _mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter() - self._suspensions.total_s()
