"""Execute a run or a trunk: train it, and write its folder, loggers and progress bar."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rescaler import distributed, ranks
from rescaler.checkpoint import Saver
from rescaler.config import Experiment
from rescaler.errors import enough_memory, one_line
from rescaler.plan import Run, device_for, plan
from rescaler.progress import LoadingWarning, ProgressBar
from rescaler.runfolder import RunFolder, Status, TrunkFolder
from rescaler.signals import Interruption, following_the_first
from rescaler.tracking import Tracker
from rescaler.train import Observer, train
from rescaler.training.sharing import Part

log = logging.getLogger(__name__)

Close = Callable[[Status, str | None], None]
"""Is told how a training ended."""
OnSave = Callable[[], None]
"""Is called after each save in the middle of an epoch."""
_LESS = "; lower step.micro_batch_size, optim.batch_size or data.image_px"
"""What helps where the memory is too small."""


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
                train(run, run.ledger, folder)
            return
        for note in run.notes:
            log.info("%s", note)
        run_folder = RunFolder(folder, run)
        tracker = Tracker(
            experiment.logger,
            summary=run_folder.summary,
            config=experiment.to_dict(),
            group=group,
            folder=folder,
        )

        def close(status: Status, error: str | None) -> None:
            run_folder.note(status, error)
            tracker.finish(run_folder.summary, failed=status == "failed")

        with Interruption() as interruption:
            observers: list[Observer] = [run_folder, tracker, LoadingWarning(experiment.data)]
            _train(run, folder, observers, close, interruption, on_save)


def execute_trunk(parts: Sequence[tuple[Experiment, Part]], folder: Path, *, on_save: OnSave = lambda: None) -> None:
    """Train epochs that several runs have in common, into the ledger.

    Args:
        parts: a run that has them, and up to which epoch, for each part of the trunk.
        folder: the trunk's own.
        on_save: as of :func:`execute`.

    Raises:
        InputError: as of :func:`execute`.
    """
    if ranks.number() > 0:
        with enough_memory(_LESS), following_the_first():
            for experiment, part in parts:
                run = _joined(experiment)
                train(run, run.ledger, folder, last_epoch=part.last_epoch, forks=part.forks)
        return
    with enough_memory(_LESS), Interruption() as interruption:  # what comes between two parts, the second one saves for
        for experiment, part in parts:
            run, trunk_folder = _joined(experiment), TrunkFolder(folder, part.last_epoch)
            _train(run, folder, [trunk_folder], trunk_folder.note, interruption, on_save, part)


def _train(
    run: Run,
    folder: Path,
    observers: Sequence[Observer],
    close: Close,
    interruption: Interruption,
    on_save: OnSave,
    part: Part | None = None,
) -> None:
    """Train while others look on; what is told to end saves first, and says how it ended."""
    experiment, ledger = run.experiment, run.ledger
    with _closing(close), ProgressBar(run.chain, enabled=experiment.progress) as bar:
        saver = Saver(ledger, interruption, experiment.checkpoint_every_min, on_save)
        last_epoch, forks = (part.last_epoch, part.forks) if part else (None, ())
        train(run, ledger, folder, [*observers, bar], saver=saver, last_epoch=last_epoch, forks=forks)


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


def _joined(experiment: Experiment) -> Run:
    distributed.join(device_for(experiment.device))
    run = distributed.together(lambda: plan(experiment))
    distributed.from_first(run.ledger.check_writable)
    return run
