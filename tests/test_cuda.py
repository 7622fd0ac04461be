"""What only a GPU shows; skipped where there is none."""

from pathlib import Path

import pytest
import torch
from bench import RESNET, Bench
from conftest import MakeExperiment
from image_tree import plant
from test_train import Ending

from rescaler.config import DataSettings, Experiment
from rescaler.data.order import EpochImages
from rescaler.ledger import Ledger
from rescaler.plan import plan
from rescaler.state import State
from rescaler.train import Step, evaluate, train

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
        train(plan(experiment), Ledger(folder / "ledger"), folder, [StopsAfter(stop_after)])
    records = train(plan(experiment), Ledger(folder / "ledger"), folder, [StopsAfter(-1)])
    assert all(record.train_s > 0 and record.data_s >= 0 and record.evaluation_s > 0 for record in records)
    return [record.train_loss for record in records]


def test_resident_images_train_through_a_resume_as_on_the_cpu(make_experiment: MakeExperiment, tmp_path: Path) -> None:
    losses = {}
    for device in ("cpu", "cuda"):
        (tmp_path / device).mkdir()
        # Without TF32, whose errors grow to twice the loss where the network begins to learn.
        settings = {
            "device": device,
            "model__dropout": 0.0,
            "schedule__batches_per_epoch": 20,
            "step__precision": "fp32",
        }
        losses[device] = trained(make_experiment(**settings), tmp_path / device)[:4]
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=0.02)


@pytest.mark.parametrize(
    "settings",
    [
        {"step__precision": "tf32"},
        {"step__precision": "fp16", "step__micro_batch_size": 6},
        {"step__precision": "bf16", "step__optimizer": "foreach", "step__memory_format": "contiguous"},
        {"step__precision": "bf16", "step__cudnn_benchmark": True},
        {"step__precision": "bf16", "step__compile": True},
        {"step__precision": "fp16", "step__compile": True},
        {"step__precision": "bf16", "step__compile": True, "step__cuda_graphs": True},
        {"step__precision": "fp16", "step__compile": True, "step__cuda_graphs": True},
    ],
    ids=lambda settings: " ".join(f"{key.removeprefix('step__')}={value}" for key, value in settings.items()),
)
def test_each_way_to_compute_learns_through_a_resume_and_the_resize(
    make_experiment: MakeExperiment, tmp_path: Path, settings: dict[str, object]
) -> None:
    kept = {"rescale__interpolation": "fit", "rescale__recalibrate": True, "optim__ema_decay": 0.9}
    experiment = make_experiment(device="cuda", model=RESNET, schedule__batches_per_epoch=20, **kept, **settings)
    losses = trained(experiment, tmp_path)
    assert losses[-1] < 0.7 * losses[0]


def test_a_save_in_the_middle_of_an_epoch_goes_on_to_the_same_losses(
    bench: Bench, other: Bench, make_experiment: MakeExperiment
) -> None:
    settings = {"device": "cuda", "step__precision": "fp16", "optim__ema_decay": 0.9, "model__dropout": 0.0}
    experiment = make_experiment(schedule__batches_per_epoch=20, **settings)
    with pytest.raises(KeyboardInterrupt):
        bench.train(experiment, saver=Ending(bench.ledger, 30))
    resumed, whole = bench.train(experiment)[:4], other.train(experiment)[:4]
    assert [record.train_loss for record in resumed] == pytest.approx([record.train_loss for record in whole], rel=0.02)
    assert all(record.train_s > 0 for record in resumed)


def test_image_files_train_with_pinned_memory_and_workers(make_experiment: MakeExperiment, tmp_path: Path) -> None:
    tree = plant(tmp_path / "tree")
    data = DataSettings("imagenet", str(tree), image_px=32, classes=2, channels=3, mean=[0.5] * 3, std=[0.2] * 3)
    small = {"schedule__epochs": 4, "schedule__batches_per_epoch": 2, "optim__batch_size": 4, "resize_epoch": 2}
    assert len(trained(make_experiment(device="cuda", data=data, model__image_px=32, **small), tmp_path)) == 4


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")  # that it is a prototype
@pytest.mark.parametrize("precision", ["default", "bf16", "fp16"])
def test_a_step_waits_for_nothing(make_experiment: MakeExperiment, precision: str) -> None:
    settings = {"device": "cuda", "step__precision": precision, "optim__ema_decay": 0.9, "step__micro_batch_size": 8}
    run = plan(make_experiment(**settings))
    epoch = run.chain.next([])
    assert epoch is not None
    state = State(run.network(epoch.stage))
    state.prepare(epoch.recipe)
    step = Step(state, epoch.recipe)
    batches = list(run.data.train_batches(EpochImages(image_px=17, seed=0, epoch=1, batches=3, batch_size=16)))
    step(*batches[0], 0.1, 1)  # libraries may wait in their first call
    try:
        torch.cuda.set_sync_debug_mode("error")
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
