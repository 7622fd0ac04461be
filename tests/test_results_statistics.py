import math

import pandas as pd
import pytest

from rescaler.results import Difference, paired

# Student's t with 2 degrees of freedom: 4.302653 bounds 95 %.
T_2 = 4.302653


def series(**values: float) -> "pd.Series[float]":
    return pd.Series({int(seed[1:]): value for seed, value in values.items()})


def test_a_paired_interval_is_students() -> None:
    found = paired(series(s0=0.89, s1=0.91, s2=0.93), series(s0=0.90, s1=0.90, s2=0.90))
    assert found is not None
    # Differences -1, 1, 3 points: mean 1, standard deviation 2.
    assert found.n == 3
    assert found.mean == pytest.approx(0.01)
    assert found.low == pytest.approx(0.01 - T_2 * 0.02 / math.sqrt(3), rel=1e-6)
    assert found.high == pytest.approx(0.01 + T_2 * 0.02 / math.sqrt(3), rel=1e-6)


def test_pairs_are_of_the_same_seed() -> None:
    # Level seed by seed, although the means over all seeds are far apart.
    found = paired(series(s0=0.5, s1=0.7), series(s1=0.7, s0=0.5, s2=0.1))
    assert found == Difference(2, 0.0, 0.0, 0.0)


def test_one_pair_tells_nothing_of_the_spread() -> None:
    found = paired(series(s3=0.91), series(s3=0.90))
    assert found is not None
    assert found.mean == pytest.approx(0.01)
    assert found.verdict() == "not enough runs to tell"


def test_no_pair_no_difference() -> None:
    assert paired(series(s0=0.9), series(s1=0.9)) is None


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.004, -0.001, "preserved"),  # surely lower, but by less than half a point
        (-0.004, 0.2, "preserved"),
        (-0.02, -0.006, "lost"),
        (-0.02, -0.005, "not enough runs to tell"),
        (-0.005, 0.01, "not enough runs to tell"),
        (-0.02, 0.01, "not enough runs to tell"),
        (-math.inf, math.inf, "not enough runs to tell"),
    ],
)
def test_verdict_at_half_a_point(low: float, high: float, verdict: str) -> None:
    assert Difference(3, (low + high) / 2, low, high).verdict() == verdict


def test_a_wider_margin_forgives_more() -> None:
    assert Difference(3, -0.01, -0.015, -0.006).verdict(0.02) == "preserved"
