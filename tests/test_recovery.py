"""Damaged files of a run: read from the ledger instead, or left out by name; never believed."""

import shutil
from pathlib import Path

import pytest
from conftest import MakeExperiment
from pandas import DataFrame
from pandas.testing import assert_frame_equal

from rescaler.errors import InputError
from rescaler.execution import execute
from rescaler.results import load_epochs, load_runs

FILES = ["summary.json", "metrics.csv"]
COMPARED = ["epochs", "status", "best_top1", "final_top1", "training_s", "reused_epochs", "computed_s"]


@pytest.fixture
def whole(tmp_path: Path, make_experiment: MakeExperiment) -> Path:
    """Folder of a finished run beside its ledger."""
    execute(make_experiment(ledger__folder=str(tmp_path / "project" / "ledger")), tmp_path / "project" / "0", group="")
    return tmp_path / "project" / "0"


def load(folder: Path) -> tuple[DataFrame, DataFrame]:
    runs = load_runs(folder)
    return runs[COMPARED], load_epochs(runs).fillna({"parent_digest": ""})


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << place % 7
    path.write_bytes(content)


@pytest.mark.parametrize("file", FILES)
def test_no_flipped_bit_changes_a_number(whole: Path, tmp_path: Path, file: str) -> None:
    runs, epochs = load(whole)
    copy = tmp_path / "project" / "copy"
    shutil.copytree(whole, copy)
    size = (copy / file).stat().st_size
    for place in range(5, size, size // 40):
        shutil.copy(whole / file, copy / file)
        flip(copy / file, place)
        found, theirs = load(copy)
        assert_frame_equal(found, runs)
        assert_frame_equal(theirs, epochs)


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_is_gone_or_cut_is_named_and_rebuilt(
    whole: Path, caplog: pytest.LogCaptureFixture, file: str
) -> None:
    runs, epochs = load(whole)
    text = (whole / file).read_text()
    for change in (None, "", text[: text.rindex("\n", 0, len(text) // 2) + 1]):
        (whole / file).unlink(missing_ok=True)
        if change is not None:
            (whole / file).write_text(change)
        caplog.clear()
        found, theirs = load(whole)
        assert f"{whole / file} is damaged" in caplog.text
        assert_frame_equal(found, runs)
        assert_frame_equal(theirs, epochs)


def test_a_run_in_a_moved_project_is_rebuilt(whole: Path, tmp_path: Path) -> None:
    runs, _ = load(whole)
    (whole / "summary.json").unlink()
    (tmp_path / "project").rename(tmp_path / "moved")
    assert_frame_equal(load(tmp_path / "moved" / "0")[0], runs)


def test_a_run_without_its_ledger_is_left_out_by_name(
    whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(tmp_path / "project" / "ledger")
    (whole / "summary.json").unlink()
    with pytest.raises(InputError, match="no runs in"):
        load_runs(whole)
    assert f"skipped {whole / 'summary.json'}, which is not the summary of a run" in caplog.text
