import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench import make_record

from rescaler.config import LoggerSettings
from rescaler.errors import InputError
from rescaler.loggers import build_loggers
from rescaler.loggers import wandb as tracker
from rescaler.loggers.wandb import Wandb, _is_watched, resolve_mode
from rescaler.record import Record

CLIENT = textwrap.dedent("""
    import json, os, time

    def init(**arguments):
        behaviour = os.environ["CLIENT"]
        if behaviour == "fails at the start":
            raise RuntimeError("no\\nnetwork")
        if behaviour == "hangs":
            time.sleep(60)
        if behaviour == "is slow":
            time.sleep(0.5)
        return Run()

    class Settings:
        def __init__(self, **arguments): pass

    class Run:
        starting_step = 0

        def __init__(self): self.summary = {}

        def define_metric(self, *arguments, **keywords): pass

        def log(self, values, step):
            if os.environ["CLIENT"] == "fails later" and step == 2:
                raise OSError("connection lost")
            self.note(step=step)

        def finish(self, exit_code): self.note(exit_code=exit_code, summary=self.summary)

        def note(self, **values):
            with open(os.environ["JOURNAL"], "a") as file:
                file.write(json.dumps(values) + "\\n")
""")
"""A stand-in for the client's package, for the process that imports it."""


def record(epoch: int) -> Record:
    """An epoch of a run that was resized after 17."""
    return make_record(
        f"key{epoch}",
        f"key{epoch - 1}",
        epoch,
        stage="target" if epoch > 17 else "pretrain",
        image_px=28 if epoch > 17 else 19,
        rescaled=epoch == 18,
        images=1000,
        train_loss=2.0 / epoch,
        test_loss=3.0 / epoch,
        test_top1=0.25,
        train_s=8.0,
        data_s=1.0,
        rescale_s=0.5 if epoch == 18 else 0.0,
        evaluation_s=4.0,
        device="cpu",
        torch="2.11",
        digest="d",
        parent_digest="p",
    )


SUMMARY = {
    "run": "ab12",
    "comparison": "c0ffee",
    "name": "small",
    "model": "overfeat_small",
    "data": "fashion_mnist",
    "seed": 3,
    "resize_epoch": 17,
    "hold": False,
    "variant": "3->2",
    "status": "running",
    "error": None,
    "epochs": 0,
    "epochs_planned": 20,
    "device": "cpu",
    "torch": "2.11",
    "version": "0.1.0",
    "commit": None,
    "started": "2026-05-01T12:00:00+00:00",
    "updated": "2026-05-01T12:00:00+00:00",
}
CONFIG = {"resize_epoch": "auto", "shrink": {"table": {3: 2}}, "schedule": {"epochs": 20}}
"""What the run's folder has before the first epoch."""


def start(folder: Path, mode: Any = "online") -> Wandb:
    settings = LoggerSettings(mode=mode, project="kernels", tags=["small", "test"])
    run = Wandb(settings, mode, group="table2", folder=folder)
    run.start(SUMMARY, CONFIG)
    return run


@contextlib.contextmanager
def tracked(folder: Path, mode: str = "online") -> Iterator[Wandb]:
    """A run that ends with the block."""
    run = start(folder, mode)
    yield run
    run.finish({})


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the stand-in where the client's process finds it; what it is told ends up in this file."""
    package = tmp_path / "packages"
    package.mkdir()
    (package / "wandb.py").write_text(CLIENT)
    monkeypatch.syspath_prepend(package)
    monkeypatch.setenv("CLIENT", "works")
    monkeypatch.setenv("JOURNAL", str(tmp_path / "journal"))
    return tmp_path / "journal"


def entries(journal: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in journal.read_text().splitlines()]


def last(summary: dict[str, Any], exit_code: int = 0) -> dict[str, Any]:
    """The last entry: an earlier attempt's status was overwritten at the start."""
    return {"exit_code": exit_code, "summary": {"status": "running", "error": None, **summary}}


@pytest.mark.parametrize(
    ("mode", "variable", "expected"),
    [
        ("auto", None, "auto"),
        ("auto", "", "auto"),
        ("auto", "disabled", "disabled"),
        ("offline", "online", "offline"),
        ("online", "nonsense", "online"),
    ],
)
def test_the_configuration_wins_over_the_environment(mode: str, variable: str | None, expected: str) -> None:
    assert resolve_mode(mode, {} if variable is None else {"WANDB_MODE": variable}) == expected


def test_an_unknown_mode_is_refused_with_its_source() -> None:
    with pytest.raises(InputError, match=r"^logger.mode must be one of auto, online, offline, disabled; got 'of'$"):
        resolve_mode("of", {})
    with pytest.raises(InputError, match=r"^WANDB_MODE must be one of online, offline, disabled; got 'auto'$"):
        resolve_mode("auto", {"WANDB_MODE": "auto"})
    assert build_loggers(LoggerSettings(mode="disabled"), group="", folder=Path()) == []


@pytest.mark.parametrize(("mode", "live"), [("online", True), ("offline", False)])
def test_where_nobody_can_watch_the_client_starts_when_the_run_ends(
    tmp_path: Path, journal: Path, mode: str, live: bool
) -> None:
    with tracked(tmp_path, mode) as run:
        run.epoch(record(1), reused=False)
        assert (run._process is not None) == live
    assert journal.exists()


@pytest.mark.parametrize("server", ["api.wandb.ai", "api.forge.coreweave.com"])
def test_auto_is_live_for_a_user_who_is_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert not _is_watched("auto", {})
    assert _is_watched("auto", {"WANDB_API_KEY": "secret"})
    (tmp_path / ".netrc").write_text(f"machine {server} login user password secret\n")
    assert _is_watched("auto", {})
    assert not _is_watched("auto", {"WANDB_BASE_URL": "https://wandb.example.com"})


@pytest.mark.parametrize("failed", [False, True])
def test_epochs_and_end_arrive_in_order(tmp_path: Path, journal: Path, failed: bool) -> None:
    run = start(tmp_path)
    for epoch in (1, 2, 3):
        run.epoch(record(epoch), reused=False)
    run.finish({"best_top1": 0.5}, failed=failed)
    run.finish({})  # does nothing
    assert entries(journal) == [{"step": 1}, {"step": 2}, {"step": 3}, last({"best_top1": 0.5}, int(failed))]


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [("fails at the start", "RuntimeError: no network"), ("fails later", "OSError: connection lost")],
)
@pytest.mark.parametrize("wait_s", [0.0, 5.0], ids=["noticed at the end", "noticed in between"])
def test_a_failing_client_is_one_warning(
    tmp_path: Path,
    journal: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    behaviour: str,
    reason: str,
    wait_s: float,
) -> None:
    assert not journal.exists()
    monkeypatch.setenv("CLIENT", behaviour)
    with caplog.at_level(logging.WARNING), tracked(tmp_path) as run:
        for epoch in range(1, 4):
            run.epoch(record(epoch), reused=False)
        process = run._process
        if wait_s and process is not None:
            process.wait(wait_s)
        run.epoch(record(4), reused=False)
        run.finish({})
    assert caplog.messages == [f"Weights & Biases is off, the run goes on without it: {reason}"]


def test_a_hanging_client_blocks_no_epoch_and_the_end_only_for_a_while(
    tmp_path: Path, journal: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CLIENT", "hangs")
    monkeypatch.setattr(tracker, "_CLOSE_S", 0.5)
    start = time.monotonic()
    with tracked(tmp_path) as run:
        for epoch in range(1, 1001):  # more than a pipe holds
            run.epoch(record(epoch), reused=False)
        logged_s = time.monotonic() - start
        run.finish({})
    assert logged_s < 2
    assert time.monotonic() - start < 5
    assert caplog.messages == ["Weights & Biases is off, the run goes on without it: not done after 0.5 s"]
    assert not journal.exists()


def test_a_slow_client_gets_everything(tmp_path: Path, journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIENT", "is slow")
    with tracked(tmp_path) as run:
        for epoch in range(1, 1001):
            run.epoch(record(epoch), reused=False)
        run.finish({})
    assert [entry["step"] for entry in entries(journal)[:-1]] == list(range(1, 1001))


def test_a_machine_that_starts_no_process_trains_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("Cannot allocate memory")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    with tracked(tmp_path) as run:
        run.epoch(record(1), reused=False)
    assert caplog.messages == ["Weights & Biases is off, the run goes on without it: Cannot allocate memory"]


def test_the_end_does_not_wait_for_forked_workers(tmp_path: Path, journal: Path) -> None:
    with tracked(tmp_path) as run:
        worker = os.fork()  # holds the pipe open, as a loader's workers do
        if worker == 0:
            time.sleep(60)
            os._exit(0)
        run.finish({})
    os.kill(worker, signal.SIGKILL)
    os.waitpid(worker, 0)
    assert entries(journal) == [last({})]


def test_a_killed_training_leaves_a_failed_run(tmp_path: Path, journal: Path) -> None:
    code = textwrap.dedent("""
        import os, signal, sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[1])
        from test_tracking import record, start
        run = start(Path(sys.argv[2]))
        run.epoch(record(1), reused=False)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    packages = str(tmp_path / "packages")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    ended = subprocess.run([sys.executable, "-c", code, packages, str(tmp_path)], env=environment, check=False)
    assert ended.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while not (journal.exists() and len(entries(journal)) == 2):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert entries(journal) == [{"step": 1}, last({}, exit_code=1)]
