"""The training loop over a chain of epochs."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from rescaler.provenance import device_name, torch_version
from rescaler.record import Record
from rescaler.training.chain import Epoch
from rescaler.training.clocks import Clocks
from rescaler.training.epoch import Observer, Scores, evaluate, refuse_divergence, start_stage, train_epoch
from rescaler.training.keeping import Keeper, UnderWay, hold_forks, share
from rescaler.training.ledger import Ledger
from rescaler.training.plan import Run
from rescaler.training.saving import Progress, Saver
from rescaler.training.state import State

log = logging.getLogger(__name__)


def train(
    run: Run,
    ledger: Ledger,
    folder: Path,
    observer: Observer,
    *,
    saver: Saver | None = None,
    last_epoch: int | None = None,
    forks: Sequence[int] = (),
) -> list[Record]:
    """Train what the ledger lacks of a run, and return the records of its epochs.

    Args:
        run: what to train.
        ledger: where epochs are found and entered.
        folder: the run's own; the states that the run stands on or wants kept stay while it exists.
        observer: is told of progress.
        saver: saves in the middle of an epoch when it is due.
        last_epoch: to train of the run, where it is the trunk of others.
        forks: epochs whose states those start from.

    Raises:
        Diverged: the loss became NaN or infinite; the message has the epoch and its learning rate.
        InputError: the ledger cannot be written, or the data cannot be read.
    """
    keeper = Keeper(run, ledger, folder, hold_forks(run, ledger, folder, forks))
    records: list[Record] = []
    state: State | None = None
    while True:
        reused, state = keeper.read_back(records, state)
        for record in reused:
            records.append(record)
            observer.epoch(record, reused=True)
        if reused:
            log.info("%d of %d epochs: read from the ledger", len(reused), run.chain.schedule.epochs)
        epoch = run.chain.next(records)
        if epoch is None or (last_epoch is not None and epoch.number > last_epoch):
            return records
        start = _start(run, epoch, state, keeper)
        state = start.state  # the device has no room for the network before it as well
        record = _train(run, epoch, start, keeper, observer, saver)
        records.append(record)
        observer.epoch(record, reused=False)


def _start(run: Run, epoch: Epoch, state: State | None, keeper: Keeper) -> UnderWay:
    """What to train ``epoch`` from: where an earlier attempt saved it, or its beginning after ``state``."""
    keeper.begin(epoch)
    start = keeper.resume(epoch)
    if start is None:
        clocks = Clocks(run.device)
        state = state or State(run.network(epoch.stage))
        if epoch.recipe.rescale is not None:
            share(state, epoch.recipe)  # BatchNorm is measured anew by all processes together
            with clocks.running("rescale"):
                state = start_stage(state, epoch, run)
        start = UnderWay(state, Progress(), clocks.seconds)
    share(start.state, epoch.recipe)
    return start


def _train(run: Run, epoch: Epoch, start: UnderWay, keeper: Keeper, observer: Observer, saver: Saver | None) -> Record:
    """One epoch, or what is left of it."""
    state, clocks = start.state, Clocks(run.device, start.seconds)
    if not state.is_compiled(epoch.recipe):
        torch.compiler.reset()  # the shapes of the network before would count as recompilations of this one

    trained = train_epoch(state, epoch, run, clocks, observer, saver, start.progress)

    def save_if_due() -> None:
        if saver is not None and saver.due:
            saver.save(state, epoch, trained, clocks)

    with clocks.running("evaluation"):
        tested = evaluate(state.tested(epoch.recipe), epoch.recipe, run.data, save_if_due)
    refuse_divergence(tested.loss, epoch)  # the last step may have been the one too many
    return keeper.publish(_record(epoch, run, clocks, trained, tested), state)


def _record(epoch: Epoch, run: Run, clocks: Clocks, trained: Progress, tested: Scores) -> Record:
    recipe, seconds = epoch.recipe, clocks.seconds
    images = recipe.batches * recipe.batch_size
    return Record(
        key=epoch.key,
        parent=epoch.parent,
        epoch=epoch.number,
        stage=epoch.stage.name,
        image_px=recipe.image_px,
        rescaled=recipe.rescale is not None,
        learning_rate=recipe.mean_learning_rate,
        weight_decay=recipe.weight_decay,
        held=epoch.held,
        images=images,
        train_loss=trained.loss_sum / recipe.batches,
        train_top1=trained.hits / images,
        test_loss=tested.loss,
        test_top1=tested.top1,
        test_top5=tested.top5,
        train_s=seconds["train"],
        data_s=seconds["data"],
        rescale_s=seconds["rescale"],
        compile_s=seconds["compile"],
        evaluation_s=seconds["evaluation"],
        device=device_name(run.device),
        torch=torch_version(),
        digest="",
        parent_digest="",
    )
