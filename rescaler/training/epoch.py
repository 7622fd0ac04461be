"""Train and test one epoch."""

import contextlib
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rescaler.data import EVERY_IMAGE, Batch, EpochImages, ImageData
from rescaler.errors import InputError, is_out_of_memory
from rescaler.randomness import seed_for
from rescaler.record import Record
from rescaler.training import processes, ranks
from rescaler.training.arithmetic import MEMORY_FORMATS, autocast, compilations, computing
from rescaler.training.chain import Epoch, Recipe
from rescaler.training.clocks import Clocks
from rescaler.training.plan import Run
from rescaler.training.saving import Progress, Saver
from rescaler.training.state import State, rescaled
from rescaler.training.step import TrainingStep

log = logging.getLogger(__name__)

_EVALUATION_IMAGES = {"cpu": 250, "cuda": 1024}
"""Images tested at once, by device; fewer where the memory is too small."""
_LOOK_S = 0.25
"""Seconds between looks at the running loss, each of which waits for the device."""
_COMPILING_STEPS = 3
"""First steps of a compiled network: the first compiles it, the second records CUDA graphs, the third replays them."""


class Diverged(InputError):
    """The loss is no longer a finite number."""


class Observer(Protocol):
    """What watches a run. It changes no number."""

    def batch(self, epoch: Epoch, done: int) -> None:
        """``done`` batches of ``epoch`` are trained; called a few times a second at most."""

    def epoch(self, record: Record, *, reused: bool) -> None:
        """An epoch is finished, or was read back from the ledger."""


class Scores(NamedTuple):
    """Mean loss per image, and accuracies as fractions."""

    loss: float
    top1: float
    top5: float


def train_epoch(
    state: State,
    epoch: Epoch,
    run: Run,
    clocks: Clocks,
    observer: Observer,
    saver: Saver | None = None,
    progress: Progress | None = None,
) -> Progress:
    """Train ``state`` in place, for one epoch or for what is left of it.

    Args:
        state: of the epoch's network.
        epoch: which epoch.
        run: whose.
        clocks: for its ``train`` and ``data`` seconds.
        observer: is told how far it is.
        saver: saves when it is due.
        progress: what is trained already.

    Returns:
        What is trained then: all batches.

    Raises:
        Diverged: the loss became NaN or infinite.
    """
    recipe, progress = epoch.recipe, progress or Progress()
    state.prepare(recipe)
    first = progress.batches + 1
    compiling = range(first, first + (0 if state.is_compiled(recipe) else _COMPILING_STEPS))
    graphs = compilations() if recipe.compile else 0
    # Of all processes together, each of which knows the mean loss of its share.
    sums = torch.tensor([progress.loss_sum * ranks.count(), progress.hits], dtype=torch.float64, device=run.device)
    looked = time.perf_counter()
    with computing(recipe), clocks.running("train"):
        step = TrainingStep(state, recipe)
        batches = _batches(epoch, recipe.image_px, run, start=progress.batches, share=ranks.share())
        for done, (images, labels) in enumerate(clocks.waiting(batches), start=first):
            _seed_dropout(run, epoch.number, done)
            with clocks.running("compile") if done in compiling else contextlib.nullcontext():
                scores = step(images, labels, recipe.learning_rate_of(done), (epoch.number - 1) * recipe.batches + done)
            if done in compiling:
                graphs = compilations()
            processes.add_up(scores)  # at each batch, as the first process may save after any
            sums += scores
            if saver is not None and saver.due:
                saver.save(state, epoch, _progress(done, sums), clocks)
            if time.perf_counter() - looked > _LOOK_S:
                if ranks.count() == 1:  # else they find out together, at the end
                    refuse_divergence(sums[0].item(), epoch)
                observer.batch(epoch, done)
                looked = time.perf_counter()
    if recipe.compile and compilations() > graphs:
        log.warning("epoch %d was slowed down: torch compiled the network anew in the middle of it", epoch.number)
    progress = _progress(recipe.batches, sums)
    refuse_divergence(progress.loss_sum, epoch)
    return progress


def _progress(batches: int, sums: Tensor) -> Progress:
    loss_sum, hits = sums.tolist()
    return Progress(batches, loss_sum / ranks.count(), int(hits))


def _seed_dropout(run: Run, epoch: int, batch: int) -> None:
    """Have dropout draw what follows from the seed and the place, so that no generator needs saving."""
    seed = seed_for(run.experiment.seed, "dropout", epoch, batch, ranks.number())
    if run.device.type == "cuda":
        torch.cuda.manual_seed(seed)
    torch.default_generator.manual_seed(seed)


def _batches(epoch: Epoch, image_px: int, run: Run, *, start: int = 0, share: slice = EVERY_IMAGE) -> Iterator[Batch]:
    """The epoch's training images, at any size."""
    recipe, seed = epoch.recipe, run.experiment.seed
    wanted = EpochImages(image_px, seed, epoch.number, recipe.batches, recipe.batch_size, start, share)
    for images, labels in run.data.train_batches(wanted):
        yield images.contiguous(memory_format=MEMORY_FORMATS[recipe.memory_format]), labels


def start_stage(state: State, epoch: Epoch, run: Run) -> State:
    """What the first epoch of a stage starts from, where the stage before it left ``state``."""
    settings = epoch.recipe.rescale
    assert settings is not None
    large_count = settings.get("calibration_batches", 0)
    small_count = large_count if settings["interpolation"] == "fit" else 0
    small_px, large_px = run.chain.stage(epoch.number - 1).image_px, epoch.stage.image_px
    small, large = (
        [images for images, _ in itertools.islice(_batches(epoch, image_px, run), count)]
        for image_px, count in ((small_px, small_count), (large_px, large_count))
    )
    torch.manual_seed(seed_for(run.experiment.seed, "calibration", epoch.number))
    with computing(epoch.recipe):
        return rescaled(state, run.network(epoch.stage), settings, small, large)


def refuse_divergence(loss_sum: float, epoch: Epoch) -> None:
    """Stop where the loss says that training is lost.

    Raises:
        Diverged: the loss is NaN or infinite; the message has the epoch and its learning rate.
    """
    if not math.isfinite(loss_sum):
        raise Diverged(
            f"the loss became {loss_sum:g} in epoch {epoch.number} at learning rate {epoch.recipe.learning_rate:g}: "
            "training stopped; schedule.learning_rates must be lower"
        )


def evaluate(
    network: nn.Module, recipe: Recipe, data: ImageData, after_batch: Callable[[], None] = lambda: None
) -> Scores:
    """Loss and accuracies over the whole test set at the stage's image size; ``after_batch`` is called after each.

    By as many images at once as the device's memory has room for, up to where more would be no faster.
    """
    at_once = _EVALUATION_IMAGES[next(network.parameters()).device.type]
    while True:
        try:
            return _evaluate(network, recipe, data, after_batch, at_once)
        except RuntimeError as error:
            if at_once == 1 or not is_out_of_memory(error):
                raise
            at_once //= 2


@torch.inference_mode()
def _evaluate(
    network: nn.Module, recipe: Recipe, data: ImageData, after_batch: Callable[[], None], at_once: int
) -> Scores:
    network.eval()
    device = next(network.parameters()).device
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    # A multiple of the processes' number, so that each image is one process's alone whatever has room in the others.
    batch_size = at_once * ranks.count()
    with computing(recipe):
        for images, labels in data.test_batches(image_px=recipe.image_px, batch_size=batch_size, share=ranks.share()):
            if len(labels) == 0:  # the last batch was too short for all processes
                continue
            with autocast(recipe.precision, device.type):
                scores = network(images.contiguous(memory_format=MEMORY_FORMATS[recipe.memory_format])).float()
            hits = scores.topk(min(5, scores.shape[1]), dim=1).indices == labels[:, None]
            sums += torch.stack([cross_entropy(scores, labels, reduction="sum"), hits[:, 0].sum(), hits.sum()])
            after_batch()
    processes.add_up(sums)
    return Scores(*(sums / data.test_count).tolist())
