"""How the runs of a sweep become jobs: trunks first, then arrays of the runs that go on from them."""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from rescaler.config import SlurmSettings
from rescaler.errors import InputError
from rescaler.sweeps.cluster import Cluster
from rescaler.sweeps.jobs import RunJob, TrunkJob
from rescaler.sweeps.layout import Planned, freeze, groups
from rescaler.sweeps.scheduler import cancel
from rescaler.sweeps.sweep import Sweep
from rescaler.training.sharing import Trunk


def submit(sweep: Sweep, planned: Sequence[Planned], settings: SlurmSettings) -> None:
    """Submit runs of a sweep with their settings frozen, and note their jobs in its folder.

    Raises:
        InputError: sbatch refused, and nothing is submitted; or a folder cannot be written.
    """
    cluster = Cluster(settings, sweep.jobs_folder)
    submitted: list[str] = []
    with _undone_on_failure([sweep.jobs_folder.parent, *(one.folder for one in planned)], submitted):
        freeze(planned)
        for trunk, members in groups(planned, share_trunk=settings.share_trunk):
            folder = after = None
            if trunk is not None:
                folder = f"trunks/{len(sweep.trunk_jobs)}"
                job = _trunk_job(trunk, planned, sweep.folder / folder, settings)
                (after,) = cluster.submit([job], f"{sweep.job_name}-trunk")
                submitted.append(after)
                sweep.trunk_jobs[folder] = after
            runs = [planned[run] for run in members]
            ids = cluster.submit([_run_job(one, sweep.name, settings) for one in runs], sweep.job_name, after)
            submitted += ids
            for one, job_id in zip(runs, ids, strict=True):
                one.entry.trunk, one.entry.job, one.entry.cancelled = folder, job_id, False
        sweep.write()


@contextlib.contextmanager
def _undone_on_failure(folders: Sequence[Path], jobs: Sequence[str]) -> Iterator[None]:
    """If the block fails, cancel the jobs, and remove those of the folders that were not there before."""
    new = [folder for folder in folders if not folder.exists()]
    try:
        yield
    except BaseException:
        with contextlib.suppress(InputError):  # why it failed matters more
            cancel(jobs)
        for folder in new:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _run_job(one: Planned, group: str, settings: SlurmSettings) -> RunJob:
    return RunJob(
        ledger_folder=one.ledger.folder,
        ledger_id=one.ledger.id,
        timeout_min=settings.timeout_min,
        experiment=one.run.experiment,
        folder=one.folder,
        group=group,
    )


def _trunk_job(trunk: Trunk, planned: Sequence[Planned], folder: Path, settings: SlurmSettings) -> TrunkJob:
    parts = [planned[part.run] for part in trunk.parts]
    return TrunkJob(
        ledger_folder=parts[0].ledger.folder,
        ledger_id=parts[0].ledger.id,
        timeout_min=settings.timeout_min,
        experiments=[one.run.experiment for one in parts],
        trunk=trunk,
        folder=folder,
    )
