import errno
import fcntl
import json
import os
import signal
from pathlib import Path

import pytest

from rescaler.errors import InputError
from rescaler.sweeps.sweep import Sweep, SweepRun, newest


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


def test_a_sweep_runs_here_while_this_process_says_so(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, [])
    assert not sweep.runs_here
    with sweep.running():
        found = Sweep.read(tmp_path)
        assert found.runs_here
        assert found.pid == os.getpid()
        with (
            pytest.raises(InputError, match=f"still runs .process {os.getpid()}.: wait for it, or cancel it"),
            found.running(),
        ):
            pass
    assert not found.runs_here
    assert Sweep.read(tmp_path).pid is None


def test_a_failure_ends_it_too(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, [])
    with pytest.raises(OSError, match="^of the training$"), sweep.running():
        raise OSError("of the training")
    assert not Sweep.read(tmp_path).runs_here


def test_a_killed_process_leaves_no_sweep_that_runs_whoever_has_its_number_now(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, [])
    child = os.fork()
    if child == 0:
        with sweep.running():
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    found = Sweep.read(tmp_path)
    assert found.pid == child
    found.pid = os.getpid()
    assert not found.runs_here


def test_a_folder_without_locks_is_run_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with Sweep(tmp_path, []).running():
        assert "sweep.lock cannot be locked (No locks available): `rescaler status` takes its runs" in caplog.text


def test_the_newest_is_the_one_that_was_started_last(tmp_path: Path) -> None:
    first, second = (Sweep(tmp_path / "experiment" / name, []) for name in ("b", "a"))
    second.write()
    first.write()  # as when it is through
    assert newest(tmp_path) == second.folder


def test_a_damaged_sweep_is_not_the_newest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = Sweep(tmp_path / "experiment" / "whole", [])
    whole.write()
    damaged = tmp_path / "experiment" / "damaged" / "sweep.json"
    damaged.parent.mkdir()
    damaged.write_text("{")
    assert newest(tmp_path) == whole.folder
    assert f"{damaged} is not what a sweep writes" in caplog.text
    (whole.folder / "sweep.json").unlink()
    with pytest.raises(InputError, match="no sweep in .*: start one with"):
        newest(tmp_path)


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
