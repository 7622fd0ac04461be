import dataclasses
import io
import logging
from pathlib import Path

import pytest
import test_chain
from rich.console import Console

from rescaler import text
from rescaler.chain import Chain, Epoch
from rescaler.config import DataSettings, ScheduleSettings
from rescaler.progress import LoadingWarning, ProgressBar, epochs_planned, left_s
from rescaler.record import Record

LAYER = {"target_kernel": (4, 4), "target_output": (10, 10), "pretrain_kernel": (2, 2), "pretrain_output": (10, 10)}
"""A quarter of the target's multiplications."""


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time on the clock, in seconds; a line is shown whenever anything moves."""
    clock = [0.0]
    monkeypatch.setattr(text, "_LINE_S", -1.0)
    monkeypatch.setattr("rescaler.progress.time.monotonic", lambda: clock[0])
    return clock


def chain() -> Chain:
    stages = (test_chain.stage("pretrain", 17, 2, (LAYER,)), test_chain.stage("target", 28, 4))
    schedule = ScheduleSettings(epochs=6, learning_rates=[0.1])
    return dataclasses.replace(test_chain.chain(3), stages=stages, schedule=schedule)


def first(made: Chain) -> tuple[Epoch, Record]:
    epoch = made.next([])
    assert epoch is not None
    return epoch, Record(
        **{**vars(test_chain.record(epoch, None)), "images": 600, "train_loss": 0.25, "train_s": 2.0, "data_s": 1.0}
    )


def test_without_a_terminal_it_says_how_far_how_fast_how_good_and_how_long(
    now: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    made = chain()
    epoch, done = first(made)
    with caplog.at_level(logging.INFO), ProgressBar(made, enabled=True) as bar:
        now[0] = 1.0
        bar.batch(epoch, 1000)  # most of them by an earlier attempt
        now[0] = 6.0
        bar.batch(epoch, 1010)
        bar.epoch(done, reused=False)
    resumed, within, finished = caplog.messages
    assert resumed == "epoch 1/6 pretrain"
    assert within == "epoch 1/6 pretrain  256 images/s"  # 10 batches of 128 in 5 s
    # One more epoch of 3 s, then four of the target's, which has four times the work.
    assert finished == "epoch 1/6 pretrain  loss 0.2500  accuracy 50.00%  200 images/s  0:51 left"


def test_one_slow_epoch_says_little_of_those_to_come() -> None:
    made = chain()
    slow, usual = (Record(**{**vars(first(made)[1]), "epoch": 5, "train_s": seconds}) for seconds in (99.0, 9.0))
    assert left_s(made, [(usual, False), (usual, False), (slow, False)], 5.0) == 10.0  # a second of waiting for data


def test_held_epochs_come_on_top() -> None:
    made = chain()
    held = [
        (Record(**{**vars(first(made)[1]), "epoch": epoch, "held": epoch in (3, 4)}), False) for epoch in (1, 2, 3, 4)
    ]
    assert epochs_planned(made, held) == 8
    assert left_s(made, held, 6.0) == 2 * 3.0


def test_an_epoch_load_cached_says_nothing_of_the_time_left(now: list[float], caplog: pytest.LogCaptureFixture) -> None:
    made = chain()
    assert left_s(made, [(first(made)[1], True)], 1.0) is None
    with caplog.at_level(logging.INFO), ProgressBar(made, enabled=True) as bar:
        now[0] = 1.0
        bar.epoch(first(made)[1], reused=True)
    assert caplog.messages == ["epoch 1/6 pretrain  loss 0.2500  accuracy 50.00%  200 images/s"]


def test_every_epoch_that_is_trained_has_a_line_however_short(caplog: pytest.LogCaptureFixture) -> None:
    made = chain()
    one = first(made)[1]
    with caplog.at_level(logging.INFO), ProgressBar(made, enabled=True) as bar:
        for epoch in (1, 2, 3, 4):
            bar.epoch(Record(**{**vars(one), "epoch": epoch}), reused=epoch == 1)
    assert [line.split("  ")[0] for line in caplog.messages] == [
        "epoch 2/6 pretrain",
        "epoch 3/6 target",
        "epoch 4/6 target",
    ]
    assert all("  loss 0.2500  accuracy 50.00%  200 images/s  " in line for line in caplog.messages)


def test_on_a_terminal_the_lines_stay_above_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=150)
    monkeypatch.setattr("rescaler.progress.Console", lambda **_: console)
    made = chain()
    with ProgressBar(made, enabled=True) as bar:
        bar.epoch(first(made)[1], reused=False)
    assert "epoch 1/6 pretrain  loss 0.2500  accuracy 50.00%  200 images/s  0:51 left\n" in screen.getvalue()


def test_progress_off_is_silent(now: list[float], caplog: pytest.LogCaptureFixture) -> None:
    made = chain()
    with caplog.at_level(logging.INFO), ProgressBar(made, enabled=False) as bar:
        now[0] = 1.0
        bar.epoch(first(made)[1], reused=False)
    assert caplog.messages == []


DATA = DataSettings(name="imagenet", folder="/nowhere", workers=0)


def waited(data_s: float, train_s: float = 9.0) -> Record:
    return Record("", "", 3, image_px=160, images=3000, train_s=train_s, data_s=data_s, evaluation_s=100)


def test_it_is_said_once_with_the_figure_and_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    watch = LoadingWarning(DATA)
    for data_s in (0.9, 3.0, 6.0):
        watch.epoch(waited(data_s), reused=False)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(
        "epoch 3 waited for images for 25 % of its time (3.0 of 12.0 s, 250 images/s at 160 pixels): "
        "prepare the images once (python -m rescaler prepare, with this run's settings) or raise data.workers (it is 0;"
    )


def test_a_tenth_is_allowed(caplog: pytest.LogCaptureFixture) -> None:
    watch = LoadingWarning(DATA)
    watch.epoch(waited(1.0), reused=False)
    assert caplog.messages == []
    watch.epoch(waited(1.01), reused=False)
    assert len(caplog.messages) == 1


def test_epochs_load_cached_and_sets_in_memory_say_nothing(caplog: pytest.LogCaptureFixture) -> None:
    LoadingWarning(DATA).epoch(waited(9.0), reused=True)
    LoadingWarning(DataSettings(name="cifar10")).epoch(waited(9.0), reused=False)
    assert caplog.messages == []


def test_what_is_done_already_is_not_advised(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "prepared.json").write_text("{}")
    LoadingWarning(dataclasses.replace(DATA, folder=str(tmp_path))).epoch(waited(9.0), reused=False)
    LoadingWarning(dataclasses.replace(DATA, folder=str(tmp_path), workers=4096)).epoch(waited(9.0), reused=False)
    assert "): raise data.workers" in caplog.messages[0]
    assert "load no faster" in caplog.messages[1]
    assert not any("prepare the images" in message for message in caplog.messages)
