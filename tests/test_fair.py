"""Fair comparisons: what the intervals say, and the command from tuning to verdict."""

import re
from pathlib import Path

import numpy as np
import pytest
from fake_runs import FakeRun
from matplotlib.figure import Figure
from pandas import DataFrame, read_csv
from pandas.testing import assert_frame_equal

from rescaler.cli import main
from rescaler.cli.sweeps import best_factors
from rescaler.errors import InputError
from rescaler.figures.compare import fair_figure
from rescaler.reference import read_reference
from rescaler.results.compare import compare, load_curves, read_curves, verdicts

SEEDS = range(4)
CURVES = {
    "target": ([0.25, 0.5, 0.75, 1.0], [0.80, 0.85, 0.89, 0.90]),
    "squeezed": ([0.3, 0.6], [0.80, 0.88]),
    "input_only": ([0.2, 0.4, 0.6], [0.80, 0.91, 0.895]),
    "rescaled": ([0.2, 0.6], [0.85, 0.899]),
}


def curves(spread: float = 0.001) -> DataFrame:
    """Epochs of four arms, which all gain from a good seed; kernel rescaling alternately a little more."""
    epochs = []
    for arm, (costs, accuracies) in CURVES.items():
        for seed in SEEDS:
            more = 0.002 * seed + (spread * (-1) ** seed if arm == "rescaled" else 0)
            for epoch, (cost, top1) in enumerate(zip(costs, accuracies, strict=True), start=1):
                shown = {"run": f"{arm}{seed}", "arm": arm, "seed": seed, "epoch": epoch}
                epochs.append({**shown, "cost": cost, "test_top1": top1 + more})
    return DataFrame(epochs)


def compared(spread: float = 0.001) -> DataFrame:
    return compare(curves(spread), margin=0.003).set_index("arm")


def test_arms_are_compared_by_seed_after_their_last_epoch() -> None:
    rows = compared()
    assert list(rows.index) == ["target", "squeezed", "input_only", "rescaled"]
    assert rows["top1"].to_dict() == pytest.approx(
        {"target": 0.903, "squeezed": 0.883, "input_only": 0.898, "rescaled": 0.902}
    )
    ours = rows.loc["rescaled"]
    assert ours["to_full"] == pytest.approx(-0.001)
    half = 3.1824463 * 0.0011547005 / 2  # Student's t for 4 pairs; the seeds' own spread is not in it
    assert (ours["to_full_low"], ours["to_full_high"]) == pytest.approx((-0.001 - half, -0.001 + half))
    assert rows.loc["squeezed", "ours"] == pytest.approx(0.019)


def test_an_arm_reaches_the_target_when_it_stays_there() -> None:
    reach = compared()["reach"]
    assert reach[["target", "input_only", "rescaled"]].tolist() == pytest.approx([1.0, float("nan"), 0.6], nan_ok=True)


@pytest.mark.parametrize(
    ("spread", "said"),
    [
        (0.0, "loses less than 0.3 points"),
        (0.001, "loses less than 0.3 points"),
        (0.01, "may lose more than 0.3 points"),
    ],
)
def test_the_verdict_is_of_the_whole_interval(spread: float, said: str) -> None:
    sentences = verdicts(compared(spread).reset_index(), margin=0.003)
    assert sentences[0] == f"Kernel rescaling, at 0.60 of the cost, {said} against the target in full."
    assert sentences[1] == "Kernel rescaling beats target, trained for less."
    told = "beats" if spread < 0.01 else "is not told apart from"
    assert sentences[2] == f"Kernel rescaling {told} progressive resizing."


def test_the_figure_has_a_curve_and_a_band_for_every_arm() -> None:
    figure = fair_figure(compare(curves()), curves())
    assert isinstance(figure, Figure)
    whole = figure.axes[0]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "Target in full, n = 4",
        "Target, trained for less, n = 4",
        "Progressive resizing, n = 4",
        "Kernel rescaling, n = 4",
    ]
    assert np.asarray(whole.lines[0].get_xydata())[-1] == pytest.approx([1.0, 90.3])
    assert len(whole.collections) == 4


def test_unfinished_runs_and_those_without_an_arm_do_not_count(tmp_path: Path) -> None:
    top1 = [0.1, 0.2, 0.3, 0.4]
    FakeRun("never", top1, variant="a").write(tmp_path / "without")
    with pytest.raises(InputError, match="no finished run of a fair comparison here"):
        load_curves(tmp_path)
    FakeRun("never", top1, variant="b", arm="squeezed").write(tmp_path / "done")
    FakeRun("never", top1, variant="c", arm="target", status="failed").write(tmp_path / "failed")
    assert load_curves(tmp_path)["arm"].tolist() == ["squeezed"] * 4
    FakeRun("never", top1, variant="d", arm="target", model="other").write(tmp_path / "other")
    with pytest.raises(InputError, match="runs of a comparison must agree in model; got overfeat_small, other"):
        load_curves(tmp_path)


def test_curves_come_back_from_their_csv(tmp_path: Path) -> None:
    FakeRun("never", [0.1, 0.2, 0.3, 0.4], arm="squeezed").write(tmp_path / "done")
    written = load_curves(tmp_path).drop(columns="folder")
    written.to_csv(tmp_path / "curves.csv", index=False)
    assert_frame_equal(read_curves(tmp_path / "curves.csv"), written, check_dtype=False, check_categorical=False)
    (tmp_path / "other.csv").write_text("arm,seed\n")
    with pytest.raises(InputError, match=r"other.csv must be from `rescaler fair --csv`; it has no cost, device"):
        read_curves(tmp_path / "other.csv")
    with pytest.raises(InputError, match=r"cannot read .*none.csv: .*No such file"):
        read_curves(tmp_path / "none.csv")


WORDS = [
    "data=synthetic", "data.train_images=160", "data.test_images=50", "schedule.epochs=2", "schedule.warmup_epochs=0",
    "optim.batch_size=16", "logger=none", "progress=false", "+model.widths=[4,4,4]", "+model.hidden=8", "device=cpu",
]  # fmt: skip


def test_the_command_tunes_on_a_holdout_and_tests_on_fresh_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["fair", *WORDS, "--seeds", "2", "--tuning-seeds", "1", "--lr", "0.1,1", "--folder", "f", "--csv", "f.csv"]
    main(words)
    out = capsys.readouterr().out
    assert re.search(r"^Target in full +1.00 +[\d.]+ ± [\d.]+ % ", out, flags=re.MULTILINE)
    assert "Kernel rescaling" in out
    assert "Learning rates, times the schedule's: target" in out
    results = read_csv(tmp_path / "f.csv")
    assert sorted(results["arm"].unique()) == ["input_only", "rescaled", "squeezed", "target"]
    assert results["cost"].max() == 1.0
    costs = results[results["arm"] != "target"].groupby("run")["cost"].max()
    assert costs.between(0.55, 0.6501).all()
    assert (tmp_path / "f" / "cost.png").stat().st_size > 10_000
    assert best_factors(tmp_path / "f" / "tuning").keys() == {"target", "squeezed", "input_only", "rescaled"}
    references = [read_reference(path) for path in (tmp_path / "ledger" / "reference").iterdir()]
    assert sorted((one.network, one.image_px) for one in references) == [
        ("pre-train", 17), ("pre-train", 17), ("target", 28)
    ]  # fmt: skip
    assert all(one.low_s <= one.step_s <= one.high_s for one in references)
    main([*words, "--folder", "g", "--tuned", "f"])  # all of it is in the ledger
    assert read_csv(tmp_path / "f.csv").equals(results)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--budget", "0"], "--budget must be above 0 and at most 1; got 0.0"),
        (["--seeds", "0"], "--seeds must be at least 1; got 0"),
        (["--lr", "1,x"], "--lr must be positive numbers, separated by commas; got 'x'"),
        (["--arms", "target,foo"], "arm/foo"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["fair", *WORDS, *words])
    assert problem in str(ended.value)
    assert not list(tmp_path.iterdir())


def test_reference_times_are_shown_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rescaler.measure._ROUND_S", 0)
    main(["measure", "schedule=linear", *WORDS])
    first = capsys.readouterr().out
    assert re.search(r"^pre-train +17 px +16 +[\d.]+ ms", first, flags=re.MULTILINE)
    assert re.search(r"As a setting: cost.reference=\[[\d.e-]+,[\d.e-]+\]", first)
    main(["measure", "schedule=linear", *WORDS])
    assert capsys.readouterr().out == first
    (path, *_) = (tmp_path / "ledger" / "reference").iterdir()
    path.write_text(path.read_text().replace("0.", "1.", 1))
    with pytest.raises(SystemExit, match="it is not what was written"):
        main(["measure", "schedule=linear", *WORDS])


def test_sizes_of_small_images_are_measured_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rescaler.measure._ROUND_S", 0)
    monkeypatch.chdir(tmp_path)
    main(["measure", "--sizes", "schedule=linear", *WORDS])
    shown = capsys.readouterr().out
    assert re.findall(r"^pre-train +(\d+) px", shown, flags=re.MULTILINE) == ["16", "17", "18"]
    assert re.findall(r"shrink\.image_px=(\d+) cost\.reference=\[", shown) == ["16", "17", "18"]
