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
from rescaler.loggers.wandb import AXES, HIDDEN, NAMES, History, epoch, epoch_of_row, opening
from rescaler.method import ImageSize
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


def test_every_field_is_a_metric_that_has_an_axis_or_is_hidden() -> None:
    assert NAMES.keys() == EPOCH_FIELDS.keys()
    assert len(set(NAMES.values())) == len(NAMES)
    assert {name for row in rows(17, 18) for name in row} == {*AXES, *HIDDEN}
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


def test_a_run_is_one_run_in_the_group_of_its_sweep_with_its_identity_and_settings() -> None:
    start = begin()
    assert (start["id"], start["group"], start["name"]) == ("ab12", "sweep", "small resize_epoch=17 seed=3")
    settings = {**CONFIG, "folder": Path("data")}
    named = opening(SUMMARY, settings, LoggerSettings(group="mine"), group="sweep", folder=Path("runs/0"))
    assert named["group"] == "mine"
    assert named["config"]["folder"] == "data", "text for what JSON lacks"
    assert named["config"]["shrink"] == {"table": {"3": 2}}
    assert named["config"]["identity"]["resize_epoch"] == 17
    assert not {"status", "updated", "epochs"} & named["config"]["identity"].keys()
