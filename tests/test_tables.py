import io
import re
from pathlib import Path

import pandas as pd
import pytest
from fake_runs import FakeRun, write
from rich.console import Console

from rescaler.cli import main
from rescaler.sweep.local import show_results

PRETRAIN = FakeRun("never", [0.5, 0.6, 0.7, 0.65])
TARGET = FakeRun(0, [0.5, 0.7, 0.8, 0.9])
RESIZED = FakeRun(2, [0.5, 0.6, 0.55, 0.8834])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for run in (PRETRAIN, TARGET, RESIZED):
        run.write(tmp_path / "runs" / str(run.resize_epoch))
    return tmp_path / "runs"


def tables(*arguments: str | Path) -> None:
    main(["tables", *map(str, arguments)])


def shown(*runs: FakeRun, folder: Path) -> str:
    stream = io.StringIO()
    show_results([write(folder, *runs)], plot=None, console=Console(file=stream, width=160))
    return stream.getvalue()


def test_markdown_is_the_papers_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables(folder, "--markdown", "-")
    assert capsys.readouterr().out == (
        "### table2: overfeat_small on fashion_mnist, 4 epochs, cpu A\n\n"
        "| Network | Last accuracy | Best accuracy (epoch) | Training time | Time saved |\n"
        "| :--- | ---: | ---: | ---: | ---: |\n"
        "| Pre-train (17×17) | 65.00 % | 70.00 % (3) | 4.00 s | 12.00 s (75.0 %) |\n"
        "| Target (28×28) | 90.00 % | 90.00 % (4) | 16.00 s | – |\n"
        "| Resized at epoch 2 | 88.34 % | 88.34 % (4) | 10.50 s | 5.50 s (34.4 %) |\n\n"
        "Training time if each run had run alone: 30.50 s; "
        "computed once with the shared trunk: 28.50 s (6.6 % less)\n\n"
        "Evaluation, not counted above: 10.00 s (26.0 % of all the time)\n"
    )


def test_terminal_shows_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables(folder)
    out = capsys.readouterr().out
    for text in ("overfeat_small", "Resized at epoch 2", "88.34 % (4)", "5.50 s (34.4 %)", "28.50 s (6.6 % less)"):
        assert text in out
    assert "Status" not in out
    assert "Seed" not in out
    assert "~" not in out


def test_piped_csv_is_clean(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables(folder, "--csv", "-")
    output = capsys.readouterr()
    rows = pd.read_csv(io.StringIO(output.out)).set_index("resize_epoch")
    assert rows["saved_s"].dropna().to_dict() == {"never": 12.0, "2": 5.5}
    assert rows.loc["2", "best_top1"] == 0.8834
    assert "Resized at epoch 2" in output.err, "the tables are still seen"


def test_files_are_written(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    csv, markdown, plot = tmp_path / "new" / "t.csv", tmp_path / "t.md", tmp_path / "t.svg"
    tables(folder, "--csv", csv, "--markdown", markdown, "--plot", plot)
    assert len(pd.read_csv(csv)) == 3
    assert markdown.read_text().startswith("### table2")
    assert plot.is_file()
    assert str(plot) in capsys.readouterr().out


def test_epochs_reads_the_table_earlier(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables(folder, "--epochs", "3", "--markdown", "-")
    out = capsys.readouterr().out
    assert ", 3 epochs, " in out
    assert "| Resized at epoch 2 | 55.00 % | 55.00 % (3) | 6.50 s | 5.50 s (45.8 %) |" in out


def test_default_folder_is_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    tables()
    monkeypatch.chdir(folder / "0")
    with pytest.raises(SystemExit, match="error: no runs in runs"):
        tables()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "--epochs must be at least 1; got 0"),
        (["--plot", "p.gif"], r"the file of a figure must end in \.png"),
        (["--margin", "-1"], "--margin must be between 0 and 100 points; got -1"),
    ],
)
def test_bad_options_are_named(
    folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=message):
        tables(folder, *arguments)
    assert capsys.readouterr().out == "", "nothing is printed that has to be read again"


@pytest.mark.parametrize(("slow_s", "is_said"), [(4.3, False), (5.0, True)])
def test_a_device_that_was_not_equally_fast_is_said(tmp_path: Path, slow_s: float, is_said: bool) -> None:
    slow = FakeRun(1, [0.5, 0.6, 0.7, 0.8], target_s=slow_s)
    note = (
        "The device was not equally fast in all runs: an epoch of the target network took 4.00 s in one and 5.00 s in "
        "another (25.0 % more), medians;"
    )
    assert (note in " ".join(shown(TARGET, slow, folder=tmp_path).split())) == is_said


def test_estimates_are_marked_and_explained(tmp_path: Path) -> None:
    out = shown(RESIZED, folder=tmp_path)
    assert "~5.50 s (34.4 %)" in out
    assert "~ estimated from the run's own target epochs; run resize_epoch=0 to measure" in out
    assert "alone" not in out, "a single run shares nothing"


def test_unfinished_runs_say_so(tmp_path: Path) -> None:
    failed = FakeRun(2, [], status="failed", error="cannot write [/x]: No space left | on device")
    running = FakeRun(3, [0.5] * 4, status="running", hold=True, held=1)
    out = shown(TARGET, failed, running, folder=tmp_path)
    assert re.search(r"Target .* –  done *\n", out)
    assert re.search(
        r"Resized at epoch 2  +–  +–  +–  +–  failed, 0 of 4 epochs: cannot write \[/x\]: No space left", out
    )
    assert "cannot write [/x]: No space left | on device" in out
    assert "Resized at epoch 3 (held, +1 epoch) " in out
    assert "running, 4 of 5 epochs" in out


def test_a_finished_run_whose_metrics_lack_epochs_is_not_taken_for_whole(tmp_path: Path) -> None:
    path = RESIZED.write(tmp_path / "cut") / "metrics.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    assert "done, 2 of 4 epochs in its metrics" in shown(TARGET, folder=tmp_path)


@pytest.mark.parametrize("number", ["2", "3", "4"])
def test_the_papers_tables_in_every_form(folder: Path, tmp_path: Path, number: str) -> None:
    files = {kind: tmp_path / f"t.{kind}" for kind in ("csv", "markdown", "latex")}
    tables(folder, "--table", number, *(part for kind, file in files.items() for part in (f"--{kind}", file)))
    assert "not run" in files["markdown"].read_text()
    assert r"\bottomrule" in files["latex"].read_text()
    assert {"row", "paper_top1", "n"} <= set(pd.read_csv(files["csv"]).columns)


def test_different_devices_are_told(tmp_path: Path) -> None:
    out = shown(TARGET, FakeRun(2, [0.5] * 4, device="cpu B"), folder=tmp_path)
    assert "times do not compare. cpu A: Target (28×28); cpu B: Resized at epoch 2" in out


def test_comparisons_are_separate_tables(tmp_path: Path) -> None:
    out = shown(TARGET, FakeRun(0, [0.5] * 4, comparison="deadbeef01"), folder=tmp_path)
    assert out.count("Best accuracy (epoch)") == 2
    assert "(comparison deadbeef)" in out


def test_comparisons_of_the_same_heading_say_what_tells_them_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    others = {"c0ffee00": 16, "deadbeef01": 32, "abad1dea02": 64}
    for comparison, batch_size in others.items():
        model = "resnet_small" if batch_size == 64 else "overfeat_small"
        folder = FakeRun(0, [0.5] * 4, comparison=comparison, model=model).write(tmp_path / comparison)
        (folder / "config.yaml").write_text(f"optim: {{batch_size: {batch_size}, momentum: 0.9}}\nseed: {batch_size}\n")
    tables(tmp_path)
    out = capsys.readouterr().out
    assert out.count("Where those of the same heading differ") == 2
    assert "Where those of the same heading differ: optim.batch_size=16\n" in out
    assert "Where those of the same heading differ: optim.batch_size=32\n" in out


@pytest.mark.parametrize(
    ("target_s", "time"),
    [(2.0, "8.00 s"), (149.9, "599.6 s"), (150.0, "10.00 min"), (17611.2, "19.57 h"), (1e5, "111.1 h")],
)
def test_times_have_one_readable_unit(tmp_path: Path, target_s: float, time: str) -> None:
    assert f" {time} " in shown(FakeRun(0, [0.5] * 4, target_s=target_s), folder=tmp_path)


def test_several_seeds_are_summed_up(tmp_path: Path) -> None:
    # Mean of 80, 82 and 84 % is 82, their standard deviation 2; each run takes 2 + 2 * 4 + 0.5 of the target's 16 s.
    resized = [FakeRun(2, [0.5, 0.6, 0.55, top1], seed=seed) for seed, top1 in enumerate((0.80, 0.82, 0.84))]
    targets = [FakeRun(0, [0.5, 0.7, 0.8, 0.9], seed=seed) for seed in range(3)]
    text = shown(*resized, *targets, FakeRun("never", [0.5], status="running"), folder=tmp_path)
    assert (
        "Resized at epoch 2, 3 seeds: 82.00 ± 2.00 %, 10.50 ± 0.00 s, 34.4 ± 0.0 % saved; accuracy: lost, −8.00 ("
        in text
    )
    assert "Target (28×28), 3 seeds: 90.00 ± 0.00 %, 16.00 ± 0.00 s\n" in text
    assert "Pre-train (17×17), " not in text
    assert [line.split()[2] for line in text.splitlines() if line.startswith("Target (28×28)  ")] == ["0", "1", "2"]


def test_what_one_of_several_seeds_has_alone_has_no_spread(tmp_path: Path) -> None:
    # Without a target of its seed, the time that a pre-train baseline saves is not known.
    pretrain = [FakeRun("never", [0.5] * 4, seed=seed) for seed in (0, 1)]
    text = shown(TARGET, *pretrain, folder=tmp_path)
    assert "Pre-train (17×17), 2 seeds: 50.00 ± 0.00 %, 4.00 ± 0.00 s, 75.0 % saved\n" in text
