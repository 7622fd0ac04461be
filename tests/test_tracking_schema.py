import csv
import dataclasses
import io
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from test_tracking import CONFIG, SUMMARY, record

from rescaler.config import LoggerSettings
from rescaler.loggers.wandb import AXES, HIDDEN, NAMES, History, epoch, epoch_of_row, opening, summary_of
from rescaler.method.size import ImageSize
from rescaler.record import EPOCH_FIELDS


def begin(**changes: Any) -> dict[str, Any]:
    settings = LoggerSettings(project="kernels", tags=["mine"])
    return opening({**SUMMARY, **changes}, CONFIG, settings, group="sweep", folder=Path("runs/0"))


def rows(first: int, last: int) -> list[dict[str, Any]]:
    history = History()
    return [history.row(record(number), reused=number < 18) for number in range(first, last + 1)]


def test_a_row_has_both_axes() -> None:
    first, second = rows(1, 2)
    assert (first["epoch"], second["epoch"]) == (1, 2)
    assert [3600 * row["training_h"] for row in (first, second)] == pytest.approx(
        [9.0, 18.0]
    )  # evaluation is no training
    assert second["over_hours/test_top1"] == second["test/top1"] == 0.25
    assert [second[f"seconds/{clock}"] for clock in ("train", "data", "rescale", "evaluation")] == [8.0, 1.0, 0.0, 4.0]


def test_the_resize_is_an_event_of_its_row_alone() -> None:
    history = History()
    history.row(dataclasses.replace(record(17), test_top1=0.75), reused=True)
    event, after = (history.row(record(number), reused=False) for number in (18, 19))
    assert (event["rescaled"], event["image_px"], event["stage"]) == (1, 28, "target")
    assert event["resize/training_h"] == 9.0 / 3600
    assert event["resize/top1_change"] == -0.5
    assert after["rescaled"] == 0
    assert not any(name.startswith("resize/") for name in after)


def test_every_metric_has_an_axis_or_is_hidden() -> None:
    shown = {name for row in rows(17, 18) for name in row}
    assert shown == {*AXES, *HIDDEN}
    assert AXES["test/top1"] == "epoch"
    assert AXES["over_hours/test_top1"] == "training_h"
    assert "record/digest" in HIDDEN


def test_an_epoch_comes_back_whole_through_json() -> None:
    sizes: list[tuple[ImageSize, int | str]] = [(28, 28), ((32, 24), "32x24")]
    for reused, (image_px, shown) in itertools.product((True, False), sizes):
        row = json.loads(json.dumps(History().row(dataclasses.replace(record(18), image_px=image_px), reused=reused)))
        row["weight_decay"] = row["seconds/train"] = 8  # what JSON makes of 8.0 elsewhere
        expected = dataclasses.replace(record(18), weight_decay=8.0)
        back = epoch_of_row(row)
        assert back == {**expected.to_dict(), "image_px": shown, "reused": reused}
        assert {name: type(value) for name, value in back.items()} == {**EPOCH_FIELDS, "image_px": type(shown)}


def test_an_epoch_comes_back_whole_from_the_metrics_of_a_folder() -> None:
    text = io.StringIO()
    values = {**record(18).to_dict(), "reused": False}
    writer = csv.DictWriter(text, values)
    writer.writeheader()
    writer.writerow(values)
    assert [epoch(row) for row in csv.DictReader(io.StringIO(text.getvalue()))] == [values]


@pytest.mark.parametrize(
    ("changes", "tags"),
    [
        ({}, ["resized"]),
        ({"resize_epoch": 0}, ["target baseline"]),
        ({"resize_epoch": "never"}, ["pre-train baseline"]),
        ({"hold": True}, ["resized", "held"]),
    ],
)
def test_a_run_is_tagged_by_what_it_is(changes: dict[str, Any], tags: list[str]) -> None:
    assert begin(**changes)["tags"] == ["overfeat_small", "fashion_mnist", *tags, "mine"]


def test_a_run_is_one_run_in_the_group_of_its_sweep() -> None:
    start = begin()
    assert (start["id"], start["group"], start["name"]) == ("ab12", "sweep", "small resize_epoch=17 seed=3")
    named = opening(SUMMARY, CONFIG, LoggerSettings(group="mine"), group="sweep", folder=Path("runs/0"))
    assert named["group"] == "mine"


def test_the_config_has_the_identity_and_text_for_what_json_lacks() -> None:
    start = opening(SUMMARY, {**CONFIG, "folder": Path("data")}, LoggerSettings(), group="", folder=Path("runs/0"))
    assert start["config"]["folder"] == "data"
    assert start["config"]["shrink"] == {"table": {"3": 2}}
    assert start["config"]["identity"]["resize_epoch"] == 17
    assert not {"status", "updated", "epochs"} & start["config"]["identity"].keys()


def back(summary: dict[str, Any], state: str, last: int = 18) -> dict[str, Any]:
    epochs = [{**record(number).to_dict(), "reused": number < 18} for number in range(1, last + 1)]
    return summary_of(begin()["config"], summary, epochs, state=state, updated_s=0.0)


def test_a_finished_run_has_the_summary_that_it_had() -> None:
    values = back({"status": "done", "error": None, "epochs": 18, "updated": "2026-05-02T00:00:00+00:00"}, "finished")
    assert values.keys() >= SUMMARY.keys()
    assert (values["status"], values["error"], values["updated"]) == ("done", None, "2026-05-02T00:00:00+00:00")
    assert (values["epochs"], values["epochs_planned"], values["reused_epochs"]) == (18, 20, 17)
    assert values["training_s"] == 18 * 9.0 + 0.5
    assert values["computed_s"] == 9.5 + 4.0


@pytest.mark.parametrize(
    ("summary", "state", "status", "error"),
    [
        ({}, "running", "running", None),
        ({}, "crashed", "failed", "crashed, says W&B"),
        ({"status": "running", "error": None}, "finished", "running", None),  # uploaded while it trained
        ({"status": "failed", "error": "diverged"}, "failed", "failed", "diverged"),
        ({"status": "done", "epochs": 20}, "finished", "failed", "W&B has 18 of its 20 epochs"),
    ],
)
def test_an_unfinished_run_says_how_it_stands(
    summary: dict[str, Any], state: str, status: str, error: str | None
) -> None:
    values = back(summary, state)
    assert (values["status"], values["error"]) == (status, error)
    assert values["best_top1"] == 0.25
    assert values["updated"] == "1970-01-01T00:00:00+00:00"


def test_a_run_without_epochs_has_no_accuracy_yet() -> None:
    values = back({}, "running", last=0)
    assert (values["epochs"], values["best_top1"], values["training_s"]) == (0, None, 0)


def test_names_are_those_of_the_fields() -> None:
    assert NAMES.keys() == EPOCH_FIELDS.keys()
    assert len(set(NAMES.values())) == len(NAMES)
