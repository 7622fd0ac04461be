"""How accuracies, shares, differences and times are written."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from rescaler.results.labels import time_unit

NONE = "–"
"""Shown where there is no value."""


@dataclass(frozen=True)
class Quantity:
    """How numbers of a kind are written."""

    scale: float
    decimals: int
    unit: str
    sign: str = ""

    def show(self, value: float) -> str:
        """One number, or :data:`NONE` where it is missing."""
        return NONE if pd.isna(value) else f"{self._number(value)}{self.unit}"

    def over_runs(self, row: "pd.Series[Any]", key: str) -> str:
        """Mean, with its standard deviation where several runs have the quantity."""
        if pd.isna(row[f"{key}_sd"]):
            return self.show(row[key])
        return f"{self._number(row[key])} ± {self._number(row[f'{key}_sd'])}{self.unit}"

    def _number(self, value: float) -> str:
        return f"{self.scale * value:{self.sign}z.{self.decimals}f}".replace("-", "−")


ACCURACY = Quantity(100, 2, " %")
SHARE = Quantity(100, 1, " %")
POINTS = Quantity(100, 2, "", "+")
HOURS = Quantity(1 / 3600, 1, " h")
COUNT = Quantity(1, 0, "")
MORE = Quantity(1, 1, "", "+")


def time_quantity(longest_s: float) -> Quantity:
    """Times of up to ``longest_s`` seconds, given in seconds."""
    unit, unit_s = time_unit(longest_s)
    return Quantity(1 / unit_s, 1 if longest_s / unit_s >= 100 else 2, f" {unit}")


def interval(row: "pd.Series[Any]") -> str:
    """Difference to the target of the same seed, with its 95 % interval, and of how many seeds where some have none."""
    pairs = row["pairs"]
    if pairs == 0:
        return NONE
    more = []
    if pairs > 1:
        more.append(f"{POINTS.show(row['difference_low'])} to {POINTS.show(row['difference_high'])}")
    if pairs < row["n"]:
        more.append(f"{pairs} of {row['n']} seeds")
    return POINTS.show(row["difference"]) + (f" ({'; '.join(more)})" if more else "")
