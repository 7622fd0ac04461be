"""What a data set gives: images of an epoch, in batches. Needs no torch, as names of sets are checked without it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

Batch: TypeAlias = "tuple[Tensor, Tensor]"
"""Images, normalised, float32 ``(n, channels, px, px)``, and labels, int64 ``(n,)``; both on the device."""

Content: TypeAlias = "bytes | memoryview"
"""Bytes of an image file."""

EVERY_IMAGE = slice(None)
"""The share of a process that has its batches to itself."""


class EpochImages(NamedTuple):
    """Training images of one epoch: which are wanted, and at what size."""

    image_px: int
    """Their side."""
    seed: int
    """The run's."""
    epoch: int
    """Its number, from 1."""
    batches: int
    """Mini-batches in every epoch."""
    batch_size: int
    """Images in every mini-batch."""
    start: int = 0
    """First batch wanted: the same as in the whole epoch, without replaying those before it."""
    share: slice = EVERY_IMAGE
    """Which images of each batch are wanted, where processes share it: process r of n takes ``slice(r, None, n)``. They
    are what they would be in the whole batch; no other is read."""

    @property
    def size(self) -> int:
        """Images in the whole epoch."""
        return self.batches * self.batch_size

    def wanted(self, draws: "Tensor") -> "Tensor":
        """Pick from what was drawn for each image of the epoch, ``(size,)``, what is wanted: ``(batches, images)``."""
        return draws.view(self.batches, self.batch_size)[self.start :, self.share]


class ImageData(Protocol):
    """A training set and a test set, fed at any image size.

    What an iterator yields follows from its arguments alone, whatever the device or the number of workers. One iterator
    of an object is in use at a time.
    """

    @property
    def train_count(self) -> int:
        """Images in the training set."""

    @property
    def test_count(self) -> int:
        """Images in the test set."""

    @property
    def fingerprint(self) -> str:
        """Hex digest of what the set holds; the settings that say how it is fed are not in it."""

    def train_batches(self, images: EpochImages) -> Iterator[Batch]:
        """Batches ``start .. batches - 1`` of an epoch: shuffled without replacement across epochs, augmented."""

    def test_batches(self, *, image_px: int, batch_size: int, share: slice = EVERY_IMAGE) -> Iterator[Batch]:
        """The test set in order; the last batch may be short, and a ``share`` of it, as in training, empty."""
