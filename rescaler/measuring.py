"""Measurements that are repeated, side by side."""

import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple


class Spread(NamedTuple):
    """Median and range of a measurement repeated."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The spread of at least one value."""
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
    """Who measures when, round by round: forwards and backwards, so that nobody always follows the same other."""
    order = list(names)
    for _ in range(rounds):
        yield order
        order = order[::-1]
