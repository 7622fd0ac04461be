import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from image_tree import plant

from rescaler.config import DataSettings
from rescaler.data import EpochImages
from rescaler.errors import InputError
from rescaler.training import loading
from rescaler.training.loading import batch_loading_s

CPU = torch.device("cpu")


def settings(folder: Path, workers: int = 0) -> DataSettings:
    mean, std = [0.5] * 3, [0.25] * 3
    return DataSettings(
        name="imagenet", folder=str(folder), image_px=28, classes=2, channels=3, mean=mean, std=std, workers=workers
    )


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_ROUND_S", 0.02)
    monkeypatch.setattr(loading, "_MOST_IMAGES", 2000)


@pytest.mark.parametrize("workers", [0, 2])
def test_every_size_is_measured(tmp_path: Path, workers: int) -> None:
    sizes_px = {"pre-train": 16, "target": 28}
    found = batch_loading_s(settings(plant(tmp_path), workers), sizes_px, batch_size=4, device=CPU)
    assert found is not None
    assert found.keys() == sizes_px.keys()
    assert all(0 < spread.low <= spread.median <= spread.high for spread in found.values())


def test_the_time_of_a_batch_is_what_it_takes_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow:
        def train_batches(self, images: EpochImages) -> Iterator[int]:
            for number in range(images.batches):
                time.sleep(0.001 * images.image_px)
                yield number

    monkeypatch.setattr(loading, "load_data", lambda *_: Slow())
    sizes_px = {"pre-train": 10, "middle": 10, "target": 30}
    found = batch_loading_s(settings(plant(tmp_path)), sizes_px, batch_size=4, device=CPU)
    assert found is not None
    assert found["pre-train"] is found["middle"], "measured once"
    assert found["pre-train"].low >= 0.01
    assert found["target"].low >= 0.03


def test_what_is_in_memory_or_not_here_is_not_loaded(tmp_path: Path) -> None:
    assert batch_loading_s(DataSettings(name="fashion_mnist"), {"target": 28}, batch_size=4, device=CPU) is None
    assert batch_loading_s(settings(tmp_path), {"target": 28}, batch_size=4, device=CPU) is None
    assert batch_loading_s(settings(tmp_path / "nowhere"), {"target": 28}, batch_size=4, device=CPU) is None


def test_damaged_files_are_named(tmp_path: Path) -> None:
    for path in (plant(tmp_path) / "train").rglob("*.JPEG"):
        path.write_bytes(b"damaged")
    with pytest.raises(InputError, match="cannot read the image"):
        batch_loading_s(settings(tmp_path), {"target": 28}, batch_size=4, device=CPU)
