import os
from pathlib import Path

import pandas as pd
import pytest
from fake_runs import FakeRun
from pandas.testing import assert_frame_equal

from rescaler.results import load as load_module
from rescaler.results import load_epochs, load_runs
from rescaler.results.cache import Cache

COUNT = 100
"""Files from which on a copy is kept."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(COUNT):
        path = FakeRun(2, [0.5, 0.6, 0.55, 0.88], seed=number).write(tmp_path / f"{number:03}")
        settle(path)
    return tmp_path


def settle(path: Path) -> None:
    """Make files look as if written long ago: young ones are not copied."""
    for file in path.iterdir():
        os.utime(file, ns=(file.stat().st_mtime_ns - 10**10,) * 2)


@pytest.fixture
def read_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the run folders whose metrics were read from their own files."""
    read: list[str] = []
    original = load_module._metrics

    def counting(path: Path) -> pd.DataFrame | None:
        read.append(path.parent.name)
        return original(path)

    monkeypatch.setattr(load_module, "_metrics", counting)
    return read


def test_files_are_read_once(folder: Path, read_files: list[str]) -> None:
    first = load_epochs(load_runs(folder))
    assert len(read_files) == COUNT
    read_files.clear()
    runs = load_runs(folder)
    second = load_epochs(runs)
    assert read_files == []
    assert_frame_equal(first, second)
    assert len(second) == 4 * COUNT


def test_a_run_that_changed_is_read_again_and_no_other(folder: Path, read_files: list[str]) -> None:
    load_epochs(load_runs(folder))
    read_files.clear()
    metrics = folder / "007" / "metrics.csv"
    metrics.write_text(metrics.read_text().replace(",0.88,", ",0.99,"))
    settle(metrics.parent)
    epochs = load_epochs(load_runs(folder))
    assert read_files == ["007"]
    assert epochs.groupby("seed")["test_top1"].max()[7] == 0.99


def test_a_new_summary_is_seen(folder: Path) -> None:
    load_runs(folder)
    summary = folder / "007" / "summary.json"
    summary.write_text(summary.read_text().replace('"status": "done"', '"status": "dead"'))
    assert (load_runs(folder)["status"] == "dead").sum() == 1


def test_a_file_written_a_moment_ago_is_not_trusted(folder: Path, read_files: list[str]) -> None:
    os.utime(folder / "003" / "metrics.csv")
    load_epochs(load_runs(folder))
    read_files.clear()
    load_epochs(load_runs(folder))
    assert read_files == ["003"]


def test_runs_that_are_gone_and_parts_of_the_runs(folder: Path, read_files: list[str]) -> None:
    runs = load_runs(folder)
    load_epochs(runs)
    read_files.clear()
    for file in (folder / "099").iterdir():
        file.unlink()
    FakeRun(0, [0.9] * 4).write(folder / "100")
    left = load_runs(folder)
    epochs = load_epochs(left)
    assert len(left) == COUNT
    assert read_files == ["100"]
    assert set(epochs["seed"]) == set(range(99))
    assert len(load_epochs(left[left["seed"] < 2])) == 12  # the target's seed is 0
    read_files.clear()
    settle(folder / "100")
    load_epochs(left)
    assert read_files == ["100"], "it is copied now"
    read_files.clear()
    load_epochs(left)
    assert read_files == []


class Table:
    """A copied column of numbers, a file each, that counts how often it was read from its files."""

    def __init__(self, folder: Path) -> None:
        self.copy = folder / ".rescaler-numbers.cache"
        self.reads = 0
        self._cache = Cache(folder, "numbers", ["value"])

    def read(self) -> list[float]:
        self.reads = 0
        stamps = {str(number): "s" for number in range(COUNT)}
        return list(self._cache.read(stamps, self._read)["value"])

    def _read(self, file: str) -> pd.DataFrame:
        self.reads += 1
        return pd.DataFrame({"value": [int(file) / 7]})


@pytest.mark.parametrize("content", [b"", b"PAR1 nonsense", None])
def test_a_damaged_copy_is_ignored_and_replaced(tmp_path: Path, content: bytes | None) -> None:
    table = Table(tmp_path)
    expected = table.read()
    table.copy.write_bytes(table.copy.read_bytes()[:1000] if content is None else content)
    assert table.read() == expected
    assert table.reads == COUNT
    assert table.read() == expected
    assert table.reads == 0


def test_a_flipped_bit_anywhere_never_becomes_another_number(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = Table(tmp_path)
    expected = table.read()
    whole = table.copy.read_bytes()
    for position in range(0, len(whole), len(whole) // 15):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        table.copy.write_bytes(damaged)
        caplog.clear()
        assert table.read() == expected
        assert f"{table.copy} is built anew" in caplog.text, f"byte {position}"


@pytest.mark.parametrize("name", ["runs", "epochs"])
def test_runs_and_epochs_do_without_a_copy_that_is_damaged(folder: Path, name: str) -> None:
    runs = load_runs(folder)
    epochs = load_epochs(runs)
    copy = folder / f".rescaler-{name}.cache"
    copy.write_bytes(copy.read_bytes()[:-1])
    again = load_runs(folder)
    assert_frame_equal(again, runs)
    assert_frame_equal(load_epochs(again), epochs)


def test_a_copy_with_other_columns_is_ignored(tmp_path: Path) -> None:
    stamps = {str(number): "s" for number in range(COUNT)}
    Cache(tmp_path, "epochs", ["old"]).read(stamps, lambda _: pd.DataFrame({"old": [1]}))
    new = Cache(tmp_path, "epochs", ["new"]).read(stamps, lambda _: pd.DataFrame({"new": [2]}))
    assert list(new["new"]) == [2] * COUNT


def test_where_no_copy_can_be_written_all_works_without(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", ".rescaler")

    monkeypatch.setattr("pyarrow.parquet.write_table", refuse)
    assert len(load_epochs(load_runs(folder))) == 4 * COUNT
    assert not list(folder.glob(".rescaler*"))


def test_few_runs_leave_no_copy(tmp_path: Path) -> None:
    FakeRun(2, [0.5]).write(tmp_path / "0")
    load_epochs(load_runs(tmp_path))
    assert not list(tmp_path.glob(".rescaler*"))
