"""What a run leaves in its folder and the ledger when signals and errors end it."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeExperiment

from rescaler import checkpoint, train
from rescaler.config import Experiment
from rescaler.errors import InputError
from rescaler.execution import execute
from rescaler.randomness import seed_for


@pytest.fixture
def experiment(make_experiment: MakeExperiment, tmp_path: Path) -> Experiment:
    return make_experiment(ledger__folder=str(tmp_path / "ledger"))


@pytest.fixture
def said(tmp_path: Path) -> Iterator[list[tuple[int, str, str | None]]]:
    """Signals that came through, each with the run's status and error at that moment."""
    found: list[tuple[int, str, str | None]] = []

    def handle(number: int, _: object) -> None:
        found.append((number, summary(tmp_path)["status"], summary(tmp_path)["error"]))

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGUSR2)}
    yield found
    for number, handler in before.items():
        signal.signal(number, handler)


def summary(folder: Path) -> Any:
    return json.loads((folder / "run" / "summary.json").read_text())


def raise_at(number: int, monkeypatch: pytest.MonkeyPatch, *, epoch_number: int = 2, batch: int = 3) -> None:
    """Have this process get a signal in an epoch, before one of its five batches."""

    def signalled(seed: int, *parts: str | int) -> int:
        if parts[:3] == ("dropout", epoch_number, batch):
            signal.raise_signal(number)
        return seed_for(seed, *parts)

    monkeypatch.setattr(train, "seed_for", signalled)


def fail_in_evaluation(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fail(*_: object) -> None:
        signal.raise_signal(number)
        raise InputError("the loss became nan")

    monkeypatch.setattr("rescaler.train.evaluate", fail)


def test_ctrl_c_saves_first(experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raise_at(signal.SIGINT, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        execute(experiment, tmp_path / "run", group="")
    (saved,) = (tmp_path / "ledger" / "saves").iterdir()
    assert checkpoint.read(saved).more["batches"] == 3
    assert (summary(tmp_path)["status"], summary(tmp_path)["error"]) == ("failed", "interrupted")


def test_a_failure_is_told_before_a_waiting_signal_ends_the_process(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[tuple[int, str, str | None]]
) -> None:
    fail_in_evaluation(monkeypatch, signal.SIGTERM)
    with pytest.raises(InputError, match="the loss became nan"):
        execute(experiment, tmp_path / "run", group="")
    assert said == [(signal.SIGTERM, "failed", "the loss became nan")]


def test_a_failed_run_is_not_requeued_by_a_waiting_warning(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[tuple[int, str, str | None]]
) -> None:
    fail_in_evaluation(monkeypatch, signal.SIGUSR2)
    with pytest.raises(InputError, match="the loss became nan"):
        execute(experiment, tmp_path / "run", group="")
    assert said == []
    assert summary(tmp_path)["status"] == "failed"


def test_a_run_that_a_signal_finds_finished_is_done(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[tuple[int, str, str | None]]
) -> None:
    monkeypatch.setattr("rescaler.resume.Saver.due", False)  # it comes after the last batch of the evaluation
    raise_at(signal.SIGTERM, monkeypatch, epoch_number=6, batch=5)
    execute(experiment, tmp_path / "run", group="")
    assert said == [(signal.SIGTERM, "done", None)]
    os.kill(os.getpid(), signal.SIGTERM)
    assert len(said) == 2, "the handler that was there is there again"


@pytest.mark.parametrize("place", ["rescaler.train.start", "rescaler.train.start_stage", "rescaler.train.Step"])
def test_a_signal_before_the_first_batch_ends_the_run_at_once(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def signalled(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it went on")

    monkeypatch.setattr(place, signalled)
    with pytest.raises(KeyboardInterrupt):
        execute(experiment, tmp_path / "run", group="")
