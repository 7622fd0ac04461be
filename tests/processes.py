"""Other processes, and waiting for them."""

import contextlib
import os
import signal
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def started(command: Sequence[str | Path], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """A process with those that it starts; all end with the block, also where the block fails."""
    with subprocess.Popen(command, start_new_session=True, **options) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def forked(run: Callable[[], int]) -> int:
    """Run a function in a child of this process; returns its code, 99 if it raised, less the signal that ended it."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = run()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)  # whatever happens: no second process may go on with the tests
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = 120, every_s: float = 0.25) -> None:
    """Look again until ``condition`` holds; fails after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s:g} s in vain: {what}")
        time.sleep(every_s)
