import math

import pandas as pd
import pytest
from pandas import DataFrame

from rescaler.results import Difference, over_seeds, paired

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


def test_differences_that_are_all_but_equal_have_an_interval_without_width() -> None:
    # Ten points each, but for the last bits.
    found = paired(series(s0=0.8, s1=0.82, s2=0.81), series(s0=0.9, s1=0.92, s2=0.91))
    assert found is not None
    assert found.low == pytest.approx(-0.1)
    assert found.high == pytest.approx(-0.1)
    assert found.verdict() == "lost"


def rows(*runs: tuple[int, int, float]) -> DataFrame:
    """Finished runs: resize epoch, seed, accuracy."""
    frame = DataFrame(runs, columns=["resize_epoch", "seed", "best_top1"])
    frame["run"] = frame["network"] = frame["resize_epoch"].astype(str)
    frame = frame.assign(comparison="c", hold=False, distinction="", complete=True, estimated=False)
    return frame.assign(best_epoch=1, training_s=1.0, saved_fraction=0.0, held_epochs=0)


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


def test_over_seeds_judges_nothing_where_no_seed_has_a_target() -> None:
    row = over_seeds(rows((0, 0, 0.90), (2, 1, 0.89), (2, 2, 0.89))).set_index("network").loc["2"]
    assert (row["n"], row["pairs"], row["verdict"]) == (2, 0, None)
    assert row[["difference", "difference_low", "difference_high"]].isna().all()


def test_over_seeds_keeps_networks_of_which_nothing_finished() -> None:
    table = rows((0, 0, 0.90), (2, 0, 0.89))
    found = over_seeds(table.assign(complete=table["resize_epoch"] == 0)).set_index("network")
    assert found["n"].to_dict() == {"0": 1, "2": 0}
    assert found["seeds"].to_dict() == {"0": 1, "2": 1}
