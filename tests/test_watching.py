import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from rescaler.errors import InputError
from rescaler.sweep import Sweep, SweepRun
from rescaler.sweep import status as watching
from rescaler.sweep.status import RunStatus, watch

Watch = Callable[..., str]


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watch:
    """What watching a sweep writes, if its one run has these states one after the other; None is no answer."""
    Sweep(tmp_path, [SweepRun("seed=0", "0")]).write()
    monkeypatch.setattr(watching, "_LOOK_S", 0)

    def call(*states: str | None, terminal: bool = False) -> str:
        left = list(states)

        def look(_: Sweep) -> list[RunStatus]:
            state = left.pop(0)
            if state is None:
                raise InputError("squeue: Unable to contact slurm controller")
            return [RunStatus("seed=0", state)]

        monkeypatch.setattr(watching, "statuses", look)
        text = io.StringIO()
        watch(tmp_path, Console(file=text, force_terminal=terminal, width=200, height=20))
        assert left == []
        return text.getvalue()

    return call


def test_without_a_terminal_there_is_a_line_for_each_change(watched: Watch) -> None:
    assert watched("waiting", "waiting", "running", "running", "done") == "1 waiting\n1 running\n1 done\n"


def test_a_terminal_shows_the_table(watched: Watch) -> None:
    text = watched("running", "failed", terminal=True)
    assert "1 running" in text
    assert "1 failed" in text
    assert "Best accuracy" in text


def test_a_cluster_that_is_silent_for_a_while_is_asked_again(watched: Watch) -> None:
    assert watched("running", None, None, "done") == "1 running\n1 done\n"


def test_a_cluster_that_stays_silent_is_said(watched: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="Unable to contact slurm controller"):
        watched(None)
    monkeypatch.setattr(watching, "_PATIENCE_S", -1)
    with pytest.raises(InputError, match="Unable to contact slurm controller"):
        watched("running", None)
