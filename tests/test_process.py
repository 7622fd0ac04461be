import contextlib
import os
import signal
from collections.abc import Iterator

import pytest
from processes import forked

from rescaler.process import Interruption


@pytest.fixture
def handled() -> Iterator[list[int]]:
    """Signals that reached the handler that was there before, as Submitit's would be."""
    seen: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, _: seen.append(number))
    yield seen
    signal.signal(signal.SIGUSR2, before)


def test_a_signal_waits_until_it_is_delivered(handled: list[int]) -> None:
    with Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGUSR2)
        assert interruption.pending
        assert handled == []
        interruption.deliver()
        assert handled == [signal.SIGUSR2]
        assert not interruption.pending
    assert handled == [signal.SIGUSR2]


def test_a_signal_is_not_held_while_there_is_nothing_to_save(handled: list[int]) -> None:
    with Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGUSR2)
        interruption.release()
        assert handled == [signal.SIGUSR2], "the one that waited"
        os.kill(os.getpid(), signal.SIGUSR2)
        assert handled == [signal.SIGUSR2] * 2
        interruption.hold()
        os.kill(os.getpid(), signal.SIGUSR2)
        assert interruption.pending


def test_the_second_does_not_wait(handled: list[int]) -> None:
    with Interruption():
        os.kill(os.getpid(), signal.SIGUSR2)
        os.kill(os.getpid(), signal.SIGUSR2)
        assert handled == [signal.SIGUSR2]


def test_a_warning_is_pointless_when_all_is_done_or_has_failed(handled: list[int]) -> None:
    with Interruption():
        os.kill(os.getpid(), signal.SIGUSR2)
    with contextlib.suppress(KeyError), Interruption():
        os.kill(os.getpid(), signal.SIGUSR2)
        raise KeyError
    assert handled == []
    os.kill(os.getpid(), signal.SIGUSR2)
    assert handled == [signal.SIGUSR2]


def test_what_ends_the_process_ends_it_where_training_stops_early(handled: list[int]) -> None:
    before = signal.signal(signal.SIGTERM, lambda number, _: handled.append(number))
    with contextlib.suppress(KeyError), Interruption():
        os.kill(os.getpid(), signal.SIGTERM)
        raise KeyError
    signal.signal(signal.SIGTERM, before)
    assert handled == [signal.SIGTERM]


def test_a_second_ctrl_c_interrupts_at_once() -> None:
    with Interruption() as interruption:
        signal.raise_signal(signal.SIGINT)
        assert interruption.pending
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert not interruption.pending


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Interruption() as interruption:
        signal.raise_signal(signal.SIGINT)
        assert not interruption.pending
    assert signal.signal(signal.SIGINT, before) is signal.SIG_IGN


def test_without_a_handler_the_process_ends_as_it_would_have() -> None:
    def run() -> int:
        with Interruption() as interruption:
            os.kill(os.getpid(), signal.SIGTERM)
            if interruption.pending:
                interruption.deliver()
        return 0

    assert forked(run) == -signal.SIGTERM


def test_forked_children_leave_the_warning_to_their_parent(handled: list[int]) -> None:
    def run() -> int:
        for number in (signal.SIGUSR2, signal.SIGINT):
            os.kill(os.getpid(), number)
        return len(handled)

    assert forked(run) == 0
