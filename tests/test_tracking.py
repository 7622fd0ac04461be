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
from types import SimpleNamespace
from typing import Any

import pytest

from rescaler import tracking
from rescaler.errors import InputError
from rescaler.record import Record
from rescaler.settings import LoggerSettings
from rescaler.tracking import Tracker, _is_watched, mirror, resolve_mode, row

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
    return Record(
        key=f"key{epoch}",
        parent=f"key{epoch - 1}",
        epoch=epoch,
        stage="target" if epoch > 17 else "pretrain",
        image_px=28 if epoch > 17 else 19,
        rescaled=epoch == 18,
        learning_rate=0.01,
        weight_decay=1e-4,
        held=False,
        images=1000,
        train_loss=2.0 / epoch,
        train_top1=0.5,
        test_loss=3.0 / epoch,
        test_top1=0.25,
        test_top5=0.75,
        train_s=8.0,
        data_s=1.0,
        rescale_s=0.5 if epoch == 18 else 0.0,
        evaluation_s=4.0,
        device="cpu",
        torch="2.11",
        digest="d",
        parent_digest="p",
    )


def tracker(folder: Path, mode: str = "online") -> Tracker:
    return Tracker(
        LoggerSettings(mode=mode, project="kernels", tags=["small", "test"]),
        run_id="ab12",
        name="resize_epoch=17",
        group="table2",
        folder=folder,
        config={"resize_epoch": 17, "shrink": {"table": {3: 2}}, "folder": folder},
    )


@contextlib.contextmanager
def tracked(folder: Path, mode: str = "online") -> Iterator[Tracker]:
    """A run that ends with the block."""
    run = tracker(folder, mode)
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


@pytest.mark.parametrize(
    ("mode", "variable", "expected"),
    [
        ("auto", None, "auto"),
        ("auto", "", "auto"),
        ("auto", "online", "online"),
        ("auto", "disabled", "disabled"),
        ("offline", "online", "offline"),
        ("disabled", "online", "disabled"),
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


def test_a_row_has_both_axes_and_the_resize_event() -> None:
    shown = row(record(18), reused=True, time_s=5400.0)
    assert (shown["epoch"], shown["training_h"]) == (18, 1.5)
    assert (shown["rescaled"], shown["reused"], shown["stage"], shown["image_px"]) == (1, 1, "target", 28)
    assert [shown[f"seconds/{clock}"] for clock in ("train", "data", "rescale", "evaluation")] == [8.0, 1.0, 0.5, 4.0]
    assert row(record(17), reused=False, time_s=0.0)["rescaled"] == 0


def test_disabled_starts_nothing_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a process was started"))
    with tracked(tmp_path, "disabled") as run:
        run.epoch(record(1), reused=False)
        run.finish({})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("mode", "live"), [("online", True), ("offline", False)])
def test_where_nobody_can_watch_the_client_starts_when_the_run_ends(
    tmp_path: Path, journal: Path, mode: str, live: bool
) -> None:
    with tracked(tmp_path, mode) as run:
        run.epoch(record(1), reused=False)
        assert (run._process is not None) == live
    assert journal.exists()


def test_auto_is_live_for_a_user_who_is_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert not _is_watched("auto", {})
    assert _is_watched("auto", {"WANDB_API_KEY": "secret"})
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password secret\n")
    assert _is_watched("auto", {})


def test_the_client_is_not_imported_by_the_training() -> None:
    code = "import sys, rescaler.tracking; sys.exit('wandb' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_epochs_and_end_arrive_in_order(tmp_path: Path, journal: Path) -> None:
    with tracked(tmp_path) as run:
        for epoch in (1, 2, 3):
            run.epoch(record(epoch), reused=False)
        run.finish({"best_top1": 0.5})
    assert entries(journal) == [{"step": 1}, {"step": 2}, {"step": 3}, {"exit_code": 0, "summary": {"best_top1": 0.5}}]


def test_time_is_the_sum_over_the_chain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sent: list[dict[str, Any]] = []
    run = tracker(tmp_path, "disabled")
    monkeypatch.setattr(run, "_send", sent.append)
    for epoch in (17, 18):
        run.epoch(record(epoch), reused=epoch == 17)
    assert [3600 * message["training_h"] for message in sent] == pytest.approx(
        [9.0, 18.5]
    )  # evaluation is not training


def test_a_failed_training_marks_the_run_as_failed(tmp_path: Path, journal: Path) -> None:
    run = tracker(tmp_path)
    run.epoch(record(1), reused=False)
    run.finish({}, failed=True)
    assert entries(journal) == [{"step": 1}, {"exit_code": 1, "summary": {}}]


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
    monkeypatch.setattr(tracking, "_CLOSE_S", 0.5)
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
    assert entries(journal) == [{"exit_code": 0, "summary": {}}]


def test_a_killed_training_leaves_a_failed_run(tmp_path: Path, journal: Path) -> None:
    code = textwrap.dedent("""
        import os, signal, sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[1])
        from tests.test_tracking import record, tracker
        run = tracker(Path(sys.argv[2]))
        run.epoch(record(1), reused=False)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    packages = str(tmp_path / "packages")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    ended = subprocess.run([sys.executable, "-c", code, packages, str(tmp_path)], env=environment, check=False)
    assert ended.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while not (journal.exists() and len(entries(journal)) == 2):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert entries(journal) == [{"step": 1}, {"exit_code": 1, "summary": {}}]


def test_a_resumed_run_leaves_out_what_the_server_has(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    run = SimpleNamespace(
        starting_step=3,
        summary={},
        define_metric=lambda *_, **__: None,
        log=lambda _, step: steps.append(step),
        finish=lambda **_: None,
    )
    client = SimpleNamespace(init=lambda **_: run, Settings=lambda **_: None)
    monkeypatch.setitem(sys.modules, "wandb", client)
    rows = (json.dumps(row(record(epoch), reused=epoch < 4, time_s=9.0)) for epoch in range(1, 6))
    mirror(iter([json.dumps({"mode": "online"}), *rows]))
    assert steps == [3, 4, 5]


@pytest.mark.parametrize(
    ("settings", "netrc", "expected"),
    [
        ({}, "", "offline"),
        ({"api_key": "k"}, "", "online"),
        ({"identity_token_file": "token"}, "", "online"),
        ({}, "machine api.example.com login user password k", "online"),
        ({}, "machine other.example.com login user password k", "offline"),
        ({"api_key": "k", "mode": "offline"}, "", "offline"),
        ({"mode": "disabled"}, "", "disabled"),
    ],
)
def test_auto_is_online_for_a_user_who_is_logged_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], netrc: str, expected: str
) -> None:
    known = {"mode": "online", "api_key": None, "identity_token_file": None, "base_url": "https://api.example.com"}
    client = SimpleNamespace(setup=lambda: SimpleNamespace(settings=SimpleNamespace(**{**known, **settings})))
    monkeypatch.setitem(sys.modules, "wandb", client)
    (tmp_path / "netrc").write_text(netrc)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert tracking._preferred_mode() == expected


def records_of(folder: Path) -> Iterator[dict[str, Any]]:
    """What the client kept of the last run in ``folder``, read by its own command."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder / "wandb" / "latest-run")]
    kept = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return map(json.loads, kept.splitlines())


def test_the_real_client_keeps_config_history_and_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # a user who is not logged in
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    with tracked(tmp_path, "auto") as run:
        for epoch in range(16, 20):
            run.epoch(record(epoch), reused=epoch < 18)
        run.finish({"best_top1": 0.5, "best_epoch": 18, "training_s": 34200.0, "resize_epoch": 17})

    monkeypatch.setenv("WANDB_MODE", "offline")
    kept = list(records_of(tmp_path))
    start = next(entry["run"] for entry in kept if entry["type"] == "run")
    assert (start["run_id"], start["run_group"], start["project"]) == ("ab12", "table2", "kernels")
    assert (start["display_name"], start["tags"]) == ("resize_epoch=17", ["small", "test"])
    assert start["config"]["update"]["resize_epoch"] == 17
    assert start["config"]["update"]["shrink"] == {"table": {"3": 2}}
    history = [entry["history"]["item"] for entry in kept if entry["type"] == "history"]
    assert [item["_step"] for item in history] == [16, 17, 18, 19]
    assert [3600 * item["training_h"] for item in history] == pytest.approx([9.0, 18.0, 27.5, 36.5])
    assert [item["rescaled"] for item in history] == [0, 0, 1, 0]
    summary: dict[str, Any] = {}
    for entry in kept:
        summary |= entry.get("summary", {}).get("update", {})
    assert (summary["best_top1"], summary["best_epoch"], summary["training_s"]) == (0.5, 18, 34200.0)
    assert kept[-1]["exit"]["exit_code"] == 0
