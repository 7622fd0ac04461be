import os
import signal
from pathlib import Path

import pytest
from conftest import MakeExperiment
from test_run import summary

from rescaler.execution import execute


def test_what_fails_while_a_signal_waits_says_so_before_it_ends(
    make_experiment: MakeExperiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    delivered: list[str] = []

    def breaks(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise ValueError("boom")

    def handler(*_: object) -> None:
        delivered.append(summary(tmp_path / "run")["status"])

    monkeypatch.setattr("rescaler.execution.train", breaks)
    before = signal.signal(signal.SIGTERM, handler)
    try:
        with pytest.raises(ValueError, match="boom"):
            execute(make_experiment(), tmp_path / "run", group="")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert delivered == ["failed"]
    assert summary(tmp_path / "run")["error"] == "boom"
