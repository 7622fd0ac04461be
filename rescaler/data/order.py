"""Draw the images of an epoch, their order and their augmentation from (seed, epoch, position), without a state.

torchvision takes seconds to import: only the functions that need it do so.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

from rescaler.config import DataSettings, require
from rescaler.errors import InputError, one_line, one_line_with_place
from rescaler.instantiate import partial
from rescaler.method import ImageSize, height_width
from rescaler.randomness import seed_for, seeded

Batch: TypeAlias = tuple[Tensor, Tensor]
"""Images, normalised, float32 ``(n, channels, h, w)``, and labels, int64 ``(n,)``; both on the device."""
EVERY_IMAGE = slice(None)
"""Share of a process that trains alone."""


class EpochImages(NamedTuple):
    """Selection of training images of one epoch, and their size.

    Those from batch ``start`` on, and of a ``share`` of each batch, are what they are in the whole epoch; no other is
    read. Process r of n takes the share ``slice(r, None, n)``.
    """

    image_px: ImageSize
    seed: int  # the run's
    epoch: int  # from 1
    batches: int  # mini-batches in the epoch
    batch_size: int
    start: int = 0
    share: slice = EVERY_IMAGE
    first: int = 0  # images of all epochs before
    pad_px: int = 0  # largest random shift, in pixels of the target's image
    flip: bool = False  # at random
    resize: str = "bilinear"  # or "fourier"
    sampling_weights: Any = None  # as in the settings

    @property
    def size(self) -> int:
        """Images in the whole epoch."""
        return self.batches * self.batch_size

    def order(self, labels: Tensor) -> Tensor:
        """Indices of the epoch's training images, int64 ``(size,)``, of a set with these labels, int64 ``(n,)``."""
        if self.sampling_weights is None:
            return epoch_order(len(labels), seed=self.seed, first=self.first, size=self.size)
        edges = class_weights(self.sampling_weights, labels)[labels].cumsum(0)
        draws = torch.rand(self.size, dtype=edges.dtype, generator=generator_for(self.seed, "sampling", self.epoch))
        return torch.searchsorted(edges, draws * edges[-1], right=True)

    def wanted(self, draws: Tensor) -> Tensor:
        """Pick from draws for each image of the epoch, ``(size,)``, those that are wanted: ``(batches, images)``."""
        return draws.view(self.batches, self.batch_size)[self.start :, self.share]


class ImageData(Protocol):
    """A training set and a test set, fed at any image size.

    What an iterator yields follows from its arguments alone, whatever the device or the number of workers. One iterator
    of an object is in use at a time.
    """

    train_count: int
    test_count: int
    fingerprint: str
    """Hex digest of the images and labels; the settings that say how they are fed are not in it."""
    class_names: Sequence[str]
    """In the order of the labels."""
    train_labels: Tensor
    """Int64 ``(train_count,)``, on the CPU."""

    def train_batches(self, images: EpochImages) -> Iterator[Batch]:
        """Batches ``start .. batches - 1`` of an epoch: shuffled without replacement across epochs, augmented."""

    def test_batches(self, *, image_px: ImageSize, batch_size: int, share: slice = EVERY_IMAGE) -> Iterator[Batch]:
        """The test set in order; the last batch may be short, and a ``share`` of it, as in training, empty."""


def generator_for(seed: int, *parts: str | int) -> torch.Generator:
    """Generator on the CPU, whose numbers are the same for every device."""
    return torch.Generator().manual_seed(seed_for(seed, *parts))


def epoch_order(count: int, *, seed: int, first: int, size: int) -> Tensor:
    """Indices of an epoch's training images, int64 ``(size,)``, of a set of ``count``.

    An epoch is a number of mini-batches (paper, section 4), a part of an endless stream of permutations from ``first``
    on: every image is seen once in each pass over the set.
    """
    passes = range(first // count, (first + size - 1) // count + 1)
    stream = torch.cat([torch.randperm(count, generator=generator_for(seed, "order", number)) for number in passes])
    skip = first - passes.start * count
    return stream[skip : skip + size]


def class_weights(weights: Any, labels: Tensor) -> Tensor:
    """Weight of each class, float64 ``(classes,)``.

    Args:
        weights: by class, or ``balanced``: images / (classes * images of the class), of mean 1 over all images.
        labels: of the training images, int64 ``(n,)``; one at least must have a weight above 0.
    """
    if weights == "balanced":
        counts = labels.bincount()
        return len(labels) / ((counts > 0).sum() * counts.clamp(min=1)).double()
    found = torch.tensor(weights, dtype=torch.float64)
    if not found[labels].any():
        raise InputError(f"weights of classes must be above 0 for one that has training images; got {weights}")
    return found


def split_holdout(labels: Tensor, share: float, names: Sequence[str] = ()) -> tuple[Tensor, Tensor]:
    """Draw a hold-out: the same share of every class of the training set, the same images whatever a run's seed.

    Returns:
        Indices of the images that stay, and of those held out, both rising.

    Raises:
        InputError: a class would have no image on one side.
    """
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in sorted(set(labels.tolist())):
        own = (labels == label).nonzero()[:, 0]
        count = round(share * len(own))
        name = names[label] if names else label
        allowed = f"such that class {name} with its {len(own)} training images has one on each side"
        require(0 < count < len(own), "data.holdout", share, allowed)
        held[own[torch.randperm(len(own), generator=generator_for(0, "holdout", label))[:count]]] = True
    return (~held).nonzero()[:, 0], held.nonzero()[:, 0]


def shifts_and_flips(pad_px: ImageSize, *, seed: int, epoch: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Augmentation of every position in an epoch: the same fraction of the largest shift at every image size.

    Returns:
        Rows and columns to cut off at the top and at the left of an image that was padded by ``pad_px``, or by as many
        ``(rows, columns)``, on each side: int64 ``(size,)`` in ``0 .. 2 * pad_px``; whether to flip it, bool.
    """
    bits = 31
    draws = torch.randint(1 << bits, (size, 3), generator=generator_for(seed, "augment", epoch))
    places = 2 * torch.tensor(height_width(pad_px)) + 1
    top, left = (draws[:, :2] * places >> bits).unbind(1)  # integers: a float in [0, 1) can round up to 1
    return top, left, draws[:, 2] >= 1 << (bits - 1)


def sample_seeds(*, seed: int, epoch: int, size: int) -> Tensor:
    """Seed for the augmentation of every position in an epoch, int64 ``(size,)``."""
    return torch.randint(2**63 - 1, (size,), generator=generator_for(seed, "augment", epoch))


class Augment:
    """The transforms that ``data.augment`` names, on normalised images on a device.

    Those of single images come in the order of the list. Of several mixtures (MixUp, CutMix), each batch draws one.
    """

    def __init__(self, settings: DataSettings, device: torch.device) -> None:
        from torchvision.transforms import v2

        self._transforms: list[Callable[[Tensor], Tensor]] = []
        self._mixtures: list[Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = []
        for key, entry in entries(settings.augment):
            try:
                transform = _preset(entry, settings) if isinstance(entry, str) else partial(entry, key)()
            except InputError:
                raise
            except Exception as error:  # whatever a custom transform raises
                raise InputError(f"{key}._target_={entry.get('_target_')}: {one_line(error)}") from error
            if isinstance(transform, v2.MixUp | v2.CutMix):
                transform.num_classes = transform.num_classes or settings.classes
                self._mixtures.append(transform)
            else:
                self._transforms.append(transform)
        self._mean, self._std = (torch.tensor(x, device=device)[:, None, None] for x in (settings.mean, settings.std))
        try:
            self(torch.zeros(1, settings.channels, *height_width(settings.image_px), device=device), [0])
        except InputError:
            raise
        except Exception as error:  # whatever a custom transform raises
            raise InputError(f"data.augment fails on an image: {one_line_with_place(error)}") from error

    @property
    def mixes(self) -> bool:
        """Whether an image depends on the others of its batch, so that processes need all of them."""
        return bool(self._mixtures)

    def __call__(self, images: Tensor, seeds: Iterable[int]) -> Tensor:
        """Transform each image, normalised, ``(n, channels, h, w)``, in [0, 1] and with a seed of its own."""
        if not self._transforms:
            return images
        found = []
        for image, seed in zip(images, seeds, strict=True):
            with seeded(seed):
                pixels = image * self._std + self._mean
                for transform in self._transforms:
                    pixels = transform(pixels)
                found.append((pixels - self._mean) / self._std)
        if found and found[0].shape != images.shape[1:]:
            raise InputError(
                f"data.augment must keep the size of images, {tuple(images.shape[1:])}; got {tuple(found[0].shape)}"
            )
        return torch.stack(found) if found else images

    def mix(self, images: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Mix the images of a whole batch; their labels become shares of the classes, float32 ``(n, classes)``."""
        with seeded(seed):
            number = int(torch.randint(len(self._mixtures), ())) if len(self._mixtures) > 1 else 0
            return self._mixtures[number](images, labels)


def entries(augment: Any, key: str = "data.augment") -> list[tuple[str, Any]]:
    """Return the key and the value of each entry of a list, or of the only one."""
    if isinstance(augment, Sequence) and not isinstance(augment, str):
        return [(f"{key}[{number}]", entry) for number, entry in enumerate(augment)]
    return [(key, augment)] if augment else []


def _preset(name: str, settings: DataSettings) -> Any:
    """Make a transform of :data:`rescaler.config.AUGMENTATIONS`."""
    from torchvision.transforms import v2

    if name == "random_erasing":  # of a normalised image: by its mean
        return v2.RandomErasing(p=0.25, value=list(settings.mean))
    if name == "mixup":
        return v2.MixUp(alpha=0.2, num_classes=settings.classes)
    if name == "cutmix":
        return v2.CutMix(alpha=1.0, num_classes=settings.classes)
    transform = {"rand_augment": v2.RandAugment, "trivial_augment": v2.TrivialAugmentWide}[name]()
    # As in their papers, on bytes.
    return v2.Compose([v2.ToDtype(torch.uint8, scale=True), transform, v2.ToDtype(torch.float32, scale=True)])
