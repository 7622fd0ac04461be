"""Jobs for SLURM, submitted through Submitit."""

import contextlib
import io
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError
from submitit.helpers import clean_env

from rescaler.config import SlurmSettings
from rescaler.errors import InputError
from rescaler.sweeps.scheduler import cancel, complaint, max_array_size

_START_S = 60
"""Seconds that a job needs to start and to save."""


class Cluster:
    """Submits jobs; their logs and pickles are kept in ``folder``, which all nodes must see.

    Raises:
        InputError: as of :func:`check`.
    """

    def __init__(self, settings: SlurmSettings, folder: Path) -> None:
        check(settings)
        self._settings = settings
        self._folder = folder

    def submit(self, jobs: Sequence[Callable[[], None]], name: str, after: str | None = None) -> list[str]:
        """Submit jobs as arrays, each as large as the cluster allows; returns an id for each.

        Args:
            jobs: what they do.
            name: that SLURM shows.
            after: id of a job that must be over before them, however it ended.

        Raises:
            InputError: sbatch refused; has its words.
        """
        most = max_array_size()
        ids: list[str] = []
        for start in range(0, len(jobs), most):
            executor = self._executor(name, after)
            try:
                with _outside_of_jobs(), contextlib.redirect_stderr(io.StringIO()), executor.batch():
                    submitted = [executor.submit(job) for job in jobs[start : start + most]]
            except BaseException as error:
                with contextlib.suppress(InputError):  # what sbatch says matters more
                    cancel(ids)
                if not isinstance(error, FailedJobError):
                    raise
                raise InputError(f"sbatch: {complaint(str(error))}") from error
            ids += [job.job_id for job in submitted]
        return ids

    def script(self, count: int, name: str) -> str:
        """What sbatch would be given for an array of ``count`` jobs."""
        executor = self._executor(name)
        if count > 1:
            executor.parameters["map_count"] = count
        return executor._make_submission_file_text(executor._submitit_command_str, "")

    def _executor(self, name: str, after: str | None = None) -> submitit.SlurmExecutor:
        settings = self._settings
        executor = submitit.SlurmExecutor(self._folder, max_num_timeout=10**9, python=settings.python)
        srun_args = [*settings.srun_args, *(["--kill-on-bad-exit=1"] if settings.tasks_per_node > 1 else [])]
        optional: dict[str, Any] = {
            "partition": settings.partition,
            "account": settings.account,
            "qos": settings.qos,
            "constraint": settings.constraint,
            "gpus_per_node": settings.gpus_per_node or None,
            "mem": None if settings.mem_gb is None else f"{math.ceil(1024 * settings.mem_gb)}MB",
            "mail_type": settings.mail_type,
            "mail_user": settings.mail_user,
            "setup": settings.setup or None,
            "srun_args": srun_args or None,
            "dependency": after and f"afterany:{after}",
        }
        executor.update_parameters(
            job_name=name,
            nodes=settings.nodes,
            ntasks_per_node=settings.tasks_per_node,
            cpus_per_task=settings.cpus_per_task,
            time=settings.timeout_min,
            signal_delay_s=settings.signal_delay_s,
            array_parallelism=settings.array_parallelism,
            # A job whose node died comes back, and its log goes on.
            additional_parameters={"requeue": True, **settings.additional_parameters},
            **{key: value for key, value in optional.items() if value is not None},
        )
        return executor


@contextlib.contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Keep what this job's environment asks for from the jobs that are submitted from inside of it."""
    where = os.environ.get("SLURM_CONF")
    with clean_env():
        if where is not None:
            os.environ["SLURM_CONF"] = where
        yield


def check(settings: SlurmSettings) -> None:
    """See that jobs can be submitted from here, and refuse impossible values.

    Raises:
        InputError: SLURM's commands are not here; or names the key, its value and what is allowed.
    """
    for command in ("sbatch", "srun"):
        if shutil.which(command) is None:
            raise InputError(f"hydra/launcher=slurm: no {command} on the path; start it on a login node of the cluster")
    for key, least in (
        ("nodes", 1),
        ("gpus_per_node", 0),
        ("cpus_per_task", 1),
        ("array_parallelism", 1),
        ("signal_delay_s", 1),
    ):
        value = getattr(settings, key)
        if value < least:
            raise InputError(f"hydra.launcher.{key} must be at least {least}; got {value}")
    if settings.tasks_per_node < 1:
        raise InputError(f"hydra.launcher.processes_per_node must be at least 1; got {settings.processes_per_node}")
    if settings.mem_gb is not None and settings.mem_gb <= 0:
        raise InputError(f"hydra.launcher.mem_gb must be above 0; got {settings.mem_gb:g}")
    least_min = -(-(settings.signal_delay_s + _START_S) // 60)
    if settings.timeout_min < least_min:
        raise InputError(
            f"hydra.launcher.timeout_min must be at least {least_min}: jobs are told to save "
            f"hydra.launcher.signal_delay_s={settings.signal_delay_s} seconds before the limit, and need about a "
            f"minute to start; got {settings.timeout_min}"
        )
