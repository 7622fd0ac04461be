"""SLURM: submit jobs through Submitit, ask what became of them, cancel them."""

import contextlib
import io
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import submitit
from submitit.core.utils import FailedJobError
from submitit.helpers import clean_env

from rescaler.errors import InputError
from rescaler.settings import SlurmSettings

_ALIVE = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "SUSPENDED", "STOPPED"}
_RUNNING = {"RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "RESIZING"}
_START_S = 60
"""What a job needs to start and to save."""


class JobState(NamedTuple):
    """What SLURM says of one job."""

    name: str
    """SLURM's own word, such as ``PENDING``; empty where it has forgotten the job."""
    requeues: int = 0
    reason: str = ""

    @property
    def waits(self) -> bool:
        """It is in the queue."""
        return self.name in _ALIVE

    @property
    def runs(self) -> bool:
        """It is on a node."""
        return self.name in _RUNNING

    @property
    def is_over(self) -> bool:
        """It will not run any more by itself."""
        return not (self.waits or self.runs)


class Cluster:
    """Submits jobs; their logs and pickles are kept in ``folder``, which all nodes must see.

    Raises:
        InputError: SLURM's commands are not here, or a setting is impossible.
    """

    def __init__(self, settings: SlurmSettings, folder: Path) -> None:
        for command in ("sbatch", "srun"):
            if shutil.which(command) is None:
                raise InputError(
                    f"hydra/launcher=slurm: no {command} on the path; start it on a login node of the cluster"
                )
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
            words = io.StringIO()
            try:
                with _outside_of_jobs(), contextlib.redirect_stderr(words), executor.batch():
                    submitted = [executor.submit(job) for job in jobs[start : start + most]]
            except FailedJobError as error:
                cancel(ids)
                raise InputError(f"sbatch: {_sbatch_words(str(error))}") from error
            ids += [job.job_id for job in submitted]
        return ids

    def script(self, count: int, name: str, after: str | None = None) -> str:
        """What sbatch would be given for an array of ``count`` jobs."""
        executor = self._executor(name, after)
        if count > 1:
            executor.parameters["map_count"] = count
        return executor._make_submission_file_text(executor._submitit_command_str, "")

    def _executor(self, name: str, after: str | None) -> submitit.SlurmExecutor:
        settings = self._settings
        executor = submitit.SlurmExecutor(self._folder, max_num_timeout=10**9, python=settings.python)
        srun_args = [*settings.srun_args, *(["--kill-on-bad-exit=1"] if settings.tasks_per_node > 1 else [])]
        optional: dict[str, Any] = {
            "partition": settings.partition,
            "account": settings.account,
            "qos": settings.qos,
            "constraint": settings.constraint,
            "gpus_per_node": settings.gpus_per_node or None,
            "mem": None if settings.mem_gb is None else f"{round(1024 * settings.mem_gb)}MB",
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
    """What a job's environment asks for is not to be passed on to the jobs that are submitted from inside of it."""
    where = os.environ.get("SLURM_CONF")
    with clean_env():
        if where is not None:
            os.environ["SLURM_CONF"] = where
        yield


def check(settings: SlurmSettings) -> None:
    """Refuse impossible values.

    Raises:
        InputError: names the key, its value and what is allowed.
    """
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
            f"hydra.launcher.timeout_min must be at least {least_min}, or a job that is told to save "
            f"hydra.launcher.signal_delay_s={settings.signal_delay_s} before its end has not begun; got "
            f"{settings.timeout_min}"
        )


def max_array_size() -> int:
    """How many jobs one array may have."""
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", _output("scontrol", "show", "config"))
    return max(1, int(found[1])) if found else 1000


def states(ids: Iterable[str]) -> dict[str, JobState]:
    """What SLURM says of jobs, by id.

    The queue has those that wait, run or have just ended; accounting, where the cluster has it, the others.

    Raises:
        InputError: SLURM does not answer.
    """
    wanted = set(ids)
    if shutil.which("squeue") is None:
        raise InputError("no squeue on the path: look at a sweep of SLURM jobs where they were submitted")
    found: dict[str, JobState] = {}
    if wanted:
        fields = "JobArrayID:64,State:24,RestartCnt:12,Reason:64"
        for line in _output(
            "squeue", "--me", "--noheader", "--array", "--states=all", f"--Format={fields}"
        ).splitlines():
            job, state, requeues, reason = [*line.split(None, 3), "", "", ""][:4]
            if job in wanted:
                found[job] = JobState(state, int(requeues) if requeues.isdigit() else 0, reason.strip())
    missing = wanted - set(found)
    if missing and shutil.which("sacct") is not None:
        command = [
            "sacct",
            "--noheader",
            "--parsable2",
            "--allocations",
            "--format=JobID,State",
            f"--jobs={','.join(missing)}",
        ]
        for line in _output(*command, check=False).splitlines():
            job, _, state = line.partition("|")
            if job in missing:
                found[job] = JobState(state.split()[0])  # "CANCELLED by 0"
    return {job: found.get(job, JobState("")) for job in wanted}


def cancel(ids: Iterable[str]) -> None:
    """Cancel jobs that are not over."""
    wanted = list(ids)
    if wanted:
        _output("scancel", *wanted, check=False)


def last_error(folder: Path, job: str) -> str | None:
    """The last exception in a job's error log; None if it has none."""
    found = (_RAISED.fullmatch(line) for line in reversed(_log(folder, job)))
    raised = next((match for match in found if match is not None), None)
    if raised is None:
        return None
    return raised["message"] if raised["kind"].endswith(InputError.__name__) else raised[0]


def last_words(folder: Path, job: str) -> str | None:
    """The last line of a job's error log that is neither Submitit's nor that the job is over; None if it has none."""
    noise = ("submitit ", "srun: ", "slurmstepd: error: ***")
    return next((line for line in reversed(_log(folder, job)) if line and not line.startswith(noise)), None)


_RAISED = re.compile(r"(?P<kind>[\w.]*(?:Error|Exception))(?:: (?P<message>.*))?")


def _log(folder: Path, job: str) -> list[str]:
    paths = submitit.core.utils.JobPaths(folder, job, 0)
    try:
        text = paths.stderr.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [line.strip() for line in text.splitlines()]


def _output(*command: str, check: bool = True) -> str:
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and finished.returncode != 0:
        raise InputError(f"{command[0]}: {_sbatch_words(finished.stderr)}")
    return finished.stdout


def _sbatch_words(text: str) -> str:
    words = [line.partition("error: ")[2] or line for line in text.splitlines() if line.strip()]
    return "; ".join(dict.fromkeys(word.strip() for word in words)) or "failed without a word"
