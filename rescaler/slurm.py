"""A sweep on a SLURM cluster, for who starts it: what would be submitted; submitting, watching, results."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from rescaler import launching
from rescaler.cluster import Cluster, max_array_size
from rescaler.commands.plan import plan_table
from rescaler.compose import Job
from rescaler.errors import InputError
from rescaler.settings import SlurmSettings
from rescaler.sharing import Trunk
from rescaler.submission import Planned, layout, submit
from rescaler.sweep import Sweep
from rescaler.watching import watch

_MOST_GROUPS, _MOST_NAMES = 6, 20
"""Groups that the dry run shows, and runs that it names of each."""


def device_type(settings: SlurmSettings) -> str:
    """Of the nodes, where ``device=auto``."""
    return "cuda" if settings.gpus_per_node > 0 else "cpu"


def start(sweep: Sweep, planned: Sequence[Planned], settings: SlurmSettings) -> None:
    """Submit runs, and unless ``detach`` is set, watch them and show what came out.

    Raises:
        InputError: sbatch refused, and nothing is submitted; or at the end, if a run did not finish.
    """
    submit(sweep, planned, settings)
    console = Console()
    look = f"look at them with: python -m rescaler status {sweep.folder}"
    if settings.detach:
        console.print(f"{len(planned)} runs are submitted; {look}", soft_wrap=True, highlight=False, markup=False)
        return
    try:
        watch(sweep.folder, console)
    except KeyboardInterrupt:
        raise InputError(f"no longer watched, but the jobs go on; {look}") from None
    launching.show(sweep)
    launching.refuse_failures(Sweep.read(sweep.folder))


def show_plan(folder: Path, planned: Sequence[Planned], settings: SlurmSettings) -> None:
    """Print what would be submitted: hours, jobs with their dependencies, array shapes and script.

    Raises:
        InputError: ``epoch_hours`` are wrong in number or value.
    """
    console = Console()
    jobs = [Job(tuple(one.entry.name.split()), one.run.experiment) for one in planned]
    hours = [f"{value:g}" for value in settings.epoch_hours] or None
    plan_table(jobs, hours, "hydra.launcher.epoch_hours").print(console)
    groups, most = layout(planned, share_trunk=settings.share_trunk).groups, max_array_size()
    for number, (trunk, runs) in enumerate(groups[:_MOST_GROUPS], start=1):
        lines = [f"trunk {number}: 1 job, {_epochs(trunk)}"] if trunk else []
        sizes = [min(most, len(runs) - start) for start in range(0, len(runs), most)]
        arrays = ", ".join("1 job" if size == 1 else f"an array of {size}" for size in sizes)
        at_once = f", {settings.array_parallelism} at a time" if max(sizes) > settings.array_parallelism else ""
        lines.append(f"{arrays}{at_once}" + (f", after trunk {number}:" if trunk else ", after nothing:"))
        names = [planned[run].entry.name or "(no overrides)" for run in runs[:_MOST_NAMES]]
        lines += [f"  {name}" for name in names]
        lines += [f"  and {len(runs) - _MOST_NAMES} more"] if len(runs) > _MOST_NAMES else []
        console.print(Text("\n".join(lines)), soft_wrap=True)
    if len(groups) > _MOST_GROUPS:
        rest = groups[_MOST_GROUPS:]
        console.print(f"and {len(rest)} more such groups, of {sum(len(runs) for _, runs in rest)} runs")
    sweep = Sweep(folder, [])
    script = Cluster(settings, sweep.jobs_folder).script(min(most, len(groups[-1][1])), sweep.job_name)
    console.print(Text(f"\nThe script of the last array:\n\n{script}\nNothing was submitted."), soft_wrap=True)


def _epochs(trunk: Trunk) -> str:
    return " + ".join(f"{part.last_epoch} epochs" for part in trunk.parts) + f", for {len(trunk.branches)} runs"
