"""Data sets by name, and the order of images."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rescaler.config import DataSettings
from rescaler.data import DATA_SETS, load_data, readers
from rescaler.data.order import EpochImages, class_weights, epoch_order, sample_seeds, shifts_and_flips
from rescaler.errors import InputError

CPU = torch.device("cpu")
SETTINGS = DataSettings(
    name="synthetic", image_px=8, classes=2, mean=[0.5], std=[0.25], train_images=20, test_images=10
)


def test_a_sweep_loads_once() -> None:
    data = load_data(SETTINGS, CPU)
    assert load_data(replace(SETTINGS), CPU) is data
    assert load_data(replace(SETTINGS, train_images=30), CPU).train_count == 30


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"data\.name must be one of fashion_mnist, .*synthetic; got 'mnist'"):
        load_data(replace(SETTINGS, name="mnist"), CPU)


@pytest.mark.parametrize("name", [name for name in DATA_SETS if name not in {"synthetic", "custom"}])
def test_every_name_has_a_loader(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "DEBIAN_FOLDER", tmp_path / "nowhere")
    occupied = tmp_path / "file"
    occupied.write_text("no folder can be here, so nothing is read or downloaded")
    settings = replace(SETTINGS, name=name, folder=str(occupied), channels=3, mean=[0.5] * 3, std=[0.25] * 3)
    with pytest.raises(InputError, match=str(occupied)):
        load_data(settings, CPU)


def test_names_need_no_torch() -> None:
    code = "import sys, rescaler.data; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Order and augmentation.


@pytest.mark.parametrize(("count", "size"), [(10, 7), (4, 10), (6, 6)])
def test_epochs_go_through_whole_permutations(count: int, size: int) -> None:
    stream = torch.cat([epoch_order(count, seed=0, first=epoch * size, size=size) for epoch in range(count)])
    passes = stream.view(size, count)
    assert torch.equal(passes.sort(dim=1).values, torch.arange(count).expand(size, count))
    assert len({tuple(row) for row in passes.tolist()}) > 1


def test_order_follows_from_the_seed() -> None:
    orders = [epoch_order(100, seed=seed, first=30, size=30) for seed in (1, 1, 2)]
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])


def test_balanced_weights_have_mean_one_and_make_all_classes_count_equally() -> None:
    labels = torch.tensor([0, 0, 0, 2])  # of class 1, there is no image
    assert class_weights("balanced", labels)[[0, 2]].tolist() == [2 / 3, 2]
    assert class_weights([1, 0, 3], labels).tolist() == [1, 0, 3]
    with pytest.raises(InputError, match=r"weights of classes must be above 0 for one .*; got \[0, 1, 0\]"):
        class_weights([0, 1, 0], labels)


def test_images_are_drawn_as_often_as_their_classes_weigh() -> None:
    labels = torch.tensor([0] * 90 + [1] * 10 + [2] * 50)
    epoch = EpochImages(8, seed=0, epoch=1, batches=100, batch_size=100)
    balanced, given = (
        labels[epoch._replace(sampling_weights=weights).order(labels)].bincount(minlength=3) / epoch.size
        for weights in ("balanced", [1, 3, 0])
    )
    torch.testing.assert_close(balanced, torch.full((3,), 1 / 3), atol=0.02, rtol=0)
    torch.testing.assert_close(given, torch.tensor([0.75, 0.25, 0.0]), atol=0.02, rtol=0)
    orders = [epoch._replace(sampling_weights="balanced", epoch=number).order(labels) for number in (1, 1, 2)]
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])


def test_shifts_and_flips_are_uniform() -> None:
    top, left, flip = shifts_and_flips(2, seed=0, epoch=1, size=10_000)
    for shift in (top, left):
        assert set(shift.tolist()) == {0, 1, 2, 3, 4}
        assert torch.bincount(shift).float().div(10_000).sub(0.2).abs().max() < 0.02
    assert abs(flip.float().mean() - 0.5) < 0.02
    assert not torch.equal(top, left)


def test_augmentation_is_the_same_fraction_at_every_size() -> None:
    large_top, large_left, large_flip = shifts_and_flips(7, seed=0, epoch=1, size=1000)  # 15 steps: 3 for each of 5
    small_top, small_left, small_flip = shifts_and_flips(2, seed=0, epoch=1, size=1000)
    assert torch.equal(large_top // 3, small_top)
    assert torch.equal(large_left // 3, small_left)
    assert torch.equal(large_flip, small_flip)


def test_augmentation_differs_between_epochs() -> None:
    first, second = (shifts_and_flips(2, seed=0, epoch=epoch, size=100) for epoch in (1, 2))
    assert not torch.equal(first[0], second[0])
    seeds = torch.cat([sample_seeds(seed=0, epoch=epoch, size=100) for epoch in (1, 2)])
    assert len(set(seeds.tolist())) == 200


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10"])
def test_a_named_folder_that_is_missing_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"^data\.folder must be a folder; there is none at {tmp_path}/typo"):
        load_data(DataSettings(name=name, folder=str(tmp_path / "typo")), CPU)
    assert not (tmp_path / "typo").exists()
