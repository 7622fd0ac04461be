"""What only a GPU shows; skipped where there is none."""

from pathlib import Path

import pytest
import torch
from conftest import MakeExperiment
from image_tree import plant

from rescaler.data import EpochImages
from rescaler.epoch import evaluate
from rescaler.ledger import Ledger
from rescaler.plan import plan
from rescaler.settings import DataSettings, Experiment
from rescaler.state import State
from rescaler.step import TrainingStep
from rescaler.training import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


class StopsAfter:
    def __init__(self, epochs: int) -> None:
        self._left = epochs

    def batch(self, *_: object) -> None:
        pass

    def epoch(self, *_: object, reused: bool) -> None:
        self._left -= not reused
        if self._left == 0:
            raise KeyboardInterrupt


def trained(experiment: Experiment, folder: Path, stop_after: int = 3) -> list[float]:
    with pytest.raises(KeyboardInterrupt):
        train(plan(experiment), Ledger(folder / "ledger"), folder, StopsAfter(stop_after))
    records = train(plan(experiment), Ledger(folder / "ledger"), folder, StopsAfter(-1))
    assert all(record.train_s > 0 and record.data_s >= 0 and record.evaluation_s > 0 for record in records)
    return [record.train_loss for record in records]


def test_resident_images_train_through_a_resume_as_on_the_cpu(make_experiment: MakeExperiment, tmp_path: Path) -> None:
    losses = {}
    for device in ("cpu", "cuda"):
        (tmp_path / device).mkdir()
        settings = {"device": device, "model__dropout": 0.0, "schedule__batches_per_epoch": 20}
        losses[device] = trained(make_experiment(**settings), tmp_path / device)
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=0.02)


def test_image_files_train_with_pinned_memory_and_workers(make_experiment: MakeExperiment, tmp_path: Path) -> None:
    tree = plant(tmp_path / "tree")
    data = DataSettings("imagenet", str(tree), image_px=32, classes=2, channels=3, mean=[0.5] * 3, std=[0.2] * 3)
    small = {"schedule__epochs": 4, "schedule__batches_per_epoch": 2, "optim__batch_size": 4, "resize_epoch": 2}
    assert len(trained(make_experiment(device="cuda", data=data, model__image_px=32, **small), tmp_path)) == 4


@pytest.mark.parametrize("precision", ["default", "bf16", "fp16"])
def test_a_step_waits_for_nothing(make_experiment: MakeExperiment, precision: str) -> None:
    settings = {"device": "cuda", "step__precision": precision, "optim__ema_decay": 0.9, "step__micro_batch_size": 8}
    run = plan(make_experiment(**settings))
    epoch = run.chain.next([])
    assert epoch is not None
    state = State(run.network(epoch.stage))
    state.prepare(epoch.recipe)
    step = TrainingStep(state, epoch.recipe)
    batches = list(run.data.train_batches(EpochImages(image_px=17, seed=0, epoch=1, batches=3, batch_size=16)))
    step(*batches[0], 0.1, 1)  # libraries may wait in their first call
    torch.cuda.set_sync_debug_mode("error")
    try:
        for number, batch in enumerate(batches[1:], start=2):
            step(*batch, 0.1, number)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_evaluation_by_parts_is_the_same_on_both_devices(make_experiment: MakeExperiment) -> None:
    found = {}
    for device in ("cpu", "cuda"):
        run = plan(make_experiment(device=device))
        epoch = run.chain.next([])
        assert epoch is not None
        found[device] = evaluate(run.network(epoch.stage), epoch.recipe, run.data)
    assert found["cuda"].loss == pytest.approx(found["cpu"].loss, rel=1e-3)
