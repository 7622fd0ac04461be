import time

import pytest
import torch

from rescaler.clocks import Clocks

CPU = torch.device("cpu")


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that the test moves."""
    moment = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: moment[0])
    return moment


def test_clocks_are_disjoint(now: list[float]) -> None:
    clocks = Clocks(CPU)
    with clocks.running("train"):
        now[0] += 3
        with clocks.running("save"):
            now[0] += 5
        now[0] += 1
    assert clocks.seconds == {"train": 4, "save": 5, "data": 0}


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


def test_an_epoch_goes_on_with_the_seconds_of_its_first_attempt(now: list[float]) -> None:
    clocks = Clocks(CPU, {"train": 30.0, "rescale": 1.0})
    with clocks.running("train"):
        now[0] += 3
    assert clocks.seconds == {"train": 33, "rescale": 1, "data": 0}
