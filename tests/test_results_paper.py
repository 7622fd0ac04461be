"""Tables 2 to 4 as published, and ours beside them."""

from pathlib import Path

import pytest
from fake_runs import FakeRun, load
from pandas import DataFrame

from rescaler.results import (
    MARGIN,
    over_seeds,
    paper,
    paper_table,
    table,
    table2,
    table3,
    table4,
)  # fmt: skip
from rescaler.results.report import paper_reports
from rescaler.text import TextTable


def rows_of(folder: Path, *runs: FakeRun) -> tuple[DataFrame, DataFrame]:
    """The table of ``runs``, and their epochs."""
    loaded, epochs = load(folder, *runs)
    return table(loaded, epochs), epochs


def seeds(folder: Path, *runs: FakeRun, margin: float = MARGIN) -> DataFrame:
    rows, _ = rows_of(folder, *runs)
    return over_seeds(rows, margin=margin)


def reports(number: paper.TableNumber, folder: Path, *runs: FakeRun) -> list[TextTable]:
    rows, epochs = rows_of(folder, *runs)
    return paper_reports(number, paper_table(number, over_seeds(rows)), rows, epochs)


def resized(resize_epoch: int, top1: float = 0.89, *, seed: int = 0, held: int = 0, name: str = "c0ffee00") -> FakeRun:
    curve = [0.5] * (19 + held) + [top1]
    return FakeRun(
        resize_epoch, curve, seed=seed, hold=held > 0, held=held, epochs_planned=20, comparison=name
    )  # fmt: skip


def target(top1: float = 0.90, *, seed: int = 0, name: str = "c0ffee00") -> FakeRun:
    """20 epochs of 4 s. A run resized at 17 takes 17 * 1 + 3 * 4 + 0.5 = 29.5 s of these 80."""
    return FakeRun(0, [0.5] * 19 + [top1], seed=seed, epochs_planned=20, comparison=name)


def test_published_savings_are_those_of_the_conclusion(tmp_path: Path) -> None:
    # Section 6: 49.1 hours (18.25 %) and 33.7 hours (18.80 %); section 5.2: 30.7 hours (11.41 %).
    loaded = seeds(tmp_path, target())
    saved = [rows.set_index("row")["paper_saved_fraction"] for rows in (table2(loaded), table3(loaded), table4(loaded))]
    assert saved[0]["Resized at Epoch 17"] == pytest.approx(0.1825, abs=1e-4)
    assert saved[1]["Resized at Epoch 19 (Continued)"] == pytest.approx(0.1141, abs=1e-4)
    assert saved[2]["Resized at Epoch 29"] == pytest.approx(0.1880, abs=1e-3)


def test_ours_stand_beside_the_published_rows_with_the_differences(tmp_path: Path) -> None:
    runs = [run for seed in range(2) for run in (target(seed=seed), resized(17, 0.88 + 0.02 * seed, seed=seed))]
    rows = table2(seeds(tmp_path, *runs)).set_index("row")
    assert list(rows["n"]) == [0, 2, 2, 0, 0, 0], "rows without runs stay"
    row = rows.loc["Resized at Epoch 17"]
    assert (row["pairs"], row["best_top1_sd"]) == (2, pytest.approx(0.02 / 2**0.5))
    assert row["top1_difference"] == pytest.approx(0.89 - 0.5925)
    assert row["difference"] == pytest.approx(-0.01)
    assert row["paper_difference"] == pytest.approx(0.0)
    assert row["saved_fraction"] == pytest.approx(50.5 / 80)
    assert row["saved_difference"] == pytest.approx(50.5 / 80 - 49.1 / 269.1)
    assert row["verdict"] == "not enough runs to tell"
    forgiving = table2(seeds(tmp_path, margin=0.2)).set_index("row")
    assert forgiving["verdict"]["Resized at Epoch 17"] == "preserved"


def test_table_3_takes_held_runs_alone_and_table_2_the_others(tmp_path: Path) -> None:
    loaded = seeds(tmp_path, target(), resized(18, 0.88), resized(18, 0.91, held=3))
    held = table3(loaded).set_index("row").loc["Resized at Epoch 19 (Continued)"]
    assert (held["best_top1"], held["held_epochs"], held["paper_extra_epochs"]) == (0.91, 3, 5)
    assert table2(loaded).set_index("row").loc["Resized at Epoch 18", "best_top1"] == 0.88


def test_table_4_takes_residual_networks_and_names_the_first_target_epoch(tmp_path: Path) -> None:
    curve = [0.5] * 29 + [0.7]
    rows = table4(seeds(tmp_path / "a", FakeRun(28, curve, epochs_planned=30, model="resnet_small"))).set_index("row")
    assert list(rows["n"]) == [0, 0, 1, 0, 0, 0]
    assert rows.index[2] == "Resized at Epoch 29"
    # Figure 6 resizes OverFeat at epochs 28 and 29 too.
    assert (table4(seeds(tmp_path / "b", FakeRun(28, curve, epochs_planned=30)))["n"] == 0).all()


def test_comparisons_are_kept_apart(tmp_path: Path) -> None:
    runs = [target(), resized(17), target(name="deadbeef"), resized(19, name="deadbeef")]
    rows = table2(seeds(tmp_path, *runs))
    filled = rows[rows["n"] > 0].groupby("comparison")["row"].agg(list)
    assert filled["c0ffee00"] == ["Target (231×231)", "Resized at Epoch 17"]
    assert filled["deadbeef"] == ["Target (231×231)", "Resized at Epoch 19"]
    assert len(reports(2, tmp_path / "b", *runs)) == 2


def test_unfinished_runs_fill_no_row(tmp_path: Path) -> None:
    running = FakeRun(17, [0.5] * 18, epochs_planned=20, status="running")
    row = table2(seeds(tmp_path, running)).set_index("row").loc["Resized at Epoch 17"]
    assert (row["n"], row["seeds"]) == (0, 1)


def test_report_says_what_was_not_run(tmp_path: Path) -> None:
    (report,) = reports(3, tmp_path, target())
    assert [row[3] for row in report.rows if row[1] == "ours"] == ["not run"] * 3
    assert report.notes == ["Ours: none of these was run"]
    assert "59.36 % (59)" in report.markdown()
    latex = report.latex()
    assert r"\toprule" in latex
    assert r"59.36 \% (59)" in latex
    assert "×" not in latex


def test_report_says_of_how_many_seeds_a_difference_is(tmp_path: Path) -> None:
    # Seeds 0 and 1 have a target, seed 2 has none; of epoch 18, none has.
    runs = [target(seed=0), target(seed=1), *(resized(17, seed=seed) for seed in range(3)), resized(18, seed=2)]
    (report,) = reports(2, tmp_path, *runs)
    ours = [row[-2:] for row in report.rows if row[1].startswith("ours, n")]
    assert ours == [["–", ""], ["−1.00 (−1.00 to −1.00; 2 of 3 seeds)", "lost"], ["–", "not compared"]]


def test_report_tells_variants_apart(tmp_path: Path) -> None:
    curve = [0.5] * 20
    runs = [FakeRun(17, curve, epochs_planned=20, variant=variant) for variant in ("bicubic", "bilinear")]
    (report,) = reports(2, tmp_path, target(), *runs)
    assert [row[0] for row in report.rows if row[1] == "ours, n = 1"] == ["", "[bicubic]", "[bilinear]"]
