"""Which images an epoch sees, and the randomness of each: functions of (seed, epoch, position), without a state."""

import torch
from torch import Tensor

from rescaler.randomness import seed_for


def generator_for(seed: int, *parts: str | int) -> torch.Generator:
    """Generator on the CPU, whose numbers are the same for every device."""
    return torch.Generator().manual_seed(seed_for(seed, *parts))


def epoch_order(count: int, *, seed: int, epoch: int, size: int) -> Tensor:
    """Training images of an epoch: the next ``size`` of an endless stream of permutations of the set.

    An epoch is a number of mini-batches (paper, section 4), so it may be a part of a pass over the set or several; the
    stream goes on where the epoch before ended, and every image is seen once in each pass.

    Args:
        count: images in the set.
        seed: the run's seed.
        epoch: number of the epoch, from 1.
        size: images in every epoch.

    Returns:
        Indices, int64 ``(size,)``.
    """
    first = (epoch - 1) * size
    passes = range(first // count, (first + size - 1) // count + 1)
    stream = torch.cat([torch.randperm(count, generator=generator_for(seed, "order", number)) for number in passes])
    skip = first - passes.start * count
    return stream[skip : skip + size]


def shifts_and_flips(pad_px: int, *, seed: int, epoch: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Augmentation of every position in an epoch.

    A position draws the same fraction of the largest shift at every image size.

    Returns:
        Rows and columns to cut off at the top and at the left of an image that was padded by ``pad_px`` on each side,
        int64 ``(size,)`` in ``0 .. 2 * pad_px``; whether to flip it, bool ``(size,)``.
    """
    bits = 31
    draws = torch.randint(1 << bits, (size, 3), generator=generator_for(seed, "augment", epoch))
    top, left = (draws[:, :2] * (2 * pad_px + 1) >> bits).unbind(1)  # integers: a float in [0, 1) can round up to 1
    return top, left, draws[:, 2] >= 1 << (bits - 1)


def sample_seeds(*, seed: int, epoch: int, size: int) -> Tensor:
    """Seed for the augmentation of every position in an epoch, int64 ``(size,)``."""
    return torch.randint(2**63 - 1, (size,), generator=generator_for(seed, "augment", epoch))
