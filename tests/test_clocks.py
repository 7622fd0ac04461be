import signal
import subprocess
import sys
import time

import pytest
import torch
from processes import started

from rescaler.clocks import Clocks

CPU = torch.device("cpu")


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that the test moves."""
    moment = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: moment[0])
    return moment


def test_a_running_clock_can_be_read(now: list[float]) -> None:
    clocks = Clocks(CPU)
    with clocks.running("train"):
        now[0] += 3
        with clocks.running("save"):
            now[0] += 5
            assert clocks.so_far() == {"train": 3, "save": 5, "data": 0}
        now[0] += 1
        assert clocks.so_far() == {"train": 4, "save": 5, "data": 0}
    assert clocks.seconds == {"train": 4, "save": 5, "data": 0}


def test_waiting_for_batches_is_no_training(now: list[float]) -> None:
    def slow() -> object:
        for _ in range(2):
            now[0] += 7
            yield None

    clocks = Clocks(CPU)
    with clocks.running("train"):
        for _ in clocks.waiting(slow()):  # type: ignore[arg-type]
            now[0] += 1
    assert clocks.seconds == {"train": 2, "data": 14}


def test_waiting_of_a_device_is_the_clocks_that_ran_meanwhile(
    now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host runs ahead, so what the device waited is known only where the host waits for it."""

    class Mark:
        def __init__(self) -> None:
            self.s = now[0]

        def elapsed_time(self, end: "Mark") -> float:
            return 1000 * (end.s - self.s)

    def slow() -> object:
        for _ in range(2):
            now[0] += 7
            yield None

    monkeypatch.setattr(Clocks, "_mark", lambda _: Mark())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    clocks = Clocks(torch.device("cuda"))
    with clocks.running("train"):
        for _ in clocks.waiting(slow()):  # type: ignore[arg-type]
            now[0] += 1
            with clocks.running("save"):
                now[0] += 5
    assert clocks.seconds == {"train": 2, "save": 10, "data": 14}


def test_an_epoch_goes_on_with_the_seconds_of_its_first_attempt(now: list[float]) -> None:
    clocks = Clocks(CPU, {"train": 30.0, "rescale": 1.0})
    with clocks.running("train"):
        now[0] += 3
    assert clocks.seconds == {"train": 33, "rescale": 1, "data": 0}


COUNT = """
import time, torch
from rescaler.clocks import Clocks
clocks = Clocks(torch.device("cpu"))
with clocks.running("train"):
    print("counting", flush=True)
    while time.process_time() < float(input()):
        pass
    print("counted", flush=True)
    input()
print(clocks.seconds["train"])
"""


def test_a_suspended_process_counts_no_time() -> None:
    began = time.monotonic()
    with started(
        [sys.executable, "-c", COUNT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdout.readline()
        began = time.monotonic()
        process.stdin.write("0\n")
        process.stdin.flush()
        process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        time.sleep(2)
        process.send_signal(signal.SIGCONT)
        said, complaint = process.communicate("\n", timeout=60)
    passed_s = time.monotonic() - began
    assert float(said) < passed_s - 1.5
    assert "the process was suspended for 2." in complaint


def test_a_wait_is_no_suspension() -> None:
    clocks = Clocks(CPU)
    with clocks.running("train"):
        time.sleep(1.5)
    assert clocks.seconds["train"] > 1.4
