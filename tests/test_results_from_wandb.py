import json
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_runs import FakeRun
from test_tracking import CONFIG, SUMMARY, record

from rescaler.config import LoggerSettings
from rescaler.errors import InputError
from rescaler.loggers import wandb_client as client
from rescaler.loggers.wandb import History, opening
from rescaler.loggers.wandb_client import Fragment, read_offline, read_project
from rescaler.results import load_epochs, load_runs

DONE = {"status": "done", "error": None, "epochs": 20, "updated": "2026-05-02T00:00:00+00:00"}
SETTINGS = LoggerSettings()


def config() -> dict[str, Any]:
    return dict(opening(SUMMARY, CONFIG, SETTINGS, group="", folder=Path("runs/0"))["config"])


def rows(last: int, *, reused: int = 0) -> dict[int, dict[str, Any]]:
    """History as W&B gives it back: through JSON, with its own columns."""
    history = History()
    written = [history.row(record(number), reused=number <= reused) for number in range(1, last + 1)]
    return {row["epoch"]: json.loads(json.dumps(row)) | {"_step": row["epoch"], "_timestamp": 0.5} for row in written}


def server_run(**changes: Any) -> SimpleNamespace:
    """A stand-in with the attributes of ``wandb.apis.public.Run`` that are read."""
    held: dict[str, Any] = {
        "config": config(),
        "summary_metrics": dict(DONE),
        "rows": rows(20),
        "state": "finished",
    } | changes
    history = list(held["rows"].values())

    def scan_history(*, use_cache: bool) -> Iterator[dict[str, Any]]:
        assert history, "the client refuses to scan an empty history"
        assert not use_cache, "the run may have gone on since"
        return iter(history)

    last = history[-1]["_step"] if history else -1
    return SimpleNamespace(path=["me", "kernels", "ab12"], scan_history=scan_history, lastHistoryStep=last, **held)


def serve(monkeypatch: pytest.MonkeyPatch, *runs: SimpleNamespace) -> None:
    api = SimpleNamespace(runs=lambda *_, **__: iter(runs))
    monkeypatch.setattr(client, "connect", lambda: api)


def keep(monkeypatch: pytest.MonkeyPatch, folder: Path, *parts: Fragment) -> None:
    (folder / "run-ab12.wandb").touch()
    monkeypatch.setattr(client, "fragments", lambda _: list(parts))


def part(started: str, first: int, last: int, **changes: Any) -> Fragment:
    own = {number: row for number, row in rows(last).items() if number >= first}
    return Fragment(Path(f"wandb/{started}/run-ab12.wandb"), "ab12", started, config(), rows=own, **changes)


def test_a_run_of_the_server_is_the_run_that_was_mirrored(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, server_run(rows=rows(20, reused=17)))
    ((folder, summary, epochs),) = read_project("me/kernels")
    assert folder == "me/kernels/ab12"
    assert summary.keys() >= SUMMARY.keys()
    assert summary.items() >= {**DONE, "run": "ab12", "resize_epoch": 17}.items()
    assert (summary["reused_epochs"], summary["best_top1"], summary["epochs_planned"]) == (17, 0.25, 20)
    assert (summary["training_s"], summary["computed_s"]) == (20 * 9.0 + 0.5, 3 * (9.0 + 4.0) + 0.5)
    assert epochs == [{**record(number).to_dict(), "reused": number <= 17} for number in range(1, 21)]


def test_runs_of_the_server_stand_beside_those_of_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, server_run(rows=rows(20)))
    FakeRun(0, [0.5] * 4).write(tmp_path / "0")
    runs = load_runs(["wandb:me/kernels", tmp_path])
    assert [str(folder) for folder in runs["folder"]] == ["me/kernels/ab12", str(tmp_path / "0")]
    monkeypatch.setattr(client, "connect", lambda: pytest.fail("asked a second time"))
    epochs = load_epochs(runs)
    assert epochs.groupby("run", observed=True).size().to_dict() == {"ab12": 20, FakeRun(0, []).run: 4}
    assert set(load_epochs(runs[runs["run"] == "ab12"])["run"]) == {"ab12"}


@pytest.mark.parametrize(
    ("history", "summary", "state", "epochs", "standing"),
    [
        (rows(7), {"status": "running"}, "crashed", 7, ("failed", "crashed, says W&B")),
        ({}, {}, "running", 0, ("running", None)),
        (rows(7), {"status": "running", "error": None}, "finished", 7, ("running", None)),
        (rows(7), {"status": "failed", "error": "diverged"}, "failed", 7, ("failed", "diverged")),
        (
            {key: row for key, row in rows(20).items() if key != 5},
            DONE,
            "finished",
            4,
            ("failed", "W&B has 4 of its 20 epochs"),
        ),
    ],
    ids=[
        "crashed",
        "just began",
        "uploaded while it trained",
        "diverged",
        "a hole, after which epochs are none of the chain",
    ],
)
def test_a_run_is_read_as_far_as_its_epochs_go(
    monkeypatch: pytest.MonkeyPatch,
    history: dict[int, Any],
    summary: dict[str, Any],
    state: str,
    epochs: int,
    standing: tuple[str, str | None],
) -> None:
    serve(monkeypatch, server_run(summary_metrics=summary, rows=history, state=state))
    ((_, found, kept),) = read_project("me/kernels")
    assert (found["status"], found["error"]) == standing
    assert (found["epochs"], len(kept)) == (epochs, epochs)
    assert (found["best_top1"] is None) == (epochs == 0)


def test_foreign_and_damaged_runs_are_named_and_the_rest_is_read(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = rows(20)
    del damaged[3]["test/top1"]
    nameless = config()
    del nameless["identity"]["name"]
    serve(monkeypatch, server_run(config={}), server_run(), server_run(rows=damaged), server_run(config=nameless))
    with caplog.at_level(logging.WARNING):
        assert len(read_project("kernels")) == 1
    assert caplog.messages == [
        "skipped W&B's me/kernels/ab12, which is no run of rescaler (KeyError: 'test/top1')",
        "skipped W&B's me/kernels/ab12, which is no run of rescaler (KeyError: 'name')",
        "left out 1 runs of W&B's project kernels, which are not of rescaler",
    ]


def test_a_project_without_runs_of_ours_or_of_no_such_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, server_run(config={}))
    with pytest.raises(InputError, match=r"^no runs of rescaler in W&B's project 'me/kernels'$"):
        read_project("me/kernels")
    for project in ("", "a/b/c", "/a", "a/"):
        with pytest.raises(InputError, match=rf"must be wandb:ENTITY/PROJECT or wandb:PROJECT; got 'wandb:{project}'$"):
            read_project(project)


FAILED = {"status": "failed", "error": "killed", "epochs": 8}


@pytest.mark.parametrize(
    ("second", "status", "epochs"),
    [(part("2", 9, 20, summary=DONE), "done", 20), (part("2", 9, 12), "running", 12)],
    ids=["done", "going on"],
)
def test_attempts_are_one_run_whose_epochs_follow_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: Fragment, status: str, epochs: int
) -> None:
    keep(monkeypatch, tmp_path, part("1", 1, 8, summary=FAILED, state="failed"), second)
    ((folder, summary, kept),) = read_offline(tmp_path)
    assert (summary["status"], summary["error"], folder) == (status, None, Path("wandb/2"))
    assert [epoch["epoch"] for epoch in kept] == list(range(1, epochs + 1))


def test_the_newer_of_two_copies_of_an_epoch_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newer = part("2", 1, 3)
    newer.rows = rows(3, reused=3)
    keep(monkeypatch, tmp_path, part("1", 1, 20, summary=DONE, state="finished"), newer)
    ((_, summary, epochs),) = read_offline(tmp_path)
    assert (summary["status"], summary["reused_epochs"], len(epochs)) == ("done", 3, 20)
