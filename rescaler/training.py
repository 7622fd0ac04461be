"""The training loop over a chain of epochs."""

import contextlib
import dataclasses
import itertools
import math
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence, Set
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
import torch._dynamo  # the first step of an optimizer imports it, which would count as training
from torch import nn
from torch.nn.functional import cross_entropy

from rescaler.chain import Epoch, Recipe
from rescaler.data import Batch, ImageData
from rescaler.errors import InputError
from rescaler.ledger import Ledger, digest
from rescaler.models import loss_and_scores
from rescaler.plan import MEMORY_FORMATS, Run
from rescaler.provenance import device_name, torch_version
from rescaler.randomness import seed_for
from rescaler.record import Record
from rescaler.state import State, rescaled

_EVALUATION_BATCH = 250
_LOOK_S = 0.25
"""Seconds between looks at the running loss, each of which waits for the device."""


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


class Clocks:
    """Wall-clock seconds of one epoch by what they were spent on; disjoint."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._device = device

    @contextlib.contextmanager
    def running(self, name: str) -> Iterator[None]:
        """Count the time in the block, to its end on the device, less what other clocks counted meanwhile."""
        start = self._now() - sum(self.seconds.values())
        yield
        self.seconds[name] += self._now() - sum(self.seconds.values()) - start

    def waiting(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches; the time that the device has nothing to do until each is there goes to ``data``."""
        return self._waiting_cuda(batches) if self._device.type == "cuda" else self._waiting_cpu(batches)

    def _waiting_cpu(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        start = time.perf_counter()
        for batch in batches:
            self.seconds["data"] += time.perf_counter() - start
            yield batch
            start = time.perf_counter()

    def _waiting_cuda(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        # The host runs ahead of the device, so its clock would count waits that cost nothing.
        waits = []
        done = self._mark()
        for batch in batches:
            waits.append((done, self._mark()))
            yield batch
            done = self._mark()
        torch.cuda.synchronize(self._device)
        self.seconds["data"] += sum(start.elapsed_time(end) for start, end in waits) / 1000

    def _mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def train(run: Run, ledger: Ledger, folder: Path, observer: Observer) -> list[Record]:
    """Train what the ledger lacks of a run, and return the records of all its epochs.

    Args:
        run: what to train.
        ledger: where epochs are found and entered.
        folder: the run's own; the states that the run stands on or wants kept stay while it exists.
        observer: is told of progress.

    Raises:
        Diverged: the loss became NaN or infinite; the message has the epoch and its learning rate.
        InputError: the ledger cannot be written, or the data cannot be read.
    """
    kept = hold_forks(run, ledger, folder)
    records: list[Record] = []
    state: State | None = None
    while True:
        state, reused = _read_back(run, ledger, records, state)
        if reused:
            _hold_only(run, ledger, folder, kept, [*records, *reused])
        for record in reused:
            records.append(record)
            observer.epoch(record, reused=True)
        epoch = run.chain.next(records)
        if epoch is None:
            return records
        state = state or State(run.network(epoch.stage))
        clocks = Clocks(run.device)
        if epoch.recipe.rescale is not None:
            with clocks.running("rescale"):
                state = start_stage(state, epoch, run)
        trained = train_epoch(state, epoch, run, clocks, observer)
        with clocks.running("evaluation"):
            tested = evaluate(state.network, epoch.recipe, run.data)
        _refuse_divergence(tested.loss, epoch)  # the last step may have been the one too many
        ledger.hold(epoch.key, run.id, folder)
        record = _publish(_record(epoch, run, clocks, trained, tested), state, ledger)
        if epoch.parent not in kept and run.experiment.ledger.keep != "all":
            ledger.release(epoch.parent, run.id)
        records.append(record)
        observer.epoch(record, reused=False)


def hold_forks(run: Run, ledger: Ledger, folder: Path) -> frozenset[str]:
    """Hold the states where other runs may part from this one, before they exist; returns their keys."""
    kept = frozenset(run.chain.fork_keys() if run.experiment.ledger.keep == "forks" else ())
    for key in kept:
        ledger.hold(key, run.id, folder)
    return kept


def _hold_only(run: Run, ledger: Ledger, folder: Path, kept: Set[str], records: Sequence[Record]) -> None:
    """Hold what the run stands on and wants kept, and give up what its earlier attempts held beside."""
    keys = {record.key for record in records} if run.experiment.ledger.keep == "all" else {records[-1].key}
    for key in keys | kept:
        ledger.hold(key, run.id, folder)
    for key in ledger.held_by(run.id) - keys - kept:
        ledger.release(key, run.id)


def train_epoch(state: State, epoch: Epoch, run: Run, clocks: Clocks, observer: Observer) -> Scores:
    """Train ``state`` in place for one epoch.

    Raises:
        Diverged: the loss became NaN or infinite.
    """
    recipe = epoch.recipe
    optimizer = state.optimizer(recipe)
    torch.manual_seed(seed_for(run.experiment.seed, "dropout", epoch.number))
    state.network.train()
    loss_sum = torch.zeros((), dtype=torch.float64, device=run.device)
    correct = torch.zeros((), dtype=torch.int64, device=run.device)
    warmup = recipe.rescale.get("warmup_batches", 0) if recipe.rescale else 0
    looked = time.perf_counter()
    with clocks.running("train"):
        for done, (images, labels) in enumerate(clocks.waiting(_batches(epoch, recipe.image_px, run)), start=1):
            if done <= warmup:
                for group in optimizer.param_groups:
                    group["lr"] = recipe.learning_rate * done / warmup
            loss, logits = loss_and_scores(state.network(images), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            loss_sum += loss.detach()
            correct += (logits.detach().argmax(1) == labels).sum()
            if time.perf_counter() - looked > _LOOK_S:
                _refuse_divergence(loss_sum.item(), epoch)
                observer.batch(epoch, done)
                looked = time.perf_counter()
    _refuse_divergence(loss_sum.item(), epoch)
    state.keep_momentum(optimizer)
    return Scores(loss_sum.item() / recipe.batches, correct.item() / (recipe.batches * recipe.batch_size), math.nan)


def _batches(epoch: Epoch, image_px: int, run: Run) -> Iterator[Batch]:
    """The epoch's training images, at any size."""
    recipe = epoch.recipe
    batches = run.data.train_batches(
        image_px=image_px,
        seed=run.experiment.seed,
        epoch=epoch.number,
        batches=recipe.batches,
        batch_size=recipe.batch_size,
    )
    for images, labels in batches:
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
    return rescaled(state, run.network(epoch.stage), settings, small, large)


def _refuse_divergence(loss_sum: float, epoch: Epoch) -> None:
    if not math.isfinite(loss_sum):
        raise Diverged(
            f"the loss became {loss_sum:g} in epoch {epoch.number} at learning rate {epoch.recipe.learning_rate:g}: "
            "training stopped; schedule.learning_rates must be lower"
        )


@torch.inference_mode()
def evaluate(network: nn.Module, recipe: Recipe, data: ImageData) -> Scores:
    """Loss and accuracies over the whole test set at the stage's image size."""
    network.eval()
    sums = torch.zeros(3, dtype=torch.float64, device=next(network.parameters()).device)
    for images, labels in data.test_batches(image_px=recipe.image_px, batch_size=_EVALUATION_BATCH):
        logits = network(images.contiguous(memory_format=MEMORY_FORMATS[recipe.memory_format]))
        hits = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        sums += torch.stack([cross_entropy(logits, labels, reduction="sum"), hits[:, 0].sum(), hits.sum()])
    return Scores(*(sums / data.test_count).tolist())


def _read_back(
    run: Run, ledger: Ledger, records: Sequence[Record], state: State | None
) -> tuple[State | None, list[Record]]:
    """What the ledger holds beyond ``records``: the deepest state kept, or ``state``, and the records up to it.

    The records of a run that is complete are read back without a state.
    """
    found = run.chain.recorded(ledger, records)
    if run.chain.next(found) is None:
        return state, found[len(records) :]
    for depth in range(len(found), len(records), -1):
        tensors = ledger.state(found[depth - 1].key)
        if tensors is not None:
            state = State(run.network(run.chain.stage(depth)))
            state.load(tensors, found[depth - 1].digest)
            return state, found[len(records) : depth]
    return state, []


def _publish(record: Record, state: State, ledger: Ledger) -> Record:
    """Enter the epoch that led to ``state``; where another process was first, go on from its state."""
    tensors = state.tensors()
    record = dataclasses.replace(record, digest=digest(tensors), parent_digest=state.digest)
    standing = ledger.publish(record, tensors)
    if standing.digest != record.digest and (theirs := ledger.state(record.key)) is not None:
        state.load(theirs, standing.digest)
    state.digest = standing.digest
    return standing


def _record(epoch: Epoch, run: Run, clocks: Clocks, trained: Scores, tested: Scores) -> Record:
    recipe, seconds = epoch.recipe, clocks.seconds
    return Record(
        key=epoch.key,
        parent=epoch.parent,
        epoch=epoch.number,
        stage=epoch.stage.name,
        image_px=recipe.image_px,
        rescaled=recipe.rescale is not None,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        held=epoch.held,
        images=recipe.batches * recipe.batch_size,
        train_loss=trained.loss,
        train_top1=trained.top1,
        test_loss=tested.loss,
        test_top1=tested.top1,
        test_top5=tested.top5,
        train_s=seconds["train"],
        data_s=seconds["data"],
        rescale_s=seconds["rescale"],
        evaluation_s=seconds["evaluation"],
        device=device_name(run.device),
        torch=torch_version(),
        digest="",
        parent_digest="",
    )
