"""Execute a run: train it while its folder, W&B and the terminal watch."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rescaler.errors import enough_memory, one_line
from rescaler.interruption import Interruption, following_the_first
from rescaler.loggers import Logger, build_loggers
from rescaler.record import Record
from rescaler.running.data_wait import DataWait
from rescaler.running.progress import ProgressBar
from rescaler.running.runfolder import RunFolder
from rescaler.running.trainingfolder import Status
from rescaler.running.trunkfolder import TrunkFolder
from rescaler.settings import Experiment
from rescaler.training import processes, ranks
from rescaler.training.chain import Epoch
from rescaler.training.epoch import Observer
from rescaler.training.ledger import Ledger
from rescaler.training.loop import train
from rescaler.training.plan import Run, device_for, plan
from rescaler.training.saving import Saver

log = logging.getLogger(__name__)

Close = Callable[[Status, str | None], None]
"""Is told how a training ended."""
Part = tuple[Experiment, int, Sequence[int]]
"""Run, last epoch and forks of a part of a trunk."""
OnSave = Callable[[], None]
"""Is called after each save in the middle of an epoch."""
_LESS = "; lower step.micro_batch_size, optim.batch_size or data.image_px"
"""What helps where the memory is too small."""


class Observers:
    """Several observers as one."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers

    def batch(self, epoch: Epoch, done: int) -> None:
        """Pass on that a batch is done."""
        for observer in self._observers:
            observer.batch(epoch, done)

    def epoch(self, record: Record, *, reused: bool) -> None:
        """Pass on that an epoch is done."""
        for observer in self._observers:
            observer.epoch(record, reused=reused)


class _Logging:
    """Observer that passes epochs on to loggers."""

    def __init__(self, loggers: Sequence[Logger]) -> None:
        self._loggers = loggers

    def batch(self, epoch: Epoch, done: int) -> None:
        """Nothing: loggers show epochs."""

    def epoch(self, record: Record, *, reused: bool) -> None:
        """Pass an epoch on."""
        for logger in self._loggers:
            logger.epoch(record, reused=reused)


def execute(experiment: Experiment, folder: Path, *, group: str, on_save: OnSave = lambda: None) -> None:
    """Train a run, or read it back if the ledger has all of it.

    Args:
        experiment: what to run.
        folder: the run's own, for its records.
        group: name of the sweep in W&B.
        on_save: is called after each save.

    Raises:
        InputError: the experiment cannot run as it is, or diverged, or could not write.
    """
    with enough_memory(_LESS):
        run = _joined(experiment)
        if ranks.number() > 0:
            with following_the_first():
                train(run, _ledger(run), folder, Observers([]))
            return
        for note in run.notes:
            log.info("%s", note)
        run_folder = RunFolder(folder, run)
        loggers = build_loggers(experiment.logger, group=group, folder=folder)
        for logger in loggers:
            logger.start(run_folder.summary, dataclasses.asdict(experiment))

        def close(status: Status, error: str | None) -> None:
            run_folder.note(status, error)
            for logger in loggers:
                logger.finish(run_folder.summary, failed=status == "failed")

        with Interruption() as interruption:
            observers: list[Observer] = [run_folder, _Logging(loggers), DataWait(experiment.data)]
            _train(run, folder, observers, close, interruption, on_save)


def execute_trunk(parts: Sequence[Part], folder: Path, *, on_save: OnSave = lambda: None) -> None:
    """Train epochs that several runs have in common, into the ledger.

    Args:
        parts: for each part of the trunk a run that has it, its last epoch, and the epochs where runs part from it.
        folder: the trunk's own.
        on_save: as of :func:`execute`.

    Raises:
        InputError: as of :func:`execute`.
    """
    if ranks.number() > 0:
        with enough_memory(_LESS), following_the_first():
            for experiment, last_epoch, forks in parts:
                run = _joined(experiment)
                train(run, _ledger(run), folder, Observers([]), last_epoch=last_epoch, forks=forks)
        return
    with enough_memory(_LESS), Interruption() as interruption:  # what comes between two parts, the second one saves for
        for experiment, last_epoch, forks in parts:
            run, trunk_folder = _joined(experiment), TrunkFolder(folder, last_epoch)
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
    """Train while others look on; what is told to end saves first, and says how it ended."""
    experiment, ledger = run.experiment, _ledger(run)
    with _closing(close), ProgressBar(run.chain, enabled=experiment.progress) as bar:
        saver = Saver(ledger, interruption, experiment.checkpoint_every_min, on_save)
        train(run, ledger, folder, Observers([*observers, bar]), saver=saver, last_epoch=last_epoch, forks=forks)


@contextlib.contextmanager
def _closing(close: Close) -> Iterator[None]:
    """Tell how the block ended."""
    try:
        with enough_memory(_LESS):
            yield
    except SystemExit:  # told to end, and to go on later
        raise
    except BaseException as error:
        close("failed", "interrupted" if isinstance(error, KeyboardInterrupt) else one_line(error))
        raise
    close("done", None)


def _ledger(run: Run) -> Ledger:
    return Ledger(Path(run.experiment.ledger.folder))


def _joined(experiment: Experiment) -> Run:
    processes.join(device_for(experiment.device))
    run = processes.together(lambda: plan(experiment))
    processes.from_first(_ledger(run).check_writable)
    return run
