"""How the runs of a sweep become jobs: trunks first, then arrays of the runs that go on from them."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rescaler.cluster import Cluster, cancel
from rescaler.jobs import Place, RunJob, TrunkJob
from rescaler.keeping import Keeper
from rescaler.ledger import Ledger
from rescaler.plan import Run
from rescaler.settings import SlurmSettings
from rescaler.sharing import Trunk, splits, trunks
from rescaler.sweep import Sweep, SweepRun


class Planned(NamedTuple):
    """A run of a sweep, checked and laid out."""

    entry: SweepRun
    run: Run
    folder: Path

    @property
    def ledger(self) -> Ledger:
        """The run's."""
        return Ledger(Path(self.run.experiment.ledger.folder))


@dataclass(frozen=True)
class Layout:
    """What is submitted: a trunk and its branches are one group; runs without a trunk are the last."""

    groups: tuple[tuple[Trunk | None, tuple[int, ...]], ...]

    @property
    def trunks(self) -> list[Trunk]:
        """All trunks."""
        return [trunk for trunk, _ in self.groups if trunk is not None]


def layout(planned: Sequence[Planned], *, share_trunk: bool = True) -> Layout:
    """The jobs of some runs. Runs that the ledger has share nothing with others any more."""
    found = trunks(_missing(planned), lambda path: Path(path).exists()) if share_trunk else []
    branches = {run for trunk in found for run in trunk.branches}
    alone = tuple(run for run in range(len(planned)) if run not in branches)
    return Layout((*((trunk, trunk.branches) for trunk in found), *(((None, alone),) if alone else ())))


def hold(planned: Sequence[Planned]) -> None:
    """Keep the states where runs part, before they exist: in whatever order they are trained, each finds its trunk."""
    for one, split in zip(planned, splits(_missing(planned)), strict=True):
        Keeper(one.run, one.ledger, one.folder, (split,) if split else ())


def _missing(planned: Sequence[Planned]) -> list[list[str]]:
    """Of each run that is not complete, where the states of its epochs are kept."""
    paths = []
    for one in planned:
        keys = one.run.chain.known_keys
        complete = one.ledger.record(keys[-1]) is not None
        paths.append([] if complete else [str(one.ledger.state_path(key)) for key in keys])
    return paths


def submit(sweep: Sweep, planned: Sequence[Planned], settings: SlurmSettings) -> None:
    """Submit runs of a sweep, and note their jobs in its folder.

    Raises:
        InputError: sbatch refused, and nothing is submitted; or the sweep's folder cannot be written.
    """
    cluster = Cluster(settings, sweep.jobs_folder)
    submitted: list[str] = []
    try:
        for trunk, members in layout(planned, share_trunk=settings.share_trunk).groups:
            after = None
            if trunk is not None:
                folder = f"trunks/{len(sweep.trunk_jobs)}"
                job = _trunk_job(trunk, planned, sweep.folder / folder, settings)
                (after,) = cluster.submit([job], f"{sweep.job_name}-trunk")
                submitted.append(after)
                sweep.trunk_jobs[folder] = after
            jobs = [_run_job(planned[run], sweep, settings) for run in members]
            ids = cluster.submit(jobs, sweep.job_name, after)
            submitted += ids
            for run, job_id in zip(members, ids, strict=True):
                planned[run].entry.trunk = None if trunk is None else folder
                planned[run].entry.job = job_id
                planned[run].entry.cancelled = False
        sweep.write()
    except BaseException:
        cancel(submitted)
        raise


def _run_job(one: Planned, sweep: Sweep, settings: SlurmSettings) -> RunJob:
    return RunJob(one.run.experiment, one.folder, sweep.name, _place(one, settings))


def _trunk_job(trunk: Trunk, planned: Sequence[Planned], folder: Path, settings: SlurmSettings) -> TrunkJob:
    experiments = [planned[part.run].run.experiment for part in trunk.parts]
    return TrunkJob(experiments, trunk, folder, _place(planned[trunk.parts[0].run], settings))


def _place(one: Planned, settings: SlurmSettings) -> Place:
    return Place(socket.gethostname(), one.ledger.id, settings.timeout_min)
