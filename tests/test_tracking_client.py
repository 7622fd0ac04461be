import json
import logging
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_runs import FakeRun
from test_tracking import record, start

from rescaler.cli import upload
from rescaler.loggers import wandb_client as client
from rescaler.loggers.wandb import AXES
from rescaler.loggers.wandb_client import _records, fragments


@pytest.mark.parametrize(
    ("settings", "netrc", "expected"),
    [
        ({}, "", "offline"),
        ({"api_key": "k"}, "", "online"),
        ({"identity_token_file": "token"}, "", "online"),
        ({}, "machine api.example.com login user password k", "online"),
        ({}, "machine other.example.com login user password k", "offline"),
        ({"base_url": "https://api.forge.coreweave.com"}, "machine api.wandb.ai login user password k", "online"),
        ({"api_key": "k", "mode": "offline"}, "", "offline"),
        ({"mode": "disabled"}, "", "disabled"),
    ],
)
def test_auto_is_online_for_a_user_who_is_logged_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], netrc: str, expected: str
) -> None:
    known = {"mode": "online", "api_key": None, "identity_token_file": None, "base_url": "https://api.example.com"}
    stand_in = SimpleNamespace(setup=lambda: SimpleNamespace(settings=SimpleNamespace(**{**known, **settings})))
    monkeypatch.setattr(client, "wandb", stand_in)
    (tmp_path / "netrc").write_text(netrc)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert client._preferred_mode() == expected


@pytest.mark.parametrize(("with_target", "saved_s"), [(True, 2 * 3.0 - 0.5), (False, 4 * 4.0 - 10.5)])
def test_time_saved_is_against_the_target_beside_the_run_or_an_estimate(
    tmp_path: Path, with_target: bool, saved_s: float
) -> None:
    top1 = [0.5, 0.6, 0.7, 0.8]
    run = FakeRun(2, top1)
    run.write(tmp_path / "0")
    FakeRun(0, top1, seed=1).write(tmp_path / "1")
    FakeRun(0, top1, comparison="other").write(tmp_path / "2")
    (tmp_path / "3").mkdir()
    (tmp_path / "3" / "summary.json").write_text("half writ")
    if with_target:
        FakeRun(0, top1).write(tmp_path / "4")
    summary = json.loads((tmp_path / "0" / "summary.json").read_text())
    (_, end) = upload.with_time_saved([{"dir": str(tmp_path / "0")}, {"summary": summary, "failed": False}])
    assert end["summary"]["saved_s"] == pytest.approx(saved_s)
    assert end["summary"]["saved_fraction"] == pytest.approx(saved_s / 16)
    assert end["summary"]["saved_estimated"] == (not with_target)


def test_a_run_that_cannot_be_compared_says_nothing_of_time_saved(tmp_path: Path) -> None:
    summary = {"run": "a", "comparison": "b", "seed": 0, "resize_epoch": 2}
    (_, end) = upload.with_time_saved([{"dir": str(tmp_path / "gone")}, {"summary": dict(summary), "failed": True}])
    assert end["summary"] == summary


@pytest.fixture
def logged_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")


@pytest.mark.usefixtures("logged_out")
def test_attempts_of_a_run_leave_offline_files_that_follow_each_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The real client; ``wandb sync`` appends the files of one run, so an epoch in two of them would be there twice."""
    for attempt, last in enumerate((18, 20)):
        run = start(tmp_path, "auto")
        for number in range(1, last + 1):
            run.epoch(record(number), reused=number < (2, 19)[attempt])
        run.finish({"best_top1": 0.5, "epochs": last, "status": ("failed", "done")[attempt]}, failed=attempt == 0)
    (tmp_path / "wandb" / "offline-run-3").mkdir()
    (tmp_path / "wandb" / "offline-run-3" / "run-foreign.wandb").write_text("no such file")

    with caplog.at_level(logging.WARNING):
        first, second = fragments(tmp_path)
    assert len(caplog.messages) == 1
    assert "run-foreign.wandb, which W&B's client cannot have written" in caplog.text
    assert (first.run, second.run) == ("ab12", "ab12")
    assert (list(first.rows), list(second.rows)) == (list(range(1, 19)), [19, 20])
    assert (first.state, second.state) == ("failed", "finished")
    assert first.started < second.started
    assert second.config["shrink"] == {"table": {"3": 2}}
    assert second.config["identity"]["seed"] == 3
    assert second.summary.items() >= {"best_top1": 0.5, "status": "done", "test/top1": 0.25, "reused": 0}.items()
    assert second.rows[20]["training_h"] == pytest.approx((20 * 9.0 + 0.5) / 3600)
    assert [first.rows[number].get("resize/training_h") for number in (17, 18)] == [None, pytest.approx(17 * 9 / 3600)]
    assert "over_hours/test_top1" not in second.summary
    assert not [name for name in second.summary if name.startswith("record/")]
    kept = list(_records(second.path))
    axes = {one["metric"]["name"]: one["metric"].get("step_metric") for one in kept if one["type"] == "metric"}
    assert axes.items() >= AXES.items()
    told = next(one["run"] for one in kept if one["type"] == "run")
    assert (told["run_group"], told["project"]) == ("table2", "kernels")
    assert told["display_name"] == "small resize_epoch=17 seed=3"
    assert told["tags"] == ["overfeat_small", "fashion_mnist", "resized", "small", "test"]
