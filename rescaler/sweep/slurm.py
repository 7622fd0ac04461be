"""Sweeps on a SLURM cluster: what each job does; submitting them through Submitit, trunks first; the dry run.

Jobs are pickled when they are submitted. What a node imports to unpickle one is light, so that Submitit's handlers of
signals are in place soon after its start: torch, Hydra and pandas are imported where they are used.
"""

import contextlib
import dataclasses
import io
import math
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import submitit
from submitit.core.utils import DelayedSubmission, FailedJobError
from submitit.helpers import TorchDistributedEnvironment, clean_env

from rescaler.config import Experiment, SlurmSettings
from rescaler.errors import InputError
from rescaler.files import removed_on_failure, write_text
from rescaler.sweep import Sweep, scheduler
from rescaler.text import counted, log_to_stderr

if TYPE_CHECKING:
    from hydra.types import HydraContext
    from omegaconf import DictConfig

    from rescaler.sweep.planner import Planned

_MOST_STANDSTILLS = 2
_MOST_NAMES = 20
"""Runs that the dry run names of each group."""
_START_S = 60
"""Seconds that a job needs to start and to save."""


@dataclass(kw_only=True)
class TrainingJob:
    """Trains a run or a trunk on a node, any number of times: each attempt continues from what the last one saved."""

    ledger_folder: Path
    ledger_id: str | None
    timeout_min: int
    folder: Path
    experiment: Experiment | None = None
    """Of the run."""
    group: str = ""
    """Of the run: its sweep."""
    parts: list[tuple[Experiment, int, tuple[int, ...]]] = field(default_factory=list)
    """Of the trunk: runs that have it, each with its last epoch and its forks."""
    host: str = field(default_factory=socket.gethostname)
    """Where it was submitted."""
    standstills: int = 0
    """Attempts in a row that a signal ended before the first save."""
    has_saved: bool = False
    """Whether this attempt has saved."""

    def __call__(self) -> None:
        """Train, on the node."""
        log_to_stderr()
        _init_distributed()
        from rescaler.execution import execute, execute_trunk
        from rescaler.ledger import Ledger

        if Ledger(self.ledger_folder).id != self.ledger_id:
            raise InputError(
                f"ledger.folder={self.ledger_folder}: the node {socket.gethostname()} does not see there what "
                f"{self.host} has written; it must be on a file system that all nodes share"
            )
        if self.experiment is None:
            execute_trunk(self.parts, self.folder, on_save=self.note_save)
        else:
            execute(self.experiment, self.folder, group=self.group, on_save=self.note_save)

    def note_save(self) -> None:
        """Remember that this attempt has saved."""
        self.has_saved = True

    def checkpoint(self) -> DelayedSubmission:
        """Return this job for Submitit to requeue: all that is done is in the ledger."""
        self.standstills = 0 if self.has_saved else self.standstills + 1
        self.has_saved = False  # of the next attempt
        if self.standstills == _MOST_STANDSTILLS:  # once may be an early preemption
            raise InputError(
                f"hydra.launcher.timeout_min={self.timeout_min} is too short: {_MOST_STANDSTILLS} times in a row the "
                "job was told to end before it came to a save; allowed: enough for the start and one mini-batch"
            )
        return DelayedSubmission(self)


def _init_distributed() -> None:
    """Set what torch needs to find the other processes that train the run, if there are any."""
    environment = TorchDistributedEnvironment()
    if environment.world_size > 1:
        # SLURM has chosen the node's GPUs; which of them is this process's, the process itself knows.
        environment.export(set_cuda_visible_devices=False, overwrite=True)
        if environment.local_world_size == environment.world_size:
            os.environ["MASTER_ADDR"] = "127.0.0.1"  # on one node they meet without its name, which may not resolve


class Cluster:
    """Submits jobs; keeps their logs and pickles in ``folder``, which all nodes must see."""

    def __init__(self, settings: SlurmSettings, folder: Path) -> None:
        check(settings)
        self._settings = settings
        self._folder = folder

    def submit(self, jobs: Sequence[Callable[[], None]], name: str, after: str | None = None) -> list[str]:
        """Submit jobs as arrays, each as large as the cluster allows; returns an id for each."""
        most = scheduler.max_array_size()
        ids: list[str] = []
        for start in range(0, len(jobs), most):
            executor = self._executor(name, after)
            try:
                with _outside_of_jobs(), contextlib.redirect_stderr(io.StringIO()), executor.batch():
                    submitted = [executor.submit(job) for job in jobs[start : start + most]]
            except BaseException as error:
                with contextlib.suppress(InputError):  # what sbatch says matters more
                    scheduler.cancel(ids)
                if not isinstance(error, FailedJobError):
                    raise
                raise InputError(f"sbatch: {scheduler.complaint(str(error))}") from error
            ids += [job.job_id for job in submitted]
        return ids

    def script(self, count: int, name: str) -> str:
        """Text that sbatch would get for an array of ``count`` jobs."""
        executor = self._executor(name)
        if count > 1:
            executor.parameters["map_count"] = count
        return executor._make_submission_file_text(executor._submitit_command_str, "")

    def _executor(self, name: str, after: str | None = None) -> submitit.SlurmExecutor:
        settings = self._settings
        executor = submitit.SlurmExecutor(self._folder, max_num_timeout=10**9, python=settings.python)
        srun_args = [*settings.srun_args, *(["--kill-on-bad-exit=1"] if settings.tasks_per_node > 1 else [])]
        optional: dict[str, Any] = {
            **{key: getattr(settings, key) for key in ("partition", "account", "qos", "constraint", "mail_type")},
            "mail_user": settings.mail_user,
            "gpus_per_node": settings.gpus_per_node or None,
            "mem": None if settings.mem_gb is None else f"{math.ceil(1024 * settings.mem_gb)}MB",
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
            # A job whose node died comes back, and its log is continued.
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
    """Check that jobs can be submitted from here, and the values of the settings."""
    for command in ("sbatch", "srun"):
        if shutil.which(command) is None:
            raise InputError(f"hydra/launcher=slurm: no {command} on the path; start it on a login node of the cluster")
    least = {"nodes": 1, "gpus_per_node": 0, "cpus_per_task": 1, "array_parallelism": 1, "signal_delay_s": 1}
    for key, value in least.items():
        if getattr(settings, key) < value:
            raise InputError(f"hydra.launcher.{key} must be at least {value}; got {getattr(settings, key)}")
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


def launch(
    context: "HydraContext",
    config: "DictConfig",
    job_overrides: Sequence[Sequence[str]],
    first: int,
    settings: SlurmSettings,
    *,
    shows_results: bool = True,
) -> None:
    """Check all jobs of a Hydra sweep, then submit and watch them, or with ``dry_run`` show what would be submitted."""
    from hydra.core.utils import configure_log
    from omegaconf import OmegaConf

    from rescaler.compose import compose_jobs
    from rescaler.sweep.planner import plan_runs

    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    check(settings)
    folder = Path(config.hydra.sweep.dir).absolute()
    jobs = compose_jobs(context.config_loader, config, job_overrides, first)
    planned = plan_runs(jobs, folder, elsewhere=settings.device_type)
    sweep = Sweep(folder, [one.entry for one in planned], dataclasses.asdict(settings))
    if settings.dry_run:
        show_plan(sweep, planned, settings)
    else:
        start(sweep, planned, settings, OmegaConf.to_yaml(config), shows_results=shows_results)


def start(
    sweep: Sweep,
    planned: Sequence["Planned"],
    settings: SlurmSettings,
    multirun: str | None = None,
    *,
    shows_results: bool = True,
) -> None:
    """Submit runs, and unless ``detach`` is set, watch them and show the results."""
    from rich.console import Console

    from rescaler.sweep.local import conclude
    from rescaler.sweep.status import watch

    submit(sweep, planned, settings, multirun)
    console = Console()
    look = f"look at them with: {sweep.command('status')}"
    if settings.detach:
        line = f"submitted: {counted(len(planned), 'run')}; {look}"
        console.print(line, soft_wrap=True, highlight=False, markup=False)
        return
    try:
        watch(sweep.folder, console)
    except KeyboardInterrupt:
        raise InputError(f"no longer watched, but the jobs go on; {look}") from None
    conclude(sweep.folder, shows_results=shows_results)


def submit(sweep: Sweep, planned: Sequence["Planned"], settings: SlurmSettings, multirun: str | None = None) -> None:
    """Freeze the settings of runs, submit them, and write their jobs to ``sweep.json``."""
    from rescaler.sweep.planner import freeze, groups
    from rescaler.sweep.status import refuse_if_alive

    cluster = Cluster(settings, sweep.jobs_folder)
    planned = [_on_gpu(one) if one.run.chain.device_type == "cuda" else one for one in planned]
    submitted: list[str] = []
    with removed_on_failure(sweep.folder, sweep.jobs_folder.parent, *(one.folder for one in planned)), sweep.owned():
        try:
            refuse_if_alive(sweep.folder)
            freeze(planned)
            for trunks, members in groups(planned, share_trunk=settings.share_trunk):
                runs = [planned[run] for run in members]
                folder = after = None
                if trunks:
                    folder = f"trunks/{len(sweep.trunk_jobs)}"
                    parts = [(planned[one.run].run.experiment, one.last_epoch, one.forks) for one in trunks]
                    job = _job(planned[trunks[0].run], sweep.folder / folder, settings, parts=parts)
                    (after,) = cluster.submit([job], f"{sweep.job_name}-trunk")
                    submitted.append(after)
                    sweep.trunk_jobs[folder] = after
                jobs = [
                    _job(one, one.folder, settings, experiment=one.run.experiment, group=sweep.name) for one in runs
                ]
                ids = cluster.submit(jobs, sweep.job_name, after)
                submitted += ids
                for one, job_id in zip(runs, ids, strict=True):
                    one.entry.trunk, one.entry.job, one.entry.cancelled = folder, job_id, False
            sweep.write()
            if multirun is not None:
                write_text(sweep.folder / "multirun.yaml", multirun)  # as Hydra does, for the report
        except BaseException:
            with contextlib.suppress(InputError):  # why it failed matters more
                scheduler.cancel(submitted)
            raise


def _on_gpu(one: "Planned") -> "Planned":
    """Fix the device of a run, whose epochs are planned under keys of it: a node without it is to fail."""
    experiment = dataclasses.replace(one.run.experiment, device="cuda")
    return one._replace(run=dataclasses.replace(one.run, experiment=experiment))


def _job(one: "Planned", folder: Path, settings: SlurmSettings, **what: Any) -> TrainingJob:
    ledger, timeout_min = one.ledger, settings.timeout_min
    return TrainingJob(ledger_folder=ledger.folder, ledger_id=ledger.id, timeout_min=timeout_min, folder=folder, **what)


def show_plan(sweep: Sweep, planned: Sequence["Planned"], settings: SlurmSettings) -> None:
    """Print what would be submitted: hours, jobs with their dependencies, array shapes and script."""
    from rich.console import Console
    from rich.text import Text

    from rescaler.sweep.planner import groups, plan_table

    console = Console()
    most = scheduler.max_array_size()
    hours = [f"{value:g}" for value in settings.epoch_hours] or None
    plan_table(planned, hours, "hydra.launcher.epoch_hours").print(console)
    found = groups(planned, share_trunk=settings.share_trunk)
    for number, (trunks, members) in enumerate(found, start=1):
        name = f"trunk {number}" if trunks else "nothing"
        epochs = " + ".join(f"{one.last_epoch} epochs" for one in trunks)
        lines = [f"{name}: 1 job, {epochs}, for {len(members)} runs"] if trunks else []
        lines.append(f"{_arrays(len(members), most, settings.array_parallelism)}, after {name}:")
        lines += [f"  {planned[run].entry.name or '(no overrides)'}" for run in members[:_MOST_NAMES]]
        lines += [f"  and {len(members) - _MOST_NAMES} more"] if len(members) > _MOST_NAMES else []
        console.print(Text("\n".join(lines)), soft_wrap=True)
    script = Cluster(settings, sweep.jobs_folder).script(min(most, len(found[-1].members)), sweep.job_name)
    console.print(Text(f"\nThe script of the last array:\n\n{script}\nNothing was submitted."), soft_wrap=True)


def _arrays(runs: int, most: int, parallel: int) -> str:
    sizes = [min(most, runs - first) for first in range(0, runs, most)]
    at_once = f", {parallel} at a time" if sizes[0] > parallel else ""
    return ", ".join("1 job" if size == 1 else f"an array of {size}" for size in sizes) + at_once
