from rescaler.measuring import Spread, turns


def test_a_spread_is_median_and_range() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)


def test_ratios_are_by_round() -> None:
    assert Spread.of_ratios([6.0, 12.0], [3.0, 2.0]) == Spread(4.0, 2.0, 6.0)


def test_nobody_always_follows_the_same_other() -> None:
    assert list(turns("abc", 3)) == [["a", "b", "c"], ["c", "b", "a"], ["a", "b", "c"]]
