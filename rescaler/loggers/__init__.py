"""Loggers show a run's records elsewhere, such as W&B; nothing that happens to them reaches the training."""

import logging
import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from rescaler.config import LoggerSettings, require
from rescaler.errors import InputError, listed, one_line
from rescaler.instantiate import partial
from rescaler.loggers.wandb import Wandb, resolve_mode
from rescaler.record import Record

log = logging.getLogger(__name__)

_EXTRAS = ("tensorboard", "mlflow")
"""Loggers whose package, of the same name, an extra of the same name installs."""
_METHODS = ("start", "epoch", "finish")


class Logger(Protocol):
    """What a run tells a logger, in this order. No method may raise or block for long."""

    def start(self, summary: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        """Begin with the run's ``summary.json`` before its first epoch, and its resolved settings."""

    def epoch(self, record: Record, *, reused: bool) -> None:
        """Show an epoch; epochs come in order from the first, those read from the ledger (``reused``) too."""

    def finish(self, summary: Mapping[str, Any], *, failed: bool) -> None:
        """End with the run's last ``summary.json``; ``failed``: by an error or a signal."""


class _Guarded:
    """A logger whose first error is a warning, after which the run goes on without it."""

    def __init__(self, name: str, logger: Logger) -> None:
        self._name, self._logger, self._is_on = name, logger, True

    def start(self, summary: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        self._try(lambda: self._logger.start(summary, config))

    def epoch(self, record: Record, *, reused: bool) -> None:
        self._try(lambda: self._logger.epoch(record, reused=reused))

    def finish(self, summary: Mapping[str, Any], *, failed: bool) -> None:
        self._try(lambda: self._logger.finish(summary, failed=failed))

    def _try(self, call: Callable[[], None]) -> None:
        if self._is_on:
            try:
                call()
            except Exception as error:  # whatever a client raises
                self._is_on = False
                log.warning("logger=%s is off, the run goes on without it: %s", self._name, one_line(error))


def build_loggers(settings: LoggerSettings, *, group: str, folder: Path) -> list[Logger]:
    """Make the loggers of a run."""
    mode = resolve_mode(settings.mode, os.environ)
    ours: list[Logger] = [] if mode == "disabled" else [Wandb(settings, mode, group=group, folder=folder)]
    return [*ours, *(_Guarded(name, logger) for name, logger in _others(settings, folder).items())]


def _others(settings: LoggerSettings, folder: Path) -> dict[str, Logger]:
    """Build the loggers of ``logger.others``, without their packages, and the custom ones."""
    found: dict[str, Logger] = {}
    given = [(name, f"others.{name}", options, {"folder": folder}) for name, options in settings.others.items()]
    given += [(f"more[{number}]", f"more[{number}]", options, {}) for number, options in enumerate(settings.more)]
    for name, place, options, more in given:
        key = f"logger.{place}"
        require(isinstance(options, Mapping), key, options, "a _target_ and its arguments")
        make = partial(options, key)
        try:
            found[name] = make(**more)
        except Exception as error:  # whatever a custom logger raises
            raise InputError(f"{key}._target_={options['_target_']}: {one_line(error)}") from error
        if lacking := [method for method in _METHODS if not callable(getattr(found[name], method, None))]:
            raise InputError(f"{key}._target_={options['_target_']} lacks the methods of a logger: {listed(lacking)}")
    return found


def check_loggers(settings: LoggerSettings) -> None:
    """Raise InputError if the settings of the loggers are impossible, or the package of one is missing."""
    resolve_mode(settings.mode, os.environ)
    for name in _EXTRAS:
        if name in settings.others and find_spec(name) is None:
            raise InputError(f"logger={name}: {name} is not installed: pip install 'rescaler[{name}]'")
    _others(settings, Path())
