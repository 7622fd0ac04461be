import errno
import fcntl
import os
import signal
import socket
from pathlib import Path

import pytest
from processes import forked

from rescaler.errors import InputError
from rescaler.sweep import Sweep, SweepRun, newest


def test_what_is_written_is_read(tmp_path: Path) -> None:
    runs = [SweepRun("seed=0", "0", "trunks/0", "7_0"), SweepRun("seed=1", "1")]
    sweep = Sweep(tmp_path, runs, {"partition": "debug"}, {"trunks/0": "6"}, "2026-01-01")
    sweep.write()
    assert Sweep.read(tmp_path) == sweep
    assert sweep.folder_of(runs[1]) == tmp_path / "1"


def test_a_folder_that_was_moved_is_still_a_sweep(tmp_path: Path) -> None:
    Sweep(tmp_path / "old", [SweepRun("seed=0", "0")]).write()
    (tmp_path / "old").rename(tmp_path / "new")
    found = Sweep.read(tmp_path / "new")
    assert found.folder_of(found.runs[0]) == tmp_path / "new" / "0"


def test_a_sweep_is_owned_while_this_process_says_so(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "it's", [])
    assert sweep.owner is None
    with sweep.owned():
        assert sweep.owner == (socket.gethostname(), os.getpid())
        by = rf"in use by process {os.getpid()} on .*: wait for it, or python -m rescaler cancel '.*/it'\"'\"'s'$"
        with pytest.raises(InputError, match=by), sweep.owned():
            pass
        assert sweep.owner is not None
    assert sweep.owner is None
    with pytest.raises(OSError, match="^of the training$"), sweep.owned():
        raise OSError("of the training")
    assert sweep.owner is None


def test_a_killed_process_owns_nothing_though_its_worker_lives(tmp_path: Path) -> None:
    ready, say_ready = os.pipe()

    def own() -> int:
        with Sweep(tmp_path, []).owned():
            if (worker := os.fork()) == 0:
                signal.pause()
            os.write(say_ready, f"{os.getpid()} {worker}".encode())
            os.kill(os.getpid(), signal.SIGKILL)
        return 0

    assert forked(own) == -signal.SIGKILL
    owner, worker = map(int, os.read(ready, 40).split())
    assert (tmp_path / "sweep.lock").read_text() == f"{socket.gethostname()} {owner}"
    assert Sweep(tmp_path, []).owner is None
    os.kill(worker, signal.SIGKILL)


def test_a_folder_without_locks_is_used_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with Sweep(tmp_path, []).owned():
        assert "sweep.lock cannot be locked (No locks available): do not start this sweep twice" in caplog.text
        assert Sweep(tmp_path, []).owner is not None, "its heartbeat says so"


def test_the_newest_is_the_one_that_was_started_last(tmp_path: Path) -> None:
    first, second = (Sweep(tmp_path / name, []) for name in ("experiment/b", "team/experiment/a"))
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
    assert f"cannot read {damaged}" in caplog.text
    (whole.folder / "sweep.json").unlink()
    with pytest.raises(InputError, match="no sweep in .*: start one with"):
        newest(tmp_path)


def test_no_sweep_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no sweep in .*: start one with"):
        newest(tmp_path)
    with pytest.raises(InputError, match="no sweep at .*: it must be the folder that a sweep has made"):
        Sweep.read(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"\xff", b'{"runs": [{"nam": 1}]}', b'{"runs": [[]]}', b'{"runs": [], "cwd": 1}']
)
def test_a_damaged_file_is_said_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "sweep.json").write_bytes(content)
    with pytest.raises(InputError, match=r"cannot read .*sweep\.json|sweep\.json is not what a sweep writes") as raised:
        Sweep.read(tmp_path)
    assert "\n" not in str(raised.value)
