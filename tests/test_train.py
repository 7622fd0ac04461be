import dataclasses
import gc
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from bench import RESNET, Bench
from conftest import CompileWith, MakeExperiment
from image_tree import plant

from rescaler.checkpoint import digest
from rescaler.clocks import Clocks
from rescaler.config import DataSettings, StageSettings
from rescaler.data.order import EpochImages
from rescaler.errors import InputError
from rescaler.ledger import Ledger
from rescaler.method.kernels import rescale_kernel
from rescaler.plan import plan
from rescaler.process import Interruption
from rescaler.record import Record
from rescaler.resume import Progress, RunLedger, Saver, pin_states
from rescaler.state import State
from rescaler.train import Diverged, evaluate, start_stage, train_epoch


def digests(records: list[Record]) -> list[str]:
    return [record.digest for record in records]


def test_a_run_learns_and_its_records_say_how(bench: Bench, make_experiment: MakeExperiment) -> None:
    records = bench.train(make_experiment(schedule__batches_per_epoch=20))
    assert [record.stage for record in records] == ["pretrain"] * 3 + ["target"] * 3
    assert [record.image_px for record in records] == [17] * 3 + [28] * 3
    assert [record.rescaled for record in records] == [False] * 3 + [True] + [False] * 2
    assert [record.learning_rate for record in records] == [0.03] * 4 + [0.01] * 2
    assert [record.weight_decay for record in records] == [1e-4] * 5 + [0.0]
    assert records[-1].test_top1 > 0.9
    assert records[-1].test_loss < records[0].test_loss
    assert [record.parent_digest for record in records] == ["", *digests(records)[:-1]]
    assert records[3].rescale_s > 0 == records[4].rescale_s
    assert all(record.train_s > 0 and record.evaluation_s > 0 for record in records)


def test_the_device_holds_one_network_at_a_time(
    bench: Bench, make_experiment: MakeExperiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []

    def counted(*arguments: Any) -> Progress:
        gc.collect()
        held.append(sum(type(found) is State for found in gc.get_objects()))
        return train_epoch(*arguments)

    monkeypatch.setattr("rescaler.train.train_epoch", counted)
    bench.train(make_experiment())
    assert held == [1] * 6


@pytest.mark.parametrize("stop_after", [1, 3, 5])
def test_a_stopped_run_goes_on_to_the_same_bits(
    bench: Bench, other: Bench, make_experiment: MakeExperiment, stop_after: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        bench.train(make_experiment(), stop_after)
    resumed = bench.train(make_experiment())
    assert bench.watcher.reused == list(range(1, stop_after + 1))
    assert digests(resumed) == digests(other.train(make_experiment()))


class Ending(Saver):
    """Saves when the ``number``-th chance to save comes, and ends the run."""

    def __init__(self, ledger: Ledger, number: int) -> None:
        super().__init__(ledger, Interruption())
        self._number = number
        self.chances = 0

    @property
    def due(self) -> bool:
        self.chances += 1
        return self.chances == self._number

    def save(self, *arguments: Any) -> None:
        super().save(*arguments)
        raise KeyboardInterrupt


@pytest.mark.parametrize("chance", [2, 5, 6, 21, 24])  # a chance after each of 5 batches, and 1 in the evaluation
@pytest.mark.parametrize("name", ["run", "another"])
def test_a_run_saved_in_the_middle_of_an_epoch_goes_on_to_the_same_bits(
    bench: Bench, other: Bench, make_experiment: MakeExperiment, chance: int, name: str
) -> None:
    with pytest.raises(KeyboardInterrupt):
        bench.train(make_experiment(), saver=Ending(bench.ledger, chance))
    saved = list(bench.ledger.folder.glob("saves/*.safetensors"))
    assert len(saved) == 1
    assert bench.ledger.prune(force=True).states == 0
    content = bench.ledger.saved(saved[0].stem)
    assert content is not None
    assert content.more["batches"] == min((chance - 1) % 6 + 1, 5)
    assert content.more["seconds"]["train"] > 0
    rest = Ending(bench.ledger, 0)
    resumed = bench.train(make_experiment(), name=name, saver=rest)
    assert rest.chances == 6 * 6 - chance + (chance % 6 == 0)  # the evaluation is begun anew
    assert digests(resumed) == digests(other.train(make_experiment()))
    assert [record.train_loss for record in resumed] == [record.train_loss for record in other.train(make_experiment())]
    assert list(bench.ledger.folder.glob("saves/*")) == []


MODERN = {
    "optim__label_smoothing": 0.1,
    "optim__ema_decay": 0.9,
    "step__micro_batch_size": 5,
    "schedule__rule": "cosine",
    "schedule__learning_rates": [0.03],
    "schedule__milestones": [],
    "schedule__warmup_epochs": 1,
    "rescale__distill_batches": 4,
    "schedule__recalibration_batches": 2,
}


# A chance in and after the first epoch, in the one after the rescale, and in the last test.
@pytest.mark.parametrize(("precision", "chance"), [("fp32", 3), ("fp16", 6), ("bf16", 21), ("fp16", 21), ("fp32", 36)])
def test_all_that_training_keeps_survives_a_save_in_the_middle_of_an_epoch(
    bench: Bench, other: Bench, make_experiment: MakeExperiment, precision: str, chance: int
) -> None:
    experiment = make_experiment(model=RESNET, step__precision=precision, **MODERN)
    with pytest.raises(KeyboardInterrupt):
        bench.train(experiment, saver=Ending(bench.ledger, chance))
    resumed, whole = bench.train(experiment), other.train(experiment)
    assert digests(resumed) == digests(whole)
    assert [record.test_loss for record in resumed] == [record.test_loss for record in whole]
    assert [record.learning_rate for record in whole[:2]] == pytest.approx([0.015, 0.03 * (1 + 0.9045085) / 2])


def test_a_run_that_found_its_trunk_ends_as_one_that_trained_alone(
    bench: Bench, other: Bench, make_experiment: MakeExperiment
) -> None:
    bench.train(make_experiment(resize_epoch=2), name="two")
    shared = bench.train(make_experiment(resize_epoch=4), name="four")
    assert bench.watcher.computed == [3, 4, 5, 6]
    assert digests(shared) == digests(other.train(make_experiment(resize_epoch=4)))


def test_forks_held_in_advance_share_the_trunk_in_any_order(bench: Bench, make_experiment: MakeExperiment) -> None:
    early = make_experiment(resize_epoch=2)
    (bench.folder / "early").mkdir()
    pin_states(plan(early), bench.ledger, bench.folder / "early")
    bench.train(make_experiment(resize_epoch=4), name="late")
    bench.train(early, name="early")
    assert bench.watcher.computed == [3, 4, 5, 6]


def test_a_finished_run_is_load_cached(bench: Bench, make_experiment: MakeExperiment) -> None:
    records = bench.train(make_experiment())
    assert bench.train(make_experiment()) == records
    assert bench.watcher.computed == []


def test_a_run_is_extended(bench: Bench, other: Bench, make_experiment: MakeExperiment) -> None:
    bench.train(make_experiment())
    longer = bench.train(make_experiment(schedule__epochs=8), name="longer")
    assert bench.watcher.computed == [7, 8]
    assert digests(longer) == digests(other.train(make_experiment(schedule__epochs=8)))


@pytest.mark.parametrize(("keep", "kept"), [("last", [6]), ("forks", [3, 6]), ("all", [1, 2, 3, 4, 5, 6])])
def test_the_states_asked_for_are_kept(
    bench: Bench, make_experiment: MakeExperiment, keep: str, kept: list[int]
) -> None:
    assert bench.kept(bench.train(make_experiment(ledger__keep=keep))) == kept
    assert bench.ledger.prune(force=True).states == 0


def test_a_lost_state_is_trained_again_to_the_same_bits(bench: Bench, make_experiment: MakeExperiment) -> None:
    with pytest.raises(KeyboardInterrupt):
        bench.train(make_experiment(), 5)
    fifth = plan(make_experiment()).chain.recorded(bench.ledger)[4]
    bench.ledger.state_path(fifth.key).write_bytes(b"not a state")
    records = bench.train(make_experiment())
    assert bench.watcher.computed == [4, 5, 6]  # from the fork on
    assert records[4].digest == fifth.digest


@pytest.mark.parametrize("point", ["hold", "publish", "release"])
@pytest.mark.parametrize("call", [3, 4])
def test_a_run_killed_between_two_writes_goes_on(
    bench: Bench, other: Bench, make_experiment: MakeExperiment, monkeypatch: pytest.MonkeyPatch, point: str, call: int
) -> None:
    whole = getattr(Ledger, point)
    calls = 0

    def dies(self: Ledger, *arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        return whole(self, *arguments)

    monkeypatch.setattr(Ledger, point, dies)
    with pytest.raises(KeyboardInterrupt):
        bench.train(make_experiment())
    monkeypatch.setattr(Ledger, point, whole)
    records = bench.train(make_experiment(), name="again")
    assert digests(records) == digests(other.train(make_experiment()))
    assert bench.kept(records) == [3, 6]  # no state of the first attempt is left over


def test_an_early_epoch_trained_again_with_other_bits_breaks_no_other_run(
    bench: Bench, make_experiment: MakeExperiment
) -> None:
    late = bench.train(make_experiment(resize_epoch=4), name="late")
    torch.set_num_threads(2)  # as on another machine: sums in another order
    try:
        early = bench.train(make_experiment(resize_epoch=2), name="early")
    finally:
        torch.set_num_threads(1)
    assert bench.watcher.computed == [1, 2, 3, 4, 5, 6]
    assert [record.key for record in early[:2]] == [record.key for record in late[:2]]
    assert bench.train(make_experiment(resize_epoch=4), name="late") == late
    assert bench.watcher.computed == []


def test_a_damaged_record_costs_its_epoch_alone(bench: Bench, make_experiment: MakeExperiment) -> None:
    records = bench.train(make_experiment())
    (bench.ledger.state_path(records[3].key).with_name("record.json")).write_text("{")
    again = bench.train(make_experiment())
    assert bench.watcher.computed == [4]
    assert digests(again) == digests(records)


def test_extended_section_5_2_holds_until_accuracy_drops(bench: Bench, make_experiment: MakeExperiment) -> None:
    records = bench.train(make_experiment(schedule__hold_after_resize=True, schedule__hold_limit=4))
    extra = [record.epoch for record in records if record.held]
    assert extra[0] == 4
    assert len(records) == 6 + len(extra)
    top1 = [record.test_top1 for record in records]
    drops = [epoch for epoch in range(5, len(records) + 1) if top1[epoch - 1] < top1[epoch - 2]]
    assert extra[-1] == min([*drops, 7])


@pytest.mark.parametrize("resize_epoch", [0, "never"])
def test_baselines_have_one_stage(bench: Bench, make_experiment: MakeExperiment, resize_epoch: object) -> None:
    records = bench.train(make_experiment(resize_epoch=resize_epoch))
    assert {record.stage for record in records} == {"target" if resize_epoch == 0 else "pretrain"}
    assert not any(record.rescaled for record in records)


CALIBRATED = {"rescale__interpolation": "fit", "rescale__recalibrate": True, "rescale__calibration_batches": 2}


@pytest.mark.parametrize("stop_after", [3, 4])
def test_a_calibrated_rescale_is_the_same_after_a_kill(
    bench: Bench, other: Bench, make_experiment: MakeExperiment, stop_after: int
) -> None:
    experiment = make_experiment(model=RESNET, **CALIBRATED)
    with pytest.raises(KeyboardInterrupt):
        bench.train(experiment, stop_after)
    torch.rand(3)
    assert digests(bench.train(experiment)) == digests(other.train(experiment))


THREE = {"shrink__middle": [StageSettings(table={1: 1, 3: 2, 5: 4}, image_px=22)], "resize_epoch": [2, 4]}


@pytest.mark.parametrize("stop_after", [2, 3, 4])
def test_three_stages_go_on_to_the_same_bits(
    bench: Bench, other: Bench, make_experiment: MakeExperiment, stop_after: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        bench.train(make_experiment(**THREE), stop_after)
    records = bench.train(make_experiment(**THREE))
    assert [record.image_px for record in records] == [17] * 2 + [22] * 2 + [28] * 2
    assert [record.rescaled for record in records] == [False, False, True, False, True, False]
    assert digests(records) == digests(other.train(make_experiment(**THREE)))
    assert bench.kept(records) == [2, 4, 6]


def test_three_stages_share_the_trunk_of_two(bench: Bench, make_experiment: MakeExperiment) -> None:
    bench.train(make_experiment(resize_epoch=3, ledger__keep="all"), name="two")
    records = bench.train(make_experiment(**THREE), name="three")
    assert bench.watcher.computed == [3, 4, 5, 6]
    assert [record.stage for record in records] == ["pretrain"] * 2 + ["middle"] * 2 + ["target"] * 2


def test_three_stages_hold_after_the_last_rescale(bench: Bench, make_experiment: MakeExperiment) -> None:
    held = {"schedule__hold_after_resize": True, "schedule__hold_limit": 2}
    records = bench.train(make_experiment(**THREE, **held))
    assert min(record.epoch for record in records if record.held) == 5


def test_input_only_trains_on_small_images_with_the_targets_kernels(
    bench: Bench, make_experiment: MakeExperiment
) -> None:
    records = bench.train(make_experiment(shrink__input_only=True, schedule__batches_per_epoch=20, ledger__keep="all"))
    assert [record.image_px for record in records] == [17] * 3 + [28] * 3
    state = bench.ledger.state(records[2].key)
    assert state is not None
    assert state["network.conv1.weight"].shape[-2:] == (5, 5)
    assert records[-1].test_top1 > 0.9


def test_who_loses_the_race_goes_on_from_the_published_state(bench: Bench, make_experiment: MakeExperiment) -> None:
    first = bench.train(make_experiment(ledger__keep="all"))[0]
    theirs = bench.ledger.state(first.key)
    run = plan(make_experiment())
    state = State(run.network(run.chain.stages[0]))  # other numbers under the same key, as a GPU may give
    standing = RunLedger(run, bench.ledger, bench.folder, frozenset()).publish(
        dataclasses.replace(first, train_s=1.0), state
    )
    assert standing == first
    assert theirs is not None
    assert digest(state.tensors()) == first.digest == state.digest


def test_weights_and_random_numbers_outside_a_run_do_not_matter(
    bench: Bench, other: Bench, make_experiment: MakeExperiment
) -> None:
    torch.manual_seed(1)
    one = bench.train(make_experiment())
    torch.manual_seed(2)
    assert digests(one) == digests(other.train(make_experiment()))


def test_the_seed_matters(bench: Bench, make_experiment: MakeExperiment) -> None:
    assert digests(bench.train(make_experiment())) != digests(bench.train(make_experiment(seed=1), name="seed1"))


@pytest.mark.parametrize("workers", [0, 2])
def test_image_files_train_alike_whatever_the_workers(
    bench: Bench, other: Bench, make_experiment: MakeExperiment, tmp_path: Path, workers: int
) -> None:
    tree = plant(tmp_path / "tree")
    data = DataSettings("imagenet", str(tree), image_px=32, classes=2, channels=3, mean=[0.5] * 3, std=[0.2] * 3)
    small = {"schedule__epochs": 2, "schedule__batches_per_epoch": 2, "optim__batch_size": 4, "resize_epoch": 1}
    experiment = make_experiment(data=data, model__image_px=32, **small)
    one = bench.train(dataclasses.replace(experiment, data=dataclasses.replace(data, workers=1)))
    two = other.train(dataclasses.replace(experiment, data=dataclasses.replace(data, workers=workers)))
    assert digests(one) == digests(two)
    assert [record.image_px for record in one] == [19, 32]


def test_momentum_is_rescaled_or_reset(bench: Bench, make_experiment: MakeExperiment) -> None:
    # The first SGD step adds momentum times the buffer it finds: with one batch an epoch, that is all the difference.
    small = {"schedule__batches_per_epoch": 1, "ledger__keep": "all"}
    states = {}
    for mode in ("resize", "reset"):
        records = bench.train(make_experiment(rescale__optimizer_state=mode, **small), name=mode)
        states[mode] = bench.ledger.state(records[3].key)
        before = bench.ledger.state(records[2].key)
    rescaled, reset = states["resize"], states["reset"]
    assert before is not None
    assert rescaled is not None
    assert reset is not None
    for name, size in (("optim.conv1.weight.momentum_buffer", (5, 5)), ("optim.conv2.weight.momentum_buffer", (3, 3))):
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
    fitted = start_stage(run, epoch, state)
    expected = rescale_kernel(before["optim.conv1.weight.momentum_buffer"], (5, 5), mode="pinv")
    torch.testing.assert_close(fitted.optimizer_tensors()["conv1.weight.momentum_buffer"], expected)


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
        loss[interpolation] = evaluate(start_stage(run, epoch, state).network, epoch.recipe, run.data).loss
    assert loss["fit"] < loss["bilinear"]


def test_recalibrated_statistics_are_those_of_the_coming_images(bench: Bench, make_experiment: MakeExperiment) -> None:
    experiment = make_experiment(model=RESNET, rescale__recalibrate=True, rescale__calibration_batches=2)
    run = plan(experiment)
    state, epoch = State(run.network(run.chain.stages[0])), run.chain.next(bench.train(experiment)[:3])
    assert epoch is not None
    network = start_stage(run, epoch, state).network
    batches = run.data.train_batches(EpochImages(28, 0, 4, batches=5, batch_size=16, first=3 * 80, flip=True))
    images = torch.cat([images for images, _ in itertools.islice(batches, 2)])
    with torch.no_grad():
        first = network.get_submodule("conv1")(images)
    torch.testing.assert_close(network.get_buffer("bn1.running_mean"), first.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_statistics_of_the_last_epoch_are_those_of_its_weights(bench: Bench, make_experiment: MakeExperiment) -> None:
    last = make_experiment(model=RESNET, resize_epoch=0, schedule__recalibration_batches=2)
    plain = bench.train(make_experiment(model=RESNET, resize_epoch=0))
    records, run = bench.train(last), plan(last)
    assert [one.key for one in records[:-1]] == [one.key for one in plain[:-1]]
    tensors, without = bench.ledger.state(records[-1].key), bench.ledger.state(plain[-1].key)
    assert tensors is not None
    assert without is not None
    torch.testing.assert_close(tensors["network.conv1.weight"], without["network.conv1.weight"])
    batches = run.data.train_batches(EpochImages(28, 0, 6, batches=5, batch_size=16, first=5 * 80, flip=True))
    images = torch.cat([images for images, _ in itertools.islice(batches, 2)])
    first = torch.nn.functional.conv2d(images, tensors["network.conv1.weight"], padding=1)
    torch.testing.assert_close(tensors["network.bn1.running_mean"], first.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(tensors["network.bn1.running_mean"], without["network.bn1.running_mean"], rtol=1e-2)


def test_the_learning_rate_rises_over_the_first_batches_after_a_rescale(
    bench: Bench, make_experiment: MakeExperiment
) -> None:
    """One batch with a warm-up over two trains at half the rate: half the step from the same start."""
    states = {}
    for name, changes in {
        "half": {"schedule__batches_per_epoch": 2, "rescale__warmup_batches": 2},
        "whole": {"schedule__batches_per_epoch": 2},
    }.items():
        experiment = make_experiment(resize_epoch=1, schedule__epochs=2, rescale__optimizer_state="reset", **changes)
        run = plan(experiment)
        epoch = run.chain.next(bench.train(experiment, name=name)[:1])
        assert epoch is not None
        one = dataclasses.replace(epoch, recipe=dataclasses.replace(epoch.recipe, batches=1))
        state = State(run.network(epoch.stage))
        start = state.tensors()["network.conv1.weight"].clone()
        train_epoch(run, one, state, Clocks(run.device))
        states[name] = state.tensors()["network.conv1.weight"] - start
    torch.testing.assert_close(2 * states["half"], states["whole"], rtol=1e-3, atol=1e-7)


def test_divergence_stops_the_run_with_epoch_and_learning_rate(bench: Bench, make_experiment: MakeExperiment) -> None:
    with pytest.raises(Diverged, match=r"the loss became nan in epoch 1 at learning rate 1e\+09: training stopped"):
        bench.train(make_experiment(schedule__learning_rates=[1e9, 1.0]))


def test_scores_that_no_parameter_can_change_are_refused(bench: Bench, make_experiment: MakeExperiment) -> None:
    with pytest.raises(InputError, match="scores follow from no parameter with requires_grad"):
        bench.train(make_experiment(model={"_target_": f"{__name__}.Detached"}))


class Detached(torch.nn.Module):
    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(in_channels, num_classes, 3, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.conv(images).mean((2, 3))
        return scores.detach()


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
    after = start_stage(run, epoch, state).tensors()
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
