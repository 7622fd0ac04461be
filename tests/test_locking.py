import os
import signal
from pathlib import Path

import pytest

from rescaler.locking import is_locked, locked


def test_one_holds_it_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_locked(path)
    with locked(path):
        assert is_locked(path)
        with pytest.raises(BlockingIOError), locked(path):
            pass
        assert is_locked(path)
    assert not is_locked(path)


def test_a_worker_that_outlives_its_parent_does_not_hold_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    ready, say_ready = os.pipe()
    with locked(path):
        worker = os.fork()
        if worker == 0:
            os.write(say_ready, b"!")
            signal.pause()
        os.read(ready, 1)
    still_locked = is_locked(path)
    os.kill(worker, signal.SIGKILL)
    os.waitpid(worker, 0)
    assert not still_locked
