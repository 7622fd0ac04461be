"""``python -m rescaler.run``: train one run, or with ``-m`` a sweep."""

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console

from rescaler import compose, ranks
from rescaler.errors import InputError

log = logging.getLogger(__name__)

_TRACEBACK = "HYDRA_FULL_ERROR"
_wants_traceback = os.environ.get(_TRACEBACK, "0") != "0"


@hydra.main(config_path=str(compose.CONF), config_name=compose.NAME, version_base="1.3")
def _application(config: DictConfig) -> None:
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    if hydra_config.mode is RunMode.MULTIRUN:  # the launcher shows what came out of all jobs
        try:
            _execute(config, folder, group=Path(hydra_config.sweep.dir).name)
        except Exception as error:
            log.error("%s", error, exc_info=not isinstance(error, InputError))
            raise
        return
    try:
        launcher = hydra_config.runtime.choices["hydra/launcher"]
        if launcher != "local":  # Hydra would ignore it, and train here
            raise InputError(f"hydra/launcher must be local without -m; got {launcher}: add -m, for a single run too")
        _execute(config, folder, group=folder.name)
    except InputError as error:
        if _wants_traceback:
            raise
        sys.exit(f"error: {error}")  # past Hydra, which would add a line of its own
    if ranks.number() == 0:
        from rescaler.sweeps.outcome import show_results  # pandas and matplotlib take a second: training comes first

        show_results([folder], plot=folder / "accuracy.png", console=Console())


def _execute(config: DictConfig, folder: Path, *, group: str) -> None:
    experiment = compose.to_experiment(config)
    from rescaler.execution import execute

    execute(experiment, folder, group=group)


@contextlib.contextmanager
def _quiet_unless_first() -> Iterator[None]:
    """Where several processes train one run, let Hydra write the files of the first alone."""
    if ranks.number() == 0:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        sys.argv += [f"hydra.run.dir={folder}", f"hydra.sweep.dir={folder}", "hydra/job_logging=stdout"]
        yield


def main() -> None:
    """Run the Hydra application; a mistake in the input ends it with one line and exit code 1."""
    os.environ[_TRACEBACK] = "1"  # has Hydra raise rather than print its own account of an error
    logging.raiseExceptions = False  # a log file on a full disk is no reason for a traceback
    # Options first: argparse takes the settings from one place only, and refuses those behind an option.
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda word: "=" in word and not word.startswith("-"))
    compose.register()
    try:
        compose.refuse_unnamed_choices([word for word in sys.argv[1:] if "=" in word and not word.startswith("-")])
        with _quiet_unless_first():
            _application()
    except compose.MISTAKES as error:
        if _wants_traceback:
            raise
        sys.exit(f"error: {compose.explain(error)}")
    except (OSError, ValueError) as error:
        refused = error.__cause__ if isinstance(error, ValueError) else error  # logging wraps what it cannot open
        if _wants_traceback or not isinstance(refused, OSError) or refused.filename is None:
            raise
        sys.exit(f"error: {refused.filename}: {refused.strerror}")
    except KeyboardInterrupt:
        sys.exit("interrupted: start the same command again to go on from its last save")


if __name__ == "__main__":
    main()
