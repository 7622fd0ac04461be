import json
from pathlib import Path

import pytest
from conftest import MakeExperiment

from rescaler.running.runfolder import RunFolder
from rescaler.settings import StageSettings
from rescaler.training.plan import plan

RESNET = {"_target_": "rescaler.models.resnet_small", "widths": [4], "blocks": 1}


@pytest.mark.parametrize(
    ("changes", "variant"),
    [
        ({}, "3->2, 5->3 at 17 px; bilinear; momentum rescale"),
        ({"resize_epoch": 0}, ""),
        ({"resize_epoch": "never", "schedule__hold_after_resize": True}, "3->2, 5->3 at 17 px"),
        (
            {"shrink__padding": {"conv1": 0}, "schedule__hold_after_resize": True},
            "3->2, 5->3 at 17 px; padding conv1=0; bilinear; momentum rescale; at most 20 epochs held",
        ),
        ({"shrink__input_only": True}, "input only at 17 px; bilinear; momentum rescale"),
        (
            {"rescale__interpolation": "fit", "rescale__momentum": "reset", "rescale__recalibrate": True},
            "3->2, 5->3 at 17 px; fit; momentum reset; 5 calibration batches",
        ),
        (
            {"model": RESNET, "rescale__recalibrate": True, "rescale__warmup_batches": 3},
            "3->2 at 19 px; bilinear; momentum rescale; BatchNorm recalibrated; 5 calibration batches; "
            "3 warmup batches",
        ),
        (
            {
                "shrink__middle": [StageSettings(table={1: 1, 3: 2, 5: 4}, image_px=22)],
                "resize_epoch": [1, 4],
            },
            "3->2, 5->3 at 17 px to epoch 1; 3->2, 5->4 at 22 px to epoch 4; bilinear; momentum rescale",
        ),
    ],
)
def test_the_summary_says_how_a_run_differs_from_others_of_its_resize_epoch(
    make_experiment: MakeExperiment, tmp_path: Path, changes: dict[str, object], variant: str
) -> None:
    RunFolder(tmp_path, plan(make_experiment(**changes)))
    assert json.loads((tmp_path / "summary.json").read_text())["variant"] == variant


@pytest.mark.parametrize(("resize_epoch", "holds"), [(0, False), (3, True), ("never", False)])
def test_only_a_resize_is_held(
    make_experiment: MakeExperiment, tmp_path: Path, resize_epoch: object, *, holds: bool
) -> None:
    RunFolder(tmp_path, plan(make_experiment(resize_epoch=resize_epoch, schedule__hold_after_resize=True)))
    assert json.loads((tmp_path / "summary.json").read_text())["hold"] is holds
