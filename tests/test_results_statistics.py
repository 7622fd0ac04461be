import math
from typing import Any

import pandas as pd
import pytest
from pandas import DataFrame

from rescaler.results import over_seeds
from rescaler.results.tables import verdict

# Student's t with 2 degrees of freedom: 4.302653 bounds 95 %.
T_2 = 4.302653


def rows(*runs: tuple[int, int, float]) -> DataFrame:
    """Finished runs: resize epoch, seed, accuracy."""
    frame = DataFrame(runs, columns=["resize_epoch", "seed", "best_top1"])
    frame["run"] = frame["network"] = frame["resize_epoch"].astype(str)
    frame = frame.assign(comparison="c", model="m", hold=False, distinction="", complete=True, estimated=False)
    return frame.assign(best_epoch=1, training_s=1.0, saved_fraction=0.0, held_epochs=0)


def judged(target: list[float], resized: list[float]) -> "pd.Series[Any]":
    """What is said of a resized network; accuracies of both by seed."""
    runs = [(k, seed, top1) for k, each in ((0, target), (2, resized)) for seed, top1 in enumerate(each)]
    return over_seeds(rows(*runs)).iloc[1]


def test_the_interval_is_students_over_pairs_of_the_same_seed() -> None:
    row = judged([0.90, 0.90, 0.90], [0.89, 0.91, 0.93])
    # Differences -1, 1, 3 points: mean 1, standard deviation 2.
    assert row["pairs"] == 3
    assert row["difference"] == pytest.approx(0.01)
    assert row["difference_low"] == pytest.approx(0.01 - T_2 * 0.02 / math.sqrt(3), rel=1e-6)
    assert row["difference_high"] == pytest.approx(0.01 + T_2 * 0.02 / math.sqrt(3), rel=1e-6)
    # Level seed by seed, although the means over all seeds are far apart.
    row = judged([0.5, 0.7, 0.1], [0.5, 0.7])
    assert (row["pairs"], row["difference"], row["difference_low"], row["difference_high"]) == (2, 0, 0, 0)


@pytest.mark.parametrize(("target", "pairs", "verdict"), [([0.90], 1, "not enough runs to tell"), ([], 0, None)])
def test_one_pair_or_none_tells_nothing_of_the_spread(target: list[float], pairs: int, verdict: str | None) -> None:
    row = over_seeds(rows(*((0, 0, top1) for top1 in target), (2, 0, 0.91))).iloc[-1]
    assert (row["n"], row["pairs"], row["verdict"]) == (1, pairs, verdict)
    assert row["difference"] == pytest.approx(0.01 if pairs else math.nan, nan_ok=True)
    assert row["difference_high"] == pytest.approx(math.inf if pairs else math.nan, nan_ok=True)


def test_differences_that_are_all_but_equal_have_an_interval_without_width() -> None:
    # Ten points each, but for the last bits.
    row = judged([0.9, 0.92, 0.91], [0.8, 0.82, 0.81])
    assert row["difference_low"] == pytest.approx(-0.1)
    assert row["difference_high"] == pytest.approx(-0.1)
    assert row["verdict"] == "lost"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
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
def test_verdict_at_half_a_point(low: float, high: float, expected: str) -> None:
    assert verdict(low, high) == expected
    assert verdict(-0.015, -0.006, 0.02) == "preserved", "a wider margin forgives more"


def test_over_seeds_pairs_what_has_a_target_of_its_seed() -> None:
    # Seed 2 has no target: it counts for the mean, not for the difference. Differences -1 and -3 points: mean -2,
    # standard deviation sqrt(2), and t(1) = 12.7062.
    found = over_seeds(rows((0, 0, 0.90), (0, 1, 0.92), (2, 0, 0.89), (2, 1, 0.89), (2, 2, 0.95))).set_index("network")
    row = found.loc["2"]
    assert (row["n"], row["pairs"]) == (3, 2)
    assert row["best_top1"] == pytest.approx(0.91)
    assert row["difference"] == pytest.approx(-0.02)
    assert row["difference_low"] == pytest.approx(-0.02 - 12.7062 * 0.01, rel=1e-5)
    assert row["verdict"] == "not enough runs to tell"
    assert found.loc["0", "pairs"] == 0
    assert found.loc["0", "verdict"] is None


def test_over_seeds_keeps_networks_of_which_nothing_finished() -> None:
    table = rows((0, 0, 0.90), (2, 0, 0.89))
    found = over_seeds(table.assign(complete=table["resize_epoch"] == 0)).set_index("network")
    assert found["n"].to_dict() == {"0": 1, "2": 0}
    assert found["seeds"].to_dict() == {"0": 1, "2": 1}
