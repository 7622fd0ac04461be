import json
import os
from pathlib import Path

import pytest

from rescaler.errors import InputError
from rescaler.sweep import Sweep, SweepRun, newest


def test_what_is_written_is_read(tmp_path: Path) -> None:
    runs = [SweepRun("seed=0", "0", "trunks/0", "7_0"), SweepRun("seed=1", "1")]
    sweep = Sweep(tmp_path, runs, {"partition": "debug"}, {"trunks/0": "6"}, "login", None, "2026-01-01")
    sweep.write()
    assert Sweep.read(tmp_path) == sweep
    assert sweep.folder_of(runs[1]) == tmp_path / "1"


def test_a_folder_that_was_moved_is_still_a_sweep(tmp_path: Path) -> None:
    Sweep(tmp_path / "old", [SweepRun("seed=0", "0")]).write()
    (tmp_path / "old").rename(tmp_path / "new")
    found = Sweep.read(tmp_path / "new")
    assert found.folder_of(found.runs[0]) == tmp_path / "new" / "0"


def test_a_sweep_that_was_just_begun_is_this_processs(tmp_path: Path) -> None:
    assert Sweep(tmp_path, []).pid == os.getpid()


def test_the_newest_is_the_one_that_was_started_last(tmp_path: Path) -> None:
    first, second = (Sweep(tmp_path / "experiment" / name, []) for name in ("b", "a"))
    second.write()
    first.write()  # as when it is through
    assert newest(tmp_path) == second.folder


def test_no_sweep_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no sweep in .*: start one with"):
        newest(tmp_path)
    with pytest.raises(InputError, match="no sweep at .*: it must be the folder that a sweep has made"):
        Sweep.read(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", json.dumps({"runs": [{"nam": 1}]})])
def test_a_damaged_file_is_said_in_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(InputError, match=r"sweep\.json is not what a sweep writes"):
        Sweep.read(tmp_path)
