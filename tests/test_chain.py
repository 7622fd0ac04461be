import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from bench import make_record

from rescaler.chain import Chain, Epoch, Stage, digest
from rescaler.config import DataSettings, OptimSettings, RescaleSettings, ScheduleSettings, StepSettings
from rescaler.ledger import Ledger
from rescaler.record import Record
from rescaler.schedule import Stretch


def stage(
    name: str,
    image_px: int,
    epochs: int,
    layers: tuple[Mapping[str, Any], ...] = (),
    *,
    optim: OptimSettings | None = None,
    cost: float = 1.0,
) -> Stage:
    stretch = Stretch(epochs, 50, 50, cost)
    return Stage(name, image_px, stretch, optim or OptimSettings(), StepSettings(), DataSettings(), 0.0, layers)


def chain(
    resize_epoch: int | None,
    *,
    epochs: int = 8,
    hold: bool = False,
    origin: str = "o",
    device_type: str = "cpu",
    optim: OptimSettings | None = None,
    optimizer_state: str = "reset",
) -> Chain:
    """A chain resized after ``resize_epoch``; None: never; 0: the target from the start."""
    first = epochs if resize_epoch is None else resize_epoch
    small = stage("pretrain", 17, first, ({"name": "conv1"},), optim=optim)
    full = stage("target", 28, epochs - first, optim=optim)
    stages = {None: (small,), 0: (full,)}.get(resize_epoch, (small, full))
    schedule = ScheduleSettings(
        epochs=epochs, learning_rates=[0.1, 0.01], milestones=[5], weight_decay=0.0, hold_after_resize=hold
    )
    rescale = RescaleSettings(optimizer_state=optimizer_state)
    return Chain(origin, stages, schedule, rescale, device_type)


def record(epoch: Epoch, parent: Record | None, top1: float = 0.5) -> Record:
    digests = {"digest": f"state {epoch.key}", "parent_digest": parent.digest if parent else ""}
    return make_record(epoch.key, epoch.parent, epoch.number, test_top1=top1, **digests)


def walk(made: Chain) -> list[Epoch]:
    epochs: list[Epoch] = []
    records: list[Record] = []
    while (epoch := made.next(records)) is not None:
        epochs.append(epoch)
        records.append(record(epoch, records[-1] if records else None))
    return epochs


def keys(made: Chain) -> list[str]:
    return [epoch.key for epoch in walk(made)]


def shared(one: Chain, two: Chain) -> int:
    return sum(a == b for a, b in zip(keys(one), keys(two), strict=True))


def test_runs_share_exactly_their_trunk() -> None:
    assert shared(chain(3), chain(5)) == 3
    assert shared(chain(5), chain(None)) == 5
    assert shared(chain(5), chain(0)) == 0


def test_what_can_change_a_number_changes_every_key_after_it() -> None:
    batches = chain(3, optim=OptimSettings(batch_size=64))
    for other in (chain(3, origin="p"), batches, chain(3, device_type="cuda")):
        assert shared(chain(3), other) == 0
    assert shared(chain(3), chain(3, optimizer_state="resize")) == 3


def test_a_longer_run_goes_on_from_a_shorter_one() -> None:
    assert keys(chain(3, epochs=12))[:8] == keys(chain(3))


def test_the_rescale_precedes_the_first_target_epoch() -> None:
    epochs = walk(chain(3))
    assert [epoch.stage.name for epoch in epochs] == ["pretrain"] * 3 + ["target"] * 5
    assert [epoch.number for epoch in epochs if epoch.recipe.rescale is not None] == [4]
    assert [epoch.stage.image_px for epoch in epochs] == [17] * 3 + [28] * 5


def test_keys_are_known_as_far_as_they_do_not_depend_on_accuracies() -> None:
    assert chain(3).known_keys == keys(chain(3))
    assert chain(3, hold=True).known_keys == keys(chain(3))[:3]
    assert chain(0).known_keys == keys(chain(0))
    assert chain(None).known_keys == keys(chain(None))


def test_three_stages_rescale_twice() -> None:
    layers: tuple[tuple[Mapping[str, Any], ...], ...] = (({"name": "a"},), ({"name": "b"},))
    stages = (stage("small", 14, 2, layers[0]), stage("middle", 20, 3, layers[1]), stage("target", 28, 3))
    made = dataclasses.replace(chain(3), stages=stages)
    assert [epoch.recipe.rescale is not None for epoch in walk(made)].count(True) == 2
    assert made.known_keys == keys(made)


def test_held_epochs_belong_to_the_last_stage() -> None:
    epochs = walk(chain(3, hold=True))  # accuracy never drops: held until the limit of 20
    assert len(epochs) == 28
    assert {epoch.stage.name for epoch in epochs[3:]} == {"target"}


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path)


def publish(made: Chain, ledger: Ledger, count: int) -> list[Record]:
    records: list[Record] = []
    for epoch in walk(made)[:count]:
        records.append(ledger.publish(record(epoch, records[-1] if records else None), {"w": torch.zeros(1)}))
    return records


def test_recorded_finds_the_epochs_in_order(ledger: Ledger) -> None:
    records = publish(chain(3), ledger, 5)
    assert chain(3).recorded(ledger) == records
    assert chain(5).recorded(ledger) == records[:3]


def test_recorded_stops_at_a_gap_and_goes_on_from_given_records(ledger: Ledger) -> None:
    records = publish(chain(3), ledger, 6)
    ledger.state_path(records[1].key).with_name("record.json").unlink()
    assert chain(3).recorded(ledger) == records[:1]
    assert chain(3).recorded(ledger, records[:2]) == records


def test_digest_is_independent_of_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": [1.5, None]}) == digest({"b": [1.5, None], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_a_changing_rate_is_that_of_the_middle_of_each_batch() -> None:
    epoch = chain(3).next([])
    assert epoch is not None
    falling = dataclasses.replace(epoch.recipe, learning_rate=0.4, learning_rate_end=0.2, batches=4)
    assert [falling.learning_rate_of(batch) for batch in range(1, 5)] == pytest.approx([0.375, 0.325, 0.275, 0.225])
    assert falling.mean_learning_rate == pytest.approx(0.3)
    warming = dataclasses.replace(falling, learning_rate_end=0.4, rescale=RescaleSettings(warmup_batches=2))
    assert [warming.learning_rate_of(batch) for batch in range(1, 5)] == pytest.approx([0.2, 0.4, 0.4, 0.4])
