import json
import logging
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fake_runs import FakeRun, load, write
from pandas import DataFrame

from rescaler.errors import InputError
from rescaler.results import (
    cost,
    headings,
    load_epochs,
    load_runs,
    network_label,
    over_seeds,
    read_at,
    table,
)

PRETRAIN = FakeRun("never", [0.5, 0.6, 0.7, 0.7])
TARGET = FakeRun(0, [0.5, 0.7, 0.8, 0.9])
RESIZED = FakeRun(2, [0.5, 0.6, 0.55, 0.88])


def early(folder: Path, last_epoch: int) -> tuple[DataFrame, DataFrame]:
    runs = read_at(load_runs([folder]), last_epoch)
    return runs, load_epochs(runs)


def test_load_runs_finds_them_at_any_depth_and_each_once(tmp_path: Path) -> None:
    PRETRAIN.write(tmp_path / "a")
    TARGET.write(tmp_path / "b" / "c" / "d")
    runs = load_runs([tmp_path / "a", tmp_path / "b", tmp_path])
    assert list(runs["folder"]) == [tmp_path / "a", tmp_path / "b" / "c" / "d"]
    assert list(runs["resize_epoch"]) == ["never", 0]


def test_load_runs_keeps_the_furthest_copy_the_newest_of_equals(tmp_path: Path) -> None:
    # 13:30 at two hours east of Greenwich is 11:30 UTC, before 12:00 UTC.
    FakeRun(2, [0.5], updated="2024-05-01T13:30:00+02:00").write(tmp_path / "a")
    FakeRun(2, [0.5], updated="2024-05-01T12:00:00+00:00").write(tmp_path / "b")
    FakeRun(2, [0.5], updated="2024-05-01T11:00:00+00:00").write(tmp_path / "c")
    assert list(load_runs([tmp_path])["folder"]) == [tmp_path / "b"]
    FakeRun(2, [0.5, 0.6], updated="2024-04-01T12:00:00+00:00").write(tmp_path / "d")
    assert list(load_runs([tmp_path])["folder"]) == [tmp_path / "d"]


@pytest.mark.parametrize(
    "text",
    [
        '{"run": "a', "[]", '{"run": "a"}', "\x00", '"run"', {"seed": "0"}, {"resize_epoch": None},
        {"resize_epoch": "auto"}, {"updated": "yesterday"},
    ],
)  # fmt: skip
def test_load_runs_skips_what_is_no_summary(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str | dict[str, Any]
) -> None:
    write(tmp_path, TARGET)
    foreign = FakeRun(1, [0.5]).write(tmp_path / "foreign") / "summary.json"
    foreign.write_text(text if isinstance(text, str) else json.dumps(json.loads(foreign.read_text()) | text))
    with caplog.at_level(logging.WARNING):
        assert len(load_runs([tmp_path])) == 1
    (record,) = caplog.records
    assert str(foreign) in record.message
    assert "\n" not in record.message
    assert isinstance(text, str) or next(iter(text)) in record.message or "yesterday" in record.message


def test_load_runs_names_a_source_without_runs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InputError, match=r"^no runs in .*empty: it must be"):
        load_runs([tmp_path / "empty"])
    with pytest.raises(InputError, match=r"^none of the sources has runs: .*empty, .*gone$"):
        load_runs([tmp_path / "empty", tmp_path / "gone"])
    with pytest.raises(InputError, match=r"^no source of runs was named"):
        load_runs([])
    caplog.clear()
    write(tmp_path / "full", TARGET)
    assert len(load_runs([tmp_path / "empty", tmp_path / "full"])) == 1
    (message,) = caplog.messages
    assert message.startswith(f"left out a source: no runs in {tmp_path / 'empty'}: it must be")


def test_load_epochs_adds_up_training_time(tmp_path: Path) -> None:
    _, epochs = load(tmp_path, RESIZED)
    # Two epochs of 1 s, the rescale of 0.5 s, two epochs of 4 s.
    assert list(epochs["training_s"]) == [1, 1, 4.5, 4]
    assert list(epochs["time_s"]) == [1, 2, 6.5, 10.5]
    assert list(epochs["rescaled"]) == [False, False, True, False]
    assert set(epochs["run"]) == {RESIZED.run}
    assert set(epochs["torch"]) == {"2.10"}
    path = tmp_path / "0" / "metrics.csv"
    pd.read_csv(path).assign(compile_s=2.0).to_csv(path, index=False)
    assert list(load(tmp_path)[1]["training_s"]) == [3, 3, 6.5, 6]


def test_load_epochs_leaves_out_what_the_summary_does_not_count_yet(tmp_path: Path) -> None:
    write(tmp_path, TARGET)
    runs = load_runs([tmp_path]).assign(epochs=3)
    assert list(load_epochs(runs)["epoch"]) == [1, 2, 3]


@pytest.mark.parametrize("text", [None, "", "epoch\n1\n", "\x00"])
def test_load_epochs_names_damaged_metrics(tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str | None) -> None:
    write(tmp_path, TARGET, PRETRAIN)
    path = tmp_path / "0" / "metrics.csv"
    path.unlink()
    if text is not None:
        path.write_text(text)
    runs, epochs = load(tmp_path)
    (message,) = caplog.messages
    assert message.startswith(f"skipped {path}, which is not the metrics of a run (")
    assert "\n" not in message
    assert set(epochs["run"]) == {PRETRAIN.run}
    target = table(runs, epochs).set_index("resize_epoch").loc[0]
    assert pd.isna(target["training_s"])


def test_table_has_the_papers_order_and_labels(tmp_path: Path) -> None:
    held = FakeRun(2, [0.5, 0.6, 0.7, 0.6, 0.7, 0.7], hold=True, held=2)
    assert network_label(0, image_px=28, hold=True, held_epochs=0) == "Target (28×28)"
    rows = table(*load(tmp_path, held, FakeRun(10, [0.1], status="running"), RESIZED, TARGET, PRETRAIN))
    assert list(rows["network"]) == [
        "Pre-train (17×17)",
        "Target (28×28)",
        "Resized at epoch 2",
        "Resized at epoch 2 (held, +2 epochs)",
        "Resized at epoch 10",
    ]


def test_table_saves_against_the_target(tmp_path: Path) -> None:
    rows = table(*load(tmp_path, PRETRAIN, TARGET, RESIZED))
    assert list(rows["training_s"]) == [4, 16, 10.5]
    assert rows["saved_s"].fillna(-1).tolist() == [12, -1, 5.5]
    assert rows["saved_fraction"].fillna(-1).tolist() == [0.75, -1, 0.34375]
    assert not rows["estimated"].any()
    assert list(rows["best_top1"]) == [0.7, 0.9, 0.88]
    assert list(rows["best_epoch"]) == [3, 4, 4], "the first of equal accuracies"
    assert list(rows["evaluation_s"]) == [4, 4, 4]


def test_table_gives_the_papers_hours(tmp_path: Path) -> None:
    hours = {"pretrain_s": 106.8 / 55, "target_s": 269.1 / 55, "epochs_planned": 55}
    target, resized = FakeRun(0, [0.5] * 55, **hours), FakeRun(17, [0.5] * 55, **hours)  # type: ignore[arg-type]
    rows = table(*load(tmp_path, target, resized)).set_index("resize_epoch")
    # Table 2: resized at epoch 17 takes 220.0 h and saves 18.25 %; the fake rescale takes 0.5.
    assert rows.loc[17, "training_s"] == pytest.approx(220.0, rel=0.005)
    assert rows.loc[17, "saved_fraction"] == pytest.approx(0.1825, abs=0.005)


def test_table_without_a_finished_target_estimates_its_time(tmp_path: Path) -> None:
    unfinished = FakeRun(0, [0.5, 0.6], status="running")
    rows = table(*load(tmp_path, PRETRAIN, unfinished, RESIZED)).set_index("resize_epoch")
    # Four target epochs of 4 s; the run's own took 4 s each, its rescale not counted.
    assert rows.loc[2, "saved_s"] == 5.5
    assert rows.loc[2, "estimated"]
    assert rows["saved_s"].notna().to_dict() == {"never": False, 0: False, 2: True}, "no target epochs; unfinished"
    assert rows["estimated"].to_dict() == {"never": False, 0: False, 2: True}


def test_table_estimate_counts_what_compiling_the_target_took(tmp_path: Path) -> None:
    runs, epochs = load(tmp_path, RESIZED)
    compiled = epochs.assign(compile_s=3.0 * (epochs["epoch"] == 3) + 100.0 * (epochs["epoch"] == 1))
    plain, slower = (table(runs, each)["saved_s"][0] for each in (epochs, compiled))
    assert slower == plain + 3.0, "the target would compile too, but no pre-train network"


def test_table_says_nothing_of_time_saved_by_an_unfinished_run(tmp_path: Path) -> None:
    failed = FakeRun(2, [0.5, 0.6, 0.7], status="failed", error="loss is nan")
    rows = table(*load(tmp_path, TARGET, failed)).set_index("resize_epoch")
    assert rows["saved_s"].isna().all()
    assert rows.loc[2, "training_s"] == 6.5
    assert rows.loc[2, "error"] == "loss is nan"


def test_table_compares_within_a_seed(tmp_path: Path) -> None:
    runs = [FakeRun(0, [0.5] * 4, seed=seed, target_s=target_s) for seed, target_s in ((0, 4.0), (1, 5.0))]
    runs += [FakeRun(2, [0.5] * 4, seed=seed) for seed in (1, 0)]
    rows = table(*load(tmp_path, *runs)).set_index(["resize_epoch", "seed"])
    assert list(rows.index) == [(0, 0), (0, 1), (2, 0), (2, 1)]
    assert rows.loc[(2, 0), "saved_s"] == 5.5
    assert rows.loc[(2, 1), "saved_s"] == 9.5


def test_table_keeps_comparisons_apart(tmp_path: Path) -> None:
    other = [FakeRun(k, [0.5] * 4, comparison="deadbeef01") for k in (0, 2)]
    rows = table(*load(tmp_path, RESIZED, other[1], other[0]))
    assert list(rows["comparison"]) == ["c0ffee00", "deadbeef01", "deadbeef01"]
    assert list(rows["estimated"]) == [True, False, False]


def test_read_at_an_earlier_epoch(tmp_path: Path) -> None:
    target = FakeRun(0, [0.5, 0.6, 0.7], status="running")
    rows = table(*early(write(tmp_path, PRETRAIN, target, RESIZED), 3))
    assert list(rows["training_s"]) == [3, 12, 6.5]
    assert rows["saved_s"].fillna(-1).tolist() == [9, -1, 5.5]
    assert list(rows["status"]) == ["done"] * 3
    assert list(rows["best_top1"]) == [0.7, 0.7, 0.55], "a pre-train epoch of a resized run does not count"
    assert list(rows["final_top1"]) == [0.7, 0.7, 0.55]
    pd.testing.assert_frame_equal(table(*early(tmp_path, 99)), table(*load(tmp_path)))
    with pytest.raises(InputError, match=r"last_epoch must be at least 1; got 0"):
        early(tmp_path, 0)


def test_held_epochs_are_left_out_of_the_targets_estimate_once(tmp_path: Path) -> None:
    write(tmp_path, FakeRun(2, [0.5, 0.6, 0.7, 0.6, 0.7, 0.7], hold=True, held=2))
    (row,) = table(*load(tmp_path)).to_dict("records")
    assert (row["training_s"], row["held_epochs"]) == (18.5, 2)
    # Up to epoch 4 (two of 1 s, two of 4 s, the rescale), up to 6, and beyond; the target would end at 4 in any case.
    assert [table(*early(tmp_path, last_epoch))["saved_s"][0] for last_epoch in (4, 6, 9)] == [5.5, -2.5, -2.5]


def test_cost_counts_shared_epochs_once(tmp_path: Path) -> None:
    _, epochs = load(tmp_path, PRETRAIN, TARGET, RESIZED)
    spent = cost(epochs)
    assert spent.alone_s == 4 + 16 + 10.5
    assert spent.shared_s == spent.alone_s - 2, "the first two epochs of PRETRAIN and RESIZED are the same"
    assert spent.evaluation_s == 10


def test_cost_of_the_papers_figure_6(tmp_path: Path) -> None:
    resized = [*range(17, 21), *range(28, 32), *range(42, 46), *range(51, 55)]
    # Hours, not seconds: a thousandfold makes the fake rescales of 0.5 too small to count.
    hours = {"pretrain_s": 106.8e3 / 55, "target_s": 269.1e3 / 55, "epochs_planned": 55}
    runs = [FakeRun(k, [0.5] * 55, **hours) for k in ("never", 0, *resized)]  # type: ignore[arg-type]
    spent = cost(load(tmp_path, *runs)[1])
    assert spent.alone_s / 1000 == pytest.approx(2982, abs=1)
    assert spent.shared_s / 1000 == pytest.approx(1863, abs=1)


def test_headings_tell_equal_ones_apart(tmp_path: Path) -> None:
    held = FakeRun(2, [0.5] * 6, hold=True, held=2, comparison="deadbeef01")
    rows = table(*load(tmp_path, TARGET, held))
    text = "table2: overfeat_small on fashion_mnist, 4 epochs, cpu A"
    assert headings(rows[:1]) == {"c0ffee00": text}
    assert headings(rows[:1].assign(name="fashion_mnist_overfeat_small")) == {"c0ffee00": text.removeprefix("table2: ")}
    assert headings(rows)["deadbeef01"] == f"{text} (comparison deadbeef)"


def test_seeds_of_other_settings_are_not_averaged(tmp_path: Path) -> None:
    """Whichever seeds there are of each: those of one setting are one row, and nothing else is in it."""
    bilinear = [FakeRun(1, [0.5, 0.6], variant="bilinear", seed=seed, epochs_planned=2) for seed in (0, 1, 2)]
    fitted = [FakeRun(1, [0.5, 0.7], variant="fit", seed=seed, epochs_planned=2) for seed in (0, 3)]
    seeds = over_seeds(table(*load(tmp_path, *bilinear, *fitted))).set_index("distinction")
    assert seeds["n"].to_dict() == {"bilinear": 3, "fit": 2}
    assert seeds["best_top1"].round(6).to_dict() == {"bilinear": 0.6, "fit": 0.7}


@pytest.mark.parametrize(
    ("variants", "told"),
    [
        (
            ("3->2; bicubic", "3->2; bilinear", "3->2; bilinear; BatchNorm recalibrated"),
            (" [bicubic]", " [bilinear]", " [bilinear; BatchNorm recalibrated]"),
        ),
        (("a=1; bilinear", "a=1; a=1; bilinear"), (" [a=1; bilinear]", " [a=1; a=1; bilinear]")),
        (("3->2; 5 calibration batches", "3->2"), (" [5 calibration batches]", "")),
    ],
)
def test_runs_of_other_settings_are_told_apart_by_what_differs(
    tmp_path: Path, variants: tuple[str, ...], told: tuple[str, ...]
) -> None:
    runs, epochs = load(tmp_path, *(FakeRun(2, [0.5, 0.6], variant=variant) for variant in variants), TARGET)
    resized = [f"Resized at epoch 2{words}" for words in told]
    assert set(table(runs, epochs)["network"]) == {*resized, "Target (28×28)"}
