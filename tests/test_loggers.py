"""Loggers beside W&B: chosen by name, several at once, and none of them a danger to the training."""

import csv
from collections.abc import Mapping
from importlib import util
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeExperiment

from rescaler.compose import jobs
from rescaler.config import LoggerSettings
from rescaler.errors import InputError
from rescaler.execution import execute
from rescaler.loggers import build_loggers, check_loggers
from rescaler.record import Record, read_metrics

HERE = __name__
OTHERS = {
    name: {"_target_": f"rescaler.loggers.{name}.{kind}"}
    for name, kind in (("csv", "Csv"), ("tensorboard", "TensorBoard"), ("mlflow", "Mlflow"))
}


class Broken:
    """A logger whose second epoch fails."""

    def __init__(self, folder: Path | str) -> None:
        self._calls = Path(folder) / "calls"

    def start(self, summary: Mapping[str, Any], config: Mapping[str, Any]) -> None:  # noqa: ARG002
        self._calls.write_text("start ")

    def epoch(self, record: Record, *, reused: bool) -> None:  # noqa: ARG002
        self._calls.write_text(f"{self._calls.read_text()}{record.epoch} ")
        if record.epoch == 2:
            raise OSError("no\nroom")

    def finish(self, summary: Mapping[str, Any], *, failed: bool) -> None:  # noqa: ARG002
        self._calls.write_text(f"{self._calls.read_text()}finish")


@pytest.mark.parametrize(
    ("words", "mode", "names"),
    [
        ([], "auto", []),
        (["logger=none"], "disabled", []),
        (["logger=csv"], "disabled", ["csv"]),
        (["logger=[tensorboard,csv]"], "disabled", ["tensorboard", "csv"]),
        (["logger=[wandb,mlflow]", "logger.mode=offline"], "offline", ["mlflow"]),
        (["logger=[csv,wandb]"], "auto", ["csv"]),
        (["~logger"], "disabled", []),
    ],
)
def test_loggers_are_chosen_by_name_one_or_several(words: list[str], mode: str, names: list[str]) -> None:
    logger = jobs(["data=synthetic", *words])[0].experiment.logger
    assert (logger.mode, list(logger.others)) == (mode, names)


@pytest.fixture
def run(make_experiment: MakeExperiment, tmp_path: Path) -> Path:
    """The folder of a run of six epochs that was started twice, the second time read from the ledger."""
    options = {**OTHERS["mlflow"], "uri": f"sqlite:///{tmp_path}/mlflow.db"}
    logger = LoggerSettings(others={**OTHERS, "mlflow": options})
    for _ in range(2):
        execute(make_experiment(logger=logger, ledger__folder=str(tmp_path / "ledger")), tmp_path / "run", group="")
    return tmp_path / "run"


@pytest.mark.filterwarnings("ignore")  # of the clients' own
def test_each_logger_has_every_epoch_once(run: Path) -> None:
    pytest.importorskip("tensorboard")
    mlflow = pytest.importorskip("mlflow")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trained = list(csv.DictReader(read_metrics(run / "metrics.csv").splitlines()))
    accuracies = [float(row["test_top1"]) for row in trained]
    assert len(accuracies) == 6
    rows = list(csv.DictReader((run / "log.csv").read_text().splitlines()))
    assert [float(row["test/top1"]) for row in rows] == accuracies
    assert [row["stage"] for row in rows] == ["pretrain"] * 3 + ["target"] * 3
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    scalars = events.Scalars("test/top1")
    assert [one.step for one in scalars] == list(range(1, 7))
    assert [one.value for one in scalars] == pytest.approx(accuracies)
    client = mlflow.MlflowClient(f"sqlite:///{run.parent}/mlflow.db")
    (found,) = client.search_runs([client.get_experiment_by_name("rescaler").experiment_id])
    history = sorted(client.get_metric_history(found.info.run_id, "test/top1"), key=lambda one: one.step)
    assert [(one.step, one.value) for one in history] == list(enumerate(accuracies, start=1))
    assert (found.info.status, found.data.params["optim.batch_size"]) == ("FINISHED", "16")


def test_a_logger_that_fails_is_one_warning(
    make_experiment: MakeExperiment, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = {"_target_": f"{HERE}.Broken"}
    logger = LoggerSettings(others={"broken": broken}, more=[{**broken, "folder": str(tmp_path)}])
    execute(make_experiment(logger=logger, ledger__folder=str(tmp_path / "ledger")), tmp_path / "run", group="")
    for calls in (tmp_path / "run" / "calls", tmp_path / "calls"):
        assert calls.read_text() == "start 1 2 "
    warnings = [one.getMessage() for one in caplog.records if one.name == "rescaler.loggers"]
    off = "is off, the run goes on without it: no room"
    assert warnings == [f"logger=broken {off}", f"logger=more[0] {off}"]


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    settings = LoggerSettings(others={name: OTHERS[name]})
    check_loggers(settings)
    monkeypatch.setattr("rescaler.loggers.find_spec", lambda package: None if package == name else util.find_spec("os"))
    with pytest.raises(
        InputError, match=rf"^logger={name}: {name} is not installed: pip install 'rescaler\[{name}\]'$"
    ):
        check_loggers(settings)


def test_what_is_no_logger_is_one_line(tmp_path: Path) -> None:
    for options, message in ((3, "a _target_ and its"), ({"_target_": "no.such"}, "No module named 'no'")):
        with pytest.raises(InputError, match=rf"\Alogger\.others\.mine[^\n]*{message}[^\n]*\Z"):
            build_loggers(LoggerSettings(others={"mine": options}), group="", folder=tmp_path)
    wrong = {**OTHERS["csv"], "colour": "red"}
    with pytest.raises(InputError, match=r"\Alogger\.others\.csv\._target_=rescaler\.loggers\.csv\.Csv: .*'colour'\Z"):
        check_loggers(LoggerSettings(others={"csv": wrong}))
