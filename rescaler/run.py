"""Train one run, or with ``-m`` a sweep: ``python -m rescaler.run``, or ``rescaler run``."""

import argparse
import contextlib
import errno
import functools
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra._internal.utils import _run_hydra, get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus, env_override, run_job
from hydra.main import _get_rerun_conf
from hydra.types import HydraContext, RunMode
from hydra.utils import get_original_cwd
from omegaconf import DictConfig
from rich.console import Console

from rescaler import cli, compose, process
from rescaler.config import Experiment
from rescaler.errors import InputError
from rescaler.files import removed_on_failure
from rescaler.record import CONFIG_FILE
from rescaler.sweep import RUN_LOCK, owned

log = logging.getLogger(__name__)


def main() -> None:
    """Run ``rescaler run`` with this process's arguments."""
    cli.main(["run", *sys.argv[1:]])


def run(arguments: argparse.Namespace) -> None:
    """Do what Hydra's options say."""
    logging.raiseExceptions = False  # a log file on a full disk is no reason for a traceback
    try:
        # Hydra is to raise rather than to print its own account of an error.
        with env_override({"HYDRA_FULL_ERROR": "1"}), _quiet_unless_first(arguments):
            _run(arguments)
    except compose.MISTAKES as error:
        raise InputError(compose.explain(error)) from error
    except (OSError, ValueError) as error:
        refused = error.__cause__ if isinstance(error, ValueError) else error  # logging wraps what it cannot open
        full = isinstance(refused, OSError) and refused.errno in (errno.ENOSPC, errno.EDQUOT)  # while Hydra writes
        if not isinstance(refused, OSError) or (refused.filename is None and not full):
            raise
        raise InputError(f"{refused.filename or 'cannot write the folder of the run'}: {refused.strerror}") from error
    except KeyboardInterrupt:
        sys.exit("interrupted: start the same command again to continue from its last save")


def _run(arguments: argparse.Namespace) -> None:
    compose.check_overrides(arguments.overrides)
    names = ("run", "multirun", "cfg", "info", "shell_completion")
    modes = [f"--{name.replace('_', '-')}" for name in names if getattr(arguments, name) not in (None, False)]
    if len(modes) > 1:
        raise InputError(f"only one of {', '.join(modes)} can be given")
    if arguments.resolve and not (arguments.cfg or arguments.help):
        raise InputError("--resolve must come with --cfg or --help")
    if arguments.experimental_rerun is not None:
        try:
            config = _get_rerun_conf(arguments.experimental_rerun, arguments.overrides)
        except ValueError as error:
            raise InputError(f"--experimental-rerun: {error}") from error
        train_job(config)
        return
    if arguments.help or arguments.hydra_help or arguments.cfg or arguments.info or arguments.shell_completion:
        compose.register()
        if arguments.hydra_help:
            arguments.overrides = []  # it composes Hydra's settings alone
        _run_hydra(arguments, get_args_parser(), train_job, str(compose.CONF), compose.NAME)
        return
    with compose.hydra_over(arguments.config_dir, arguments.config_path) as hydra:
        name, overrides = arguments.config_name or compose.NAME, arguments.overrides
        _check_params(hydra, name, overrides)
        if arguments.multirun or hydra.get_mode(name, overrides) is RunMode.MULTIRUN:
            hydra.multirun(name, train_job, [*overrides, "hydra.mode=MULTIRUN"])
        else:
            _run_single(hydra, name, [*overrides, "hydra.mode=RUN"])


def _check_params(hydra: Hydra, name: str, overrides: list[str]) -> None:
    """Refuse entries of a ``hydra.sweeper.params`` that is not there: Hydra fails on them."""
    given = [word for word in overrides if word.lstrip("+").startswith("hydra.sweeper.params")]
    if given:
        config = hydra.compose_config(name, [word for word in overrides if word not in given], RunMode.MULTIRUN)
        if config.hydra.sweeper.get("params") is None:
            raise InputError(
                f"{given[0]}: these settings declare no hydra.sweeper.params; here a sweep is KEY=VALUE,VALUE"
            )


def _run_single(hydra: Hydra, name: str, overrides: list[str]) -> None:
    """Compose and check before Hydra makes a folder; a refused run leaves nothing behind."""
    config = hydra.compose_config(name, overrides, RunMode.RUN, with_log_configuration=True)
    launcher = config.hydra.launcher._target_.rpartition(".")[2]
    if launcher != "LocalLauncher":  # Hydra would ignore it, and train here
        name = launcher.removesuffix("Launcher").lower()
        raise InputError(f"hydra/launcher must be local without -m; got {name}: add -m, for a single run too")
    if config.hydra.sweeper.get("params"):
        raise InputError("hydra.sweeper.params declares a sweep: add -m")
    compose.stay(config)
    HydraConfig.instance().set_config(config)
    folder = Path(config.hydra.run.dir).absolute()
    compose.set_output_dir(config, folder)
    experiment = compose.to_experiment(compose.settings_of(config))
    with removed_on_failure(folder, unless=(CONFIG_FILE, RUN_LOCK)), _in_use(folder):
        if (folder / CONFIG_FILE).exists():
            from rescaler.sweep.planner import check_folder  # imports torch

            check_folder(folder, experiment)
        callbacks = Callbacks(config)
        callbacks.on_run_start(config=config, config_name=name)
        context = HydraContext(config_loader=hydra.config_loader, callbacks=callbacks)
        train = functools.partial(_train, experiment, folder)
        done = run_job(train, config, "hydra.run.dir", None, context)
        callbacks.on_run_end(config=config, config_name=name, job_return=done)
        if done.status is JobStatus.FAILED:
            raise done._return_value  # done.return_value would print lines of its own
    if process.rank() == 0:
        from rescaler.sweep.local import show_results

        show_results([folder], plot=folder / "accuracy.png", console=Console())


@contextlib.contextmanager
def _in_use(folder: Path) -> Iterator[None]:
    """Keep other processes from a run's folder, but for those that train the same run together."""
    if process.rank() > 0:
        yield
        return
    otherwise = "wait for its end, or choose another folder"
    with owned(folder / RUN_LOCK, f"hydra.run.dir={folder}", "run", otherwise, stays=False):
        yield


def launch(overrides: list[str], jobs: list[list[str]], folder: Path, arguments: argparse.Namespace) -> None:
    """Train jobs as one sweep, by the launcher that the settings in common choose; whoever calls shows the results.

    Args:
        overrides: of all jobs.
        jobs: further overrides of each.
        folder: of the sweep.
        arguments: of the command line, which say where configs are.
    """
    with compose.hydra_over(arguments.config_dir, arguments.config_path) as hydra:
        common = [*overrides, f"hydra.sweep.dir={folder}"]
        name = arguments.config_name or compose.NAME
        config = hydra.compose_config(name, common, RunMode.MULTIRUN, with_log_configuration=True)
        context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config))
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=context, task_function=train_job, config=config
        )
        launcher.shows_results = False  # type: ignore[attr-defined]  # of our launchers
        try:
            launcher.launch([[*overrides, *job] for job in jobs], initial_job_idx=0)
        except compose.MISTAKES as error:
            raise InputError(compose.explain(error)) from error


def _train(experiment: Experiment, folder: Path, _: DictConfig) -> float | None:
    return _execute(experiment, folder, group=folder.name)


def train_job(config: DictConfig) -> float | None:
    """Train a job of Hydra's own launchers; return its ``objective``."""
    compose.register()
    job = HydraConfig.get()
    os.chdir(get_original_cwd())  # as compose.stay
    try:
        return _execute(compose.to_experiment(config), Path(job.runtime.output_dir), group=Path(job.sweep.dir).name)
    except Exception as error:
        log.error("%s", error, exc_info=not isinstance(error, InputError))
        raise


def _execute(experiment: Experiment, folder: Path, *, group: str) -> float | None:
    from rescaler.execution import execute  # imports torch

    return execute(experiment, folder, group=group)


@contextlib.contextmanager
def _quiet_unless_first(arguments: argparse.Namespace) -> Iterator[None]:
    """Where several processes train one run, let Hydra write the files of the first alone."""
    if process.rank() == 0:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        arguments.overrides += [f"hydra.run.dir={folder}", f"hydra.sweep.dir={folder}", "hydra/job_logging=stdout"]
        yield


if __name__ == "__main__":
    main()
