import dataclasses
import itertools
import math
from typing import Any

import pytest
import torch
from bench import RESNET, Bench, Watcher
from conftest import CompileWith, MakeExperiment

from rescaler.data import EpochImages
from rescaler.method.kernels import rescale_kernel
from rescaler.training.clocks import Clocks
from rescaler.training.epoch import Diverged, evaluate, start_stage, train_epoch
from rescaler.training.plan import plan
from rescaler.training.state import State


def test_momentum_is_rescaled_or_reset(bench: Bench, make_experiment: MakeExperiment) -> None:
    # The first SGD step adds momentum times the buffer it finds: with one batch an epoch, that is all the difference.
    small = {"schedule__batches_per_epoch": 1, "ledger__keep": "all"}
    states = {}
    for mode in ("rescale", "reset"):
        records = bench.train(make_experiment(rescale__momentum=mode, **small), name=mode)
        states[mode] = bench.ledger.state(records[3].key)
        before = bench.ledger.state(records[2].key)
    rescaled, reset = states["rescale"], states["reset"]
    assert before is not None
    assert rescaled is not None
    assert reset is not None
    for name, size in (("momentum.conv1.weight", (5, 5)), ("momentum.conv2.weight", (3, 3))):
        carried = rescaled[name] - reset[name]
        torch.testing.assert_close(carried, 0.9 * rescale_kernel(before[name], size), rtol=1e-4, atol=1e-6)


def test_momentum_of_a_fit_goes_the_way_of_its_start(bench: Bench, make_experiment: MakeExperiment) -> None:
    run = plan(make_experiment(rescale__interpolation="fit"))
    records = bench.train(make_experiment(ledger__keep="all"))
    before = bench.ledger.state(records[2].key)
    assert before is not None
    state = State(run.network(run.chain.stages[0]))
    state.load(before, records[2].digest)
    epoch = run.chain.next(records[:3])
    assert epoch is not None
    fitted = start_stage(state, epoch, run)
    expected = rescale_kernel(before["momentum.conv1.weight"], (5, 5), mode="pinv")
    torch.testing.assert_close(fitted.momentum["conv1.weight"], expected)


def test_what_was_learnt_is_kept_better_by_a_fit(bench: Bench, make_experiment: MakeExperiment) -> None:
    """Loss on the test set right after the rescale."""
    records = bench.train(make_experiment(schedule__batches_per_epoch=20))
    before = bench.ledger.state(records[2].key)
    assert before is not None
    loss = {}
    for interpolation in ("bilinear", "fit"):
        run = plan(make_experiment(schedule__batches_per_epoch=20, rescale__interpolation=interpolation))
        state, epoch = State(run.network(run.chain.stages[0])), run.chain.next(records[:3])
        state.load(before, records[2].digest)
        assert epoch is not None
        loss[interpolation] = evaluate(start_stage(state, epoch, run).network, epoch.recipe, run.data).loss
    assert loss["fit"] < loss["bilinear"]


def test_recalibrated_statistics_are_those_of_the_coming_images(bench: Bench, make_experiment: MakeExperiment) -> None:
    experiment = make_experiment(model=RESNET, rescale__recalibrate=True, rescale__calibration_batches=2)
    run = plan(experiment)
    state, epoch = State(run.network(run.chain.stages[0])), run.chain.next(bench.train(experiment)[:3])
    assert epoch is not None
    network = start_stage(state, epoch, run).network
    batches = run.data.train_batches(EpochImages(image_px=28, seed=0, epoch=4, batches=5, batch_size=16))
    images = torch.cat([images for images, _ in itertools.islice(batches, 2)])
    with torch.no_grad():
        first = network.get_submodule("conv1")(images)
    torch.testing.assert_close(network.get_buffer("bn1.running_mean"), first.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_the_learning_rate_rises_over_the_first_batches_after_a_rescale(
    bench: Bench, make_experiment: MakeExperiment
) -> None:
    """One batch with a warm-up over two trains at half the rate: half the step from the same start."""
    states = {}
    for name, changes in {
        "half": {"schedule__batches_per_epoch": 2, "rescale__warmup_batches": 2},
        "whole": {"schedule__batches_per_epoch": 2},
    }.items():
        experiment = make_experiment(resize_epoch=1, schedule__epochs=2, rescale__momentum="reset", **changes)
        run = plan(experiment)
        epoch = run.chain.next(bench.train(experiment, name=name)[:1])
        assert epoch is not None
        one = dataclasses.replace(epoch, recipe=dataclasses.replace(epoch.recipe, batches=1))
        state = State(run.network(epoch.stage))
        start = state.tensors()["network.conv1.weight"].clone()
        train_epoch(state, one, run, Clocks(run.device), Watcher())
        states[name] = state.tensors()["network.conv1.weight"] - start
    torch.testing.assert_close(2 * states["half"], states["whole"], rtol=1e-3, atol=1e-7)


def test_divergence_stops_the_run_with_epoch_and_learning_rate(bench: Bench, make_experiment: MakeExperiment) -> None:
    with pytest.raises(Diverged, match=r"the loss became nan in epoch 1 at learning rate 1e\+09: training stopped"):
        bench.train(make_experiment(schedule__learning_rates=[1e9, 1.0]))


def test_parts_of_a_batch_train_as_the_whole(bench: Bench, other: Bench, make_experiment: MakeExperiment) -> None:
    whole = bench.train(make_experiment(model__dropout=0.0))
    parts = other.train(make_experiment(model__dropout=0.0, step__micro_batch_size=6))
    assert [record.key for record in parts] != [record.key for record in whole]
    assert [record.train_top1 for record in parts] == pytest.approx([record.train_top1 for record in whole], abs=0.013)
    for name in ("train_loss", "test_loss"):
        losses = [[getattr(record, name) for record in records] for records in (parts, whole)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_smoothed_labels_are_for_training_alone(bench: Bench, make_experiment: MakeExperiment) -> None:
    # Of four classes, all but equally likely at first: whatever the labels, the loss of equal scores is ln 4.
    records = bench.train(make_experiment(optim__label_smoothing=0.4, schedule__batches_per_epoch=40))
    least = -(0.7 * math.log(0.7) + 3 * 0.1 * math.log(0.1))  # what even the best scores lose
    assert records[-1].train_loss > least > records[-1].test_loss


def test_what_is_tested_is_the_moving_average(bench: Bench, make_experiment: MakeExperiment) -> None:
    experiment = make_experiment(model=RESNET, optim__ema_decay=0.9, ledger__keep="all")
    records = bench.train(experiment)
    run, last = plan(experiment), records[-1]
    tensors = bench.ledger.state(last.key)
    assert tensors is not None
    losses = {}
    for part in ("ema", "network"):
        network = run.network(run.chain.stage(6))
        network.load_state_dict(
            {name.partition(".")[2]: value for name, value in tensors.items() if name.startswith(f"{part}.")}
        )
        epoch = run.chain.next(records[:5])
        assert epoch is not None
        losses[part] = evaluate(network, epoch.recipe, run.data).loss
    assert losses["ema"] == last.test_loss != losses["network"]


def test_the_moving_average_is_rescaled_as_the_weights_are(bench: Bench, make_experiment: MakeExperiment) -> None:
    experiment = make_experiment(optim__ema_decay=0.9)
    run = plan(experiment)
    records = bench.train(experiment)[:3]
    before = bench.ledger.state(records[2].key)
    assert before is not None
    state = State(run.network(run.chain.stages[0]))
    state.load(before, records[2].digest)
    epoch = run.chain.next(records)
    assert epoch is not None
    after = start_stage(state, epoch, run).tensors()
    expected = rescale_kernel(before["ema.conv1.weight"], (5, 5))
    torch.testing.assert_close(after["ema.conv1.weight"], expected)
    assert not torch.equal(after["ema.conv1.weight"], after["network.conv1.weight"])


def test_each_network_is_compiled_once_and_its_seconds_are_on_their_own_clock(
    bench: Bench, make_experiment: MakeExperiment, compile_with: CompileWith, caplog: pytest.LogCaptureFixture
) -> None:
    compiled: list[tuple[int, ...]] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        compiled.extend(tuple(value.shape) for value in inputs if value.dim() == 4 and len(value) in (16, 100))
        return graph.forward

    compile_with(backend)
    records = bench.train(make_experiment(step__compile=True))
    assert compiled == [(16, 1, 17, 17), (100, 1, 17, 17), (16, 1, 28, 28), (100, 1, 28, 28)]
    assert [record.compile_s > 0 for record in records] == [True, False, False, True, False, False]
    assert all(record.train_s > 0 for record in records)
    assert [record.message for record in caplog.records if record.name.startswith("rescaler")] == []


def test_a_network_that_is_compiled_again_and_again_is_reported(
    bench: Bench, make_experiment: MakeExperiment, compile_with: CompileWith, caplog: pytest.LogCaptureFixture
) -> None:
    compile_with("eager")
    bench.train(make_experiment(model={"_target_": "networks.fickle"}, step__compile=True))
    assert "epoch 1 was slowed down: torch compiled the network anew in the middle of it" in caplog.messages


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("too many"), RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")]
)
def test_evaluation_takes_fewer_images_at_once_where_the_memory_is_too_small(
    make_experiment: MakeExperiment, error: RuntimeError
) -> None:
    sizes: list[int] = []

    class Small(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(4))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            sizes.append(len(images))
            if len(images) > 31:
                raise error
            return images.mean((1, 2, 3))[:, None] * self.weight

    run = plan(make_experiment())
    epoch = run.chain.next([])
    assert epoch is not None
    scores = evaluate(Small(), epoch.recipe, run.data)
    assert sizes == [100, 100, 62, 31, 31, 31, 7]
    assert scores.loss == pytest.approx(math.log(4))
    assert scores.top5 == 1
