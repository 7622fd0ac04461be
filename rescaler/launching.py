"""What the launchers of sweeps have in common: every job is checked before the first is trained; then results are shown."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from hydra.core.utils import filter_overrides
from hydra.types import HydraContext
from omegaconf import DictConfig

from rescaler.compose import to_experiment
from rescaler.errors import InputError
from rescaler.settings import Experiment

if TYPE_CHECKING:
    pass

log = logging.getLogger(__name__)


class Composed(NamedTuple):
    """One job of a sweep, composed."""

    overrides: tuple[str, ...]
    name: str
    """What a person reads of the overrides."""
    config: DictConfig
    experiment: Experiment


def compose_jobs(context: HydraContext, config: DictConfig, job_overrides: Sequence[Sequence[str]]) -> list[Composed]:
    """All jobs of a sweep.

    Raises:
        InputError: a job is impossible; names it.
    """
    found = []
    for overrides in job_overrides:
        composed = context.config_loader.load_sweep_config(config, list(overrides))
        name = " ".join(filter_overrides(overrides))
        try:
            found.append(Composed(tuple(overrides), name, composed, to_experiment(composed)))
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
    return found
