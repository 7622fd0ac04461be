from dataclasses import replace

import pytest
import torch

from rescaler.config import DataSettings
from rescaler.data import synthetic
from rescaler.data.pixels import resize
from rescaler.errors import InputError

SETTINGS = DataSettings(name="synthetic", image_px=20, classes=5, channels=3, train_images=600, test_images=300)


@pytest.mark.parametrize("image_px", [20, 10])
def test_classes_can_be_learnt_at_both_sizes(image_px: int) -> None:
    made = synthetic.make(SETTINGS)
    train, test = (resize(split.images, image_px).float().flatten(1) for split in (made.train, made.test))
    means = torch.stack([train[made.train.labels == label].mean(dim=0) for label in range(5)])
    nearest = torch.cdist(test, means).argmin(dim=1)
    assert (nearest == made.test.labels).float().mean() > 0.95


def test_shape_balance_and_determinism() -> None:
    made, again = synthetic.make(SETTINGS), synthetic.make(SETTINGS)
    assert made.train.images.shape == (600, 3, 20, 20)
    assert made.train.images.dtype == torch.uint8
    assert torch.bincount(made.test.labels).tolist() == [60] * 5
    assert torch.equal(made.train.images, again.train.images)
    assert not torch.equal(made.train.images[:300], made.test.images)


@pytest.mark.parametrize("key", ["train_images", "test_images"])
def test_an_empty_set_is_refused(key: str) -> None:
    with pytest.raises(InputError, match=rf"data\.{key} must be at least 1 for the synthetic set; got 0"):
        synthetic.make(replace(SETTINGS, **{key: 0}))  # type: ignore[arg-type]
