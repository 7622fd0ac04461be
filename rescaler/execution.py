"""Execute a run or a trunk: train it, and write its folder, loggers and progress bar."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rescaler import distributed, process
from rescaler.chain import Epoch
from rescaler.config import LOOKED_AT, Experiment
from rescaler.errors import InputError, enough_memory, one_line
from rescaler.loggers import Logger, build_loggers
from rescaler.modelfile import write_model
from rescaler.plan import Run, device_for, plan
from rescaler.process import Interruption, following_the_first
from rescaler.progress import LoadingWarning, ProgressBar
from rescaler.record import Record
from rescaler.reference import resolve
from rescaler.resume import Saver
from rescaler.runfolder import RunFolder, Status, TrunkFolder
from rescaler.train import Observer, train

log = logging.getLogger(__name__)

Close = Callable[[Status, str | None], None]
"""Called when a training ends: its status, and the error."""
OnSave = Callable[[], None]
"""Called after each save in the middle of an epoch, and after each epoch."""
Part = tuple[Experiment, int, Sequence[int]]
"""Run, last epoch and forks of a part of a trunk."""
_LESS = "; lower step.micro_batch_size, optim.batch_size or data.image_px"
"""What helps where the memory is too small."""


class _Logging:
    """Observer that passes epochs on to loggers."""

    def __init__(self, loggers: Sequence[Logger]) -> None:
        self._loggers = loggers

    def batch(self, epoch: Epoch, done: int) -> None:
        """Do nothing: loggers show epochs."""

    def epoch(self, record: Record, *, reused: bool) -> None:
        """Pass an epoch on."""
        for logger in self._loggers:
            logger.epoch(record, reused=reused)


def execute(experiment: Experiment, folder: Path, *, group: str, on_save: OnSave = lambda: None) -> float | None:
    """Train a run, or read it back if the ledger has all of it.

    Args:
        experiment: what to run.
        folder: the run's own, for its records.
        group: name of the sweep in W&B.
        on_save: called after each save.

    Returns:
        The run's ``objective``; None in all processes but the first.

    Raises:
        InputError: the experiment cannot run as it is, or diverged, or could not write.
    """
    with enough_memory(_LESS):
        run = _plan(experiment)
        if process.rank() > 0:
            with following_the_first():
                train(run, run.ledger, folder)
            return None
        if experiment.data.name in LOOKED_AT:
            from rescaler.data.contents import summary  # imports what decodes pictures

            log.info("%s", summary(experiment.data, run.data.class_names))
        for note in run.notes:
            log.info("%s", note)
        run_folder = RunFolder(folder, run)
        if experiment.objective == "cost" and not run_folder.summary["image_costs"]:
            raise InputError("objective=cost needs cost.reference, or a schedule by cost")
        loggers = build_loggers(experiment.logger, group=group, folder=folder)
        for logger in loggers:
            logger.start(run_folder.summary, run.experiment.to_dict())

        def close(status: Status, error: str | None) -> None:
            run_folder.note(status, error)
            for logger in loggers:
                logger.finish(run_folder.summary, failed=status == "failed")

        with Interruption() as interruption:
            observers: list[Observer] = [run_folder, _Logging(loggers), LoadingWarning(experiment.data)]
            _train(run, folder, observers, close, interruption, on_save)
        return run_folder.objective(experiment.objective)


def execute_trunk(parts: Sequence[Part], folder: Path, *, on_save: OnSave = lambda: None) -> None:
    """Train epochs that several runs have in common, into the ledger.

    Args:
        parts: for each part of the trunk a run that has it, its last epoch, and the epochs where runs part from it.
        folder: the trunk's own.
        on_save: as of :func:`execute`.

    Raises:
        InputError: as of :func:`execute`.
    """
    if process.rank() > 0:
        with enough_memory(_LESS), following_the_first():
            for experiment, last_epoch, forks in parts:
                run = _plan(experiment)
                train(run, run.ledger, folder, last_epoch=last_epoch, forks=forks)
        return
    with enough_memory(_LESS), Interruption() as interruption:  # what comes between two parts, the second one saves for
        for experiment, last_epoch, forks in parts:
            interruption.release()
            run, trunk_folder = _plan(experiment), TrunkFolder(folder, last_epoch)
            _train(run, folder, [trunk_folder], trunk_folder.note, interruption, on_save, last_epoch, forks)


def _train(
    run: Run,
    folder: Path,
    observers: Sequence[Observer],
    close: Close,
    interruption: Interruption,
    on_save: OnSave,
    last_epoch: int | None = None,
    forks: Sequence[int] = (),
) -> None:
    experiment, ledger = run.experiment, run.ledger
    with _closing(close), ProgressBar(run.chain, enabled=experiment.progress) as bar:
        saver = Saver(ledger, interruption, experiment.checkpoint_every_min, on_save)
        interruption.release()  # until the first batch begins, there is nothing to save
        records = train(run, ledger, folder, [*observers, bar], saver=saver, last_epoch=last_epoch, forks=forks)
        if last_epoch is None:
            write_model(run, records[-1], folder)


@contextlib.contextmanager
def _closing(close: Close) -> Iterator[None]:
    """Call ``close`` with how the block ended."""
    try:
        with enough_memory(_LESS):
            yield
    except SystemExit:  # a requeue: the run resumes later
        raise
    except BaseException as error:
        close("failed", "interrupted" if isinstance(error, KeyboardInterrupt) else one_line(error))
        raise
    close("done", None)


def _plan(experiment: Experiment) -> Run:
    """Plan a run together with the other processes that train it."""
    distributed.init_distributed(device_for(experiment.device))
    experiment = distributed.from_first(lambda: resolve([experiment])[0])
    run = distributed.together(lambda: plan(experiment))
    distributed.from_first(run.ledger.check_writable)
    return run
