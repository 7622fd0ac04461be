"""Train a run: build or rescale, epoch, step, evaluation, in the order in which they happen."""

import contextlib
import itertools
import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from rescaler import distributed, process
from rescaler.chain import Epoch, Recipe
from rescaler.clocks import Clocks
from rescaler.data.order import ImageData, class_weights
from rescaler.errors import InputError
from rescaler.evaluation import Scores, log_given_weights, score
from rescaler.ledger import Ledger
from rescaler.method import ImageSize
from rescaler.models import Teacher, loss_and_scores
from rescaler.optim import Average, Update
from rescaler.plan import Run
from rescaler.precision import autocast, compilations, computing, keep_freed_memory
from rescaler.randomness import seed_all, seed_for
from rescaler.record import Record
from rescaler.resume import Checkpoint, Progress, RunLedger, Saver, make_record, pin_states
from rescaler.state import State, rescaled

log = logging.getLogger(__name__)

_LOOK_S = 0.25
"""Seconds between looks at the running loss, each of which waits for the device."""
_COMPILING_STEPS = 3  # the first compiles, the second records CUDA graphs, the third replays them


class Diverged(InputError):
    """The loss is no longer a finite number."""


class Observer(Protocol):
    """What watches a run. It changes no number."""

    def batch(self, epoch: Epoch, done: int) -> None:
        """``done`` batches of ``epoch`` are trained; called a few times a second at most."""

    def epoch(self, record: Record, *, reused: bool) -> None:
        """An epoch is finished, or was read from the ledger."""


def train(
    run: Run,
    ledger: Ledger,
    folder: Path,
    observers: Sequence[Observer] = (),
    *,
    saver: Saver | None = None,
    last_epoch: int | None = None,
    forks: Sequence[int] = (),
) -> list[Record]:
    """Train what the ledger lacks of a run, and return the records of its epochs.

    Args:
        run: what to train.
        ledger: where epochs are found and entered.
        folder: the run's own; the states that it keeps in the ledger stay while it exists.
        observers: see every epoch, and progress within.
        saver: saves in the middle of an epoch when it is due.
        last_epoch: where to stop, if before the end: the run is the trunk of others.
        forks: epochs whose states other runs resume from.

    Raises:
        Diverged: the loss became NaN or infinite; the message has the epoch and its learning rate.
        InputError: the ledger cannot be written, or the data cannot be read.
    """
    entries = RunLedger(run, ledger, folder, pin_states(run, ledger, folder, forks))
    records: list[Record] = []
    state: State | None = None
    while True:
        cached, state = entries.load_cached(records, state)
        records += cached
        for record, observer in itertools.product(cached, observers):
            observer.epoch(record, reused=True)
        if cached:
            log.info("%d of %d epochs: read from the ledger", len(cached), run.chain.epochs)
        epoch = run.chain.next(records)
        if epoch is None or (last_epoch is not None and epoch.number > last_epoch):
            return records
        if saver is not None:
            saver.interruption.release()  # as at the start: until the first batch there is nothing to save
        begun = entries.resume(epoch) or start(run, epoch, state)
        begun.state.teacher = teacher_of(run, epoch, state)
        state = begun.state  # the device has no room for the network before it as well
        record = finish(run, epoch, begun, entries, observers, saver)
        records.append(record)
        for observer in observers:
            observer.epoch(record, reused=False)


def start(run: Run, epoch: Epoch, state: State | None) -> Checkpoint:
    """Return the beginning of an epoch: the state before it, built or rescaled where a stage begins."""
    if state is None:
        state = State(run.network(epoch.stage))
        log_given_weights(run, epoch, state.network)
    clocks = Clocks(run.device)
    if epoch.recipe.rescale is not None:
        state.share(epoch.recipe)  # BatchNorm is measured anew by all processes together
        with clocks.running("rescale"):
            state = start_stage(run, epoch, state)
    return Checkpoint(state, Progress(), clocks.seconds)


def start_stage(run: Run, epoch: Epoch, state: State) -> State:
    """Rescale the state that the stage before left."""
    settings = epoch.recipe.rescale
    assert settings is not None
    count, small_px = settings.calibration_batches, run.chain.stage(epoch.number - 1).image_px
    small = first_images(run, epoch, small_px, count if settings.interpolation == "fit" else 0)
    large = first_images(run, epoch, epoch.stage.image_px, count)
    with computing(epoch.recipe.step):
        return rescaled(state, run.network(epoch.stage), settings, small, large)


def first_images(run: Run, epoch: Epoch, image_px: ImageSize, count: int) -> list[Tensor]:
    """Return the images of an epoch's first mini-batches, and seed what the network draws on them."""
    images = [images for images, _ in itertools.islice(run.batches(epoch, image_px), count)]
    seed_all(seed_for(run.experiment.seed, "calibration", epoch.number))
    return images


def teacher_of(run: Run, epoch: Epoch, state: State | None) -> Teacher | None:
    """Return the network before a rescale where the one after it learns from it."""
    if epoch.recipe.rescale is None or not epoch.recipe.rescale.distill_batches:
        return None
    assert state is not None
    state.share(epoch.recipe)  # as the first process alone has read it, where the epoch is resumed
    return Teacher(state.average or state.network, run.chain.stage(epoch.number - 1).image_px)


def finish(
    run: Run, epoch: Epoch, begun: Checkpoint, entries: RunLedger, observers: Sequence[Observer], saver: Saver | None
) -> Record:
    """Train what is left of an epoch, test it, and publish it."""
    state, clocks = begun.state, Clocks(run.device, begun.seconds)
    state.share(epoch.recipe)
    done = train_epoch(run, epoch, state, clocks, observers, saver, begun.progress)
    if count := epoch.recipe.recalibration_batches:
        with clocks.running("train"), computing(epoch.recipe.step):
            state.recalibrate(first_images(run, epoch, epoch.stage.image_px, count))

    def save_if_due() -> None:
        if saver is not None and saver.due:
            saver.save(state, epoch, done, clocks)

    with clocks.running("evaluation"):
        scores = evaluate(state.tested(epoch.recipe), epoch.recipe, run.data, save_if_due)
    raise_if_diverged(scores.loss, epoch)  # the last step may have been the one too many
    record = entries.publish(make_record(run, epoch, clocks, done, scores), state)
    if saver is not None:
        saver.on_save()
    return record


def train_epoch(
    run: Run,
    epoch: Epoch,
    state: State,
    clocks: Clocks,
    observers: Sequence[Observer] = (),
    saver: Saver | None = None,
    progress: Progress | None = None,
) -> Progress:
    """Train ``state`` in place, for one epoch or for what ``progress`` leaves of it.

    Returns:
        The progress after all batches.

    Raises:
        Diverged: the loss became NaN or infinite.
    """
    recipe, progress = epoch.recipe, progress or Progress()
    keep_freed_memory()
    state.prepare(recipe)
    if not state.is_compiled(recipe):
        torch.compiler.reset()  # the shapes of the network before would count as recompilations of this one
    first = progress.batches + 1
    compiling = range(first, first + (0 if state.is_compiled(recipe) else _COMPILING_STEPS))
    graphs = compilations() if recipe.step.compile else 0
    # Of all processes together, each of which knows the mean loss of its share.
    sums = torch.tensor([progress.loss_sum * process.world_size(), progress.hits], dtype=torch.float64).to(run.device)
    looked = time.perf_counter()
    with computing(recipe.step), clocks.running("train"):
        weights = recipe.stage.data.class_weights
        by_class = None if weights is None else class_weights(weights, run.data.train_labels).float().to(run.device)
        step = Step(state, recipe, by_class)
        batches = run.batches(epoch, recipe.stage.image_px, start=progress.batches, share=process.share())
        for done, (images, labels) in enumerate(clocks.waiting(batches), start=first):
            if saver is not None:
                saver.interruption.hold()
            # Dropout draws what follows from the seed and the place, so that no generator needs saving.
            seed_all(seed_for(run.experiment.seed, "dropout", epoch.number, done, process.rank()))
            if recipe.rescale is None or done > recipe.rescale.distill_batches:
                state.teacher = None
            with clocks.running("compile") if done in compiling else contextlib.nullcontext():
                scores = step(images, labels, recipe.learning_rate_of(done), epoch.batches_before + done)
            if done in compiling:
                graphs = compilations()
            distributed.add_up(scores)  # at each batch, as the first process may save after any
            sums += scores
            if saver is not None and saver.due:
                saver.save(state, epoch, Progress.of(done, sums), clocks)
            if time.perf_counter() - looked > _LOOK_S:
                if process.world_size() == 1:  # else they find out together, at the end
                    raise_if_diverged(sums[0].item(), epoch)
                for observer in observers:
                    observer.batch(epoch, done)
                looked = time.perf_counter()
    if recipe.step.compile and compilations() > graphs:
        log.warning("epoch %d was slowed down: torch compiled the network anew in the middle of it", epoch.number)
    progress = Progress.of(recipe.batches, sums)
    raise_if_diverged(progress.loss_sum, epoch)
    return progress


class Step:
    """Forward pass, backward pass and update on one batch. Nothing in it waits for the device.

    Args:
        state: trained in place; prepared for the recipe.
        recipe: of the epoch.
        class_weights: of the loss, float32 ``(classes,)``, on the device.
    """

    def __init__(self, state: State, recipe: Recipe, class_weights: Tensor | None = None) -> None:
        self._state, self._recipe, self._class_weights = state, recipe, class_weights
        self._network = distributed.replicated(state.trained(recipe))
        self._network.train()
        average, decay = state.average, recipe.optim.ema_decay
        assert state.optimizer is not None
        moving = None if average is None or decay is None else Average(average, state.network, decay)
        self._update = Update(state.optimizer, recipe.optim, state.scaler, moving)

    def __call__(self, images: Tensor, labels: Tensor, learning_rate: float, number: int) -> Tensor:
        """Train on this process's share of a batch.

        Args:
            images: ``(n, channels, px, px)``.
            labels: ``(n,)``, or where images are mixed each class's share, ``(n, classes)``.
            learning_rate: of this step.
            number: of this step, counted from the beginning of the training.

        Returns:
            Mean loss of the images, and how many of them were classified correctly: float32 ``(2,)``, on the device.
        """
        self._update.zero_grad()
        micro, step, optim = self._recipe.step.micro_batch_size, self._recipe.step, self._recipe.optim
        at_once = len(labels) if micro is None else micro // process.world_size()  # the same images as in one process
        parts = list(zip(images.split(at_once), labels.split(at_once), strict=True))  # type: ignore[no-untyped-call]
        sums = torch.zeros(2, dtype=torch.float32, device=labels.device)
        for part, (some, theirs) in enumerate(parts, start=1):
            with distributed.unsynchronised(self._network) if part < len(parts) else contextlib.nullcontext():
                with autocast(step.precision, images.device.type):
                    output = self._network(some)
                    loss, scores = loss_and_scores(
                        output, theirs, label_smoothing=optim.label_smoothing, class_weights=self._class_weights
                    )
                    if self._state.teacher is not None:
                        loss = self._state.teacher.distill(loss, scores, some)
                if not loss.requires_grad:
                    raise InputError("the network's scores follow from no parameter with requires_grad")
                loss = loss * (len(theirs) / len(labels)) if len(parts) > 1 else loss
                (loss if self._state.scaler is None else self._state.scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]
            largest = theirs if theirs.ndim == 1 else theirs.argmax(1)
            sums += torch.stack([loss.detach(), (scores.detach().argmax(1) == largest).sum()])
        self._update(learning_rate, self._recipe.weight_decay, number)
        return sums


def evaluate(
    network: nn.Module, recipe: Recipe, data: ImageData, after_batch: Callable[[], None] = lambda: None
) -> Scores:
    """Return loss and accuracies over the whole test set at the stage's image size."""
    return score(network, recipe.step, data, recipe.stage.test_px, after_batch=after_batch)


def raise_if_diverged(loss_sum: float, epoch: Epoch) -> None:
    """Raise Diverged if the loss is NaN or infinite."""
    if not math.isfinite(loss_sum):
        raise Diverged(
            f"the loss became {loss_sum:g} in epoch {epoch.number} at learning rate {epoch.recipe.learning_rate:g}: "
            "training stopped; schedule.learning_rates must be lower"
        )
