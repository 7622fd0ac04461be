from dataclasses import replace
from pathlib import Path

import pytest

from rescaler.record import Record
from rescaler.running.data_wait import DataWait
from rescaler.settings import DataSettings

DATA = DataSettings(name="imagenet", folder="/nowhere", workers=0)


def record(data_s: float, train_s: float = 9.0, epoch: int = 3) -> Record:
    return Record(
        key="", parent="", epoch=epoch, stage="pre-train", image_px=160, rescaled=False, learning_rate=0.1,
        weight_decay=0, held=False, images=3000, train_loss=1, train_top1=0, test_loss=1, test_top1=0, test_top5=0,
        train_s=train_s, data_s=data_s, rescale_s=0, compile_s=0, evaluation_s=100, device="", torch="", digest="",
        parent_digest="",
    )  # fmt: skip


def test_it_is_said_once_with_the_figure_and_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    watch = DataWait(DATA)
    for data_s in (0.9, 3.0, 6.0):
        watch.epoch(record(data_s), reused=False)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(
        "epoch 3 waited for images for 25 % of its time (3.0 of 12.0 s, 250 images/s at 160 pixels): "
        "prepare the images once (python -m rescaler prepare, with this run's settings) or raise data.workers (it is 0;"
    )


def test_a_tenth_is_allowed(caplog: pytest.LogCaptureFixture) -> None:
    watch = DataWait(DATA)
    watch.epoch(record(1.0), reused=False)
    assert caplog.messages == []
    watch.epoch(record(1.01), reused=False)
    assert len(caplog.messages) == 1


def test_epochs_read_back_and_sets_in_memory_say_nothing(caplog: pytest.LogCaptureFixture) -> None:
    DataWait(DATA).epoch(record(9.0), reused=True)
    DataWait(DataSettings(name="cifar10")).epoch(record(9.0), reused=False)
    assert caplog.messages == []


def test_what_is_done_already_is_not_advised(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "prepared.json").write_text("{}")
    DataWait(replace(DATA, folder=str(tmp_path))).epoch(record(9.0), reused=False)
    DataWait(replace(DATA, folder=str(tmp_path), workers=4096)).epoch(record(9.0), reused=False)
    assert "): raise data.workers" in caplog.messages[0]
    assert "load no faster" in caplog.messages[1]
    assert not any("prepare the images" in message for message in caplog.messages)
