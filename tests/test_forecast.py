import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import MakeExperiment

from rescaler.chain import Chain
from rescaler.compose import jobs
from rescaler.config import Experiment, StageSettings
from rescaler.plan import plan
from rescaler.sweeps.forecast import Forecast, forecast, shared_hours

TABLE_2 = (106.8 / 55, 269.1 / 55)
TABLE_4 = (70.09 / 90, 179.33 / 90)
"""Hours of an epoch of the paper's two baselines."""


def forecasts(hours: Sequence[float], *overrides: str) -> list[Forecast]:
    return [forecast(job.experiment, hours) for job in jobs(overrides)]


def test_table_2_within_its_own_error() -> None:
    published = {17: 220.0, 18: 217.0, 19: 213.9, 20: 210.9, "never": 106.8, 0: 269.1}
    found = {run.resize_epoch: run.hours for run in forecasts(TABLE_2, "sweep=table2_imagenet")}
    assert found == pytest.approx(published, rel=0.015)


def test_table_4_within_its_own_error() -> None:
    # Its labels name the first target epoch: "29" has 28 pre-train epochs.
    published = {28: 145.60, 29: 144.32, 58: 110.02, 59: 107.82, "never": 70.09, 0: 179.33}
    found = {run.resize_epoch: run.hours for run in forecasts(TABLE_4, "sweep=table4_imagenet")}
    assert found == pytest.approx(published, rel=0.015)


def test_figure_6_alone_and_with_its_trunk_shared() -> None:
    # 576 pre-train and 304 target epochs; the pre-train baseline contains all of the first.
    runs = forecasts(TABLE_2, "sweep=figure6_imagenet", "schedule.epochs=55")
    baselines = [run for run in runs if run.resize_epoch in ("never", 0)]
    resized = [run for run in runs if run not in baselines]
    assert len(resized) == 16
    assert sum(run.hours for run in resized) == pytest.approx(2606, abs=1)
    assert shared_hours(resized, beside=baselines) == pytest.approx(1488, abs=1)
    assert sum(run.hours for run in runs) == pytest.approx(2982, abs=1)
    assert shared_hours(runs) == pytest.approx(1863, abs=1)
    # Without the baseline the 54 epochs of the longest trunk are trained for the first time.
    assert shared_hours(resized) == pytest.approx(54 * TABLE_2[0] + 304 * TABLE_2[1])


def test_a_run_saves_against_the_target_alone() -> None:
    (run,) = forecasts((1.0, 3.0), "resize_epoch=17")
    assert (run.hours, run.target_hours, run.saved_hours) == (17 + 38 * 3, 55 * 3, 17 * 2)
    assert not run.held


def test_held_epochs_are_not_counted() -> None:
    runs = forecasts((1.0, 3.0), "sweep=table3")
    assert [run.held for run in runs] == [False, False, True, True, True]
    assert {len(run.epochs) for run in runs} == {55}


def test_what_is_not_the_same_is_not_shared() -> None:
    seeds = forecasts((1.0, 1.0), "resize_epoch=3", "seed=0,1")
    assert shared_hours(seeds) == 2 * 55
    held = forecasts((1.0, 1.0), "resize_epoch=3", "schedule.hold_after_resize=true,false")
    assert shared_hours(held) == 3 + 2 * 52
    longer = forecasts((1.0, 1.0), "resize_epoch=3", "schedule.epochs=55,65")
    assert shared_hours(longer) == 65


def distinct_keys(chains: Sequence[Chain]) -> int:
    """Keys of all epochs of chains whose runs hold no learning rate."""
    keys = set()
    for chain in chains:
        key, done = chain.origin, 0
        while (epoch := chain._epoch(key, [0.0] * done)) is not None:
            key, done = epoch.key, done + 1
            keys.add(key)
    return len(keys)


def experiments(make: MakeExperiment) -> list[Experiment]:
    middle = StageSettings(table={1: 1, 3: 3, 5: 4}, image_px=24)
    return [
        *(make(resize_epoch=epoch, seed=seed) for epoch, seed in itertools.product((0, 2, 4, "never"), (0, 1))),
        make(resize_epoch=2, schedule__epochs=5),
        make(resize_epoch=2, schedule__milestones=[5]),
        make(resize_epoch=4, rescale__interpolation="bicubic"),
        make(resize_epoch=4, rescale__calibration_batches=3),  # of no use to bilinear
        make(resize_epoch=4, rescale__interpolation="fit", rescale__calibration_batches=3),
        *(make(resize_epoch=4, rescale__interpolation="fit", rescale__calibration_batches=many) for many in (5, 6)),
        make(resize_epoch=4, shrink__image_px=18),
        make(resize_epoch=0, shrink__image_px=18),
        make(resize_epoch=[2, 4], shrink__middle=[middle]),
        make(resize_epoch=4, data__workers=7, name="other"),
        make(resize_epoch=2, optim__batch_size=8),
    ]


def test_epochs_are_shared_where_the_ledger_shares_them(make_experiment: MakeExperiment) -> None:
    made = experiments(make_experiment)
    forecast_epochs = shared_hours(forecast(experiment, [1.0] * 9) for experiment in made)
    assert forecast_epochs == distinct_keys([plan(experiment).chain for experiment in made])


def test_planning_needs_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(forecasts((1.0, 2.0), "experiment=imagenet_overfeat", "data.folder=nowhere")) == 1
