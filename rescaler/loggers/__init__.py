"""Loggers show a run's records elsewhere, such as W&B; nothing that happens to them reaches the training."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from rescaler.config import LoggerSettings, require
from rescaler.errors import InputError
from rescaler.instantiate import partial
from rescaler.loggers.wandb import Wandb, resolve_mode
from rescaler.record import Record


class Logger(Protocol):
    """What a run tells a logger, in this order. No method may raise or block for long."""

    def start(self, summary: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        """Begin with the run's ``summary.json`` before its first epoch, and its resolved settings."""

    def epoch(self, record: Record, *, reused: bool) -> None:
        """Show an epoch; epochs come in order from the first, those read from the ledger (``reused``) too."""

    def finish(self, summary: Mapping[str, Any], *, failed: bool) -> None:
        """End with the run's last ``summary.json``; ``failed``: by an error or a signal."""


def build_loggers(settings: LoggerSettings, *, group: str, folder: Path) -> list[Logger]:
    """Make the loggers of a run."""
    mode = resolve_mode(settings.mode, os.environ)
    ours = [] if mode == "disabled" else [Wandb(settings, mode, group=group, folder=folder)]
    return [*ours, *_more(settings)]


def _more(settings: LoggerSettings) -> list[Logger]:
    """Build the custom loggers."""
    found: list[Logger] = []
    for number, options in enumerate(settings.more):
        key = f"logger.more[{number}]"
        require(isinstance(options, Mapping), key, options, "a _target_ and its arguments")
        try:
            found.append(partial(options, key)())
        except TypeError as error:
            raise InputError(f"{key}._target_={options['_target_']}: {error}") from error
    return found


def check_loggers(settings: LoggerSettings) -> None:
    """Raise InputError if the settings of the loggers are impossible."""
    resolve_mode(settings.mode, os.environ)
    _more(settings)
