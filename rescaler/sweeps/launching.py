"""From Hydra's jobs to the runs of a sweep: all are composed and checked before the first is trained."""

import logging
from collections.abc import Sequence
from pathlib import Path

from hydra.core.utils import filter_overrides
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

from rescaler.compose import SweepComposer, to_experiment
from rescaler.errors import InputError
from rescaler.networks import Networks
from rescaler.plan import plan
from rescaler.sweeps.layout import Planned
from rescaler.sweeps.sweep import SweepRun

log = logging.getLogger(__name__)


def plan_jobs(
    context: HydraContext,
    config: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    first: int,
    *,
    elsewhere: str | None = None,
) -> list[tuple[Sequence[str], Planned]]:
    """Compose, check and lay out every job of a sweep. Those that are the same run are one, which is said.

    Args:
        context: Hydra's.
        config: of the sweep.
        job_overrides: by job.
        first: number of the first job.
        elsewhere: as of :func:`rescaler.plan.plan`.

    Returns:
        Overrides and run of each job that is left.

    Raises:
        InputError: a job cannot run as it is; names it.
    """
    found: dict[tuple[str, str], tuple[Sequence[str], Planned]] = {}
    composer, networks = SweepComposer(context.config_loader, config), dict[str, Networks]()
    words = [filter_overrides(overrides) for overrides in job_overrides]
    everywhere = set.intersection(*map(set, words)) if len(words) > 1 else set()
    for overrides, own in zip(job_overrides, words, strict=True):
        name = " ".join(word for word in own if word not in everywhere) or " ".join(own)
        try:
            run = plan(to_experiment(composer.settings(overrides)), elsewhere=elsewhere, networks=networks)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
        subdir = _subdir(context, config, overrides, first + len(found))
        planned = Planned(SweepRun(name, subdir), run, Path(config.hydra.sweep.dir, subdir).absolute())
        same = found.setdefault((run.id, str(planned.ledger.folder)), (overrides, planned))
        if same[1] is not planned:
            log.warning("%s is the same run as %s: it is run once", name, same[1].entry.name)
    return list(found.values())


def _subdir(context: HydraContext, config: DictConfig, overrides: Sequence[str], number: int) -> str:
    """Folder of a job, relative to the sweep's: its number, or what the user had it made of."""
    hydra = OmegaConf.to_container(config.hydra, resolve=False)
    assert isinstance(hydra, dict)
    if hydra["sweep"]["subdir"] == "${hydra.job.num}":
        return str(number)
    composed = context.config_loader.load_sweep_config(config, list(overrides))
    with open_dict(composed):
        composed.hydra.job.id = composed.hydra.job.num = number
    return str(composed.hydra.sweep.subdir)
