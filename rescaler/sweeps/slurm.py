"""A sweep on a SLURM cluster, for whoever starts it: what would be submitted; submitting, watching, results."""

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from rescaler.compose import Job
from rescaler.config import SlurmSettings
from rescaler.errors import InputError
from rescaler.sweeps.cluster import Cluster
from rescaler.sweeps.layout import Planned, groups
from rescaler.sweeps.outcome import conclude
from rescaler.sweeps.scheduler import max_array_size
from rescaler.sweeps.submission import submit
from rescaler.sweeps.sweep import Sweep
from rescaler.sweeps.timetable import plan_table
from rescaler.sweeps.watching import watch
from rescaler.texttable import counted
from rescaler.training.sharing import Trunk

_MOST_GROUPS, _MOST_NAMES = 6, 20
"""Groups that the dry run shows, and runs that it names of each."""


def start(sweep: Sweep, planned: Sequence[Planned], settings: SlurmSettings) -> None:
    """Submit runs, and unless ``detach`` is set, watch them and show what came out.

    Raises:
        InputError: sbatch refused, and nothing is submitted; or at the end, if a run did not finish.
    """
    submit(sweep, planned, settings)
    console = Console()
    look = f"look at them with: python -m rescaler status {sweep.folder}"
    if settings.detach:
        console.print(
            f"submitted: {counted(len(planned), 'run')}; {look}", soft_wrap=True, highlight=False, markup=False
        )
        return
    try:
        watch(sweep.folder, console)
    except KeyboardInterrupt:
        raise InputError(f"no longer watched, but the jobs go on; {look}") from None
    conclude(sweep.folder)


def show_plan(sweep: Sweep, planned: Sequence[Planned], settings: SlurmSettings) -> None:
    """Print what would be submitted: hours, jobs with their dependencies, array shapes and script.

    Raises:
        InputError: SLURM does not answer, or ``epoch_hours`` are wrong in number or value.
    """
    console = Console()
    most = max_array_size()
    jobs = [Job(tuple(one.entry.name.split()), one.run.experiment) for one in planned]
    hours = [f"{value:g}" for value in settings.epoch_hours] or None
    plan_table(jobs, hours, "hydra.launcher.epoch_hours").print(console)
    found = groups(planned, share_trunk=settings.share_trunk)
    for number, (trunk, members) in enumerate(found[:_MOST_GROUPS], start=1):
        trunk_name = "nothing" if trunk is None else f"trunk {number}"
        lines = [] if trunk is None else [f"{trunk_name}: 1 job, {_epochs(trunk)}, for {len(members)} runs"]
        lines.append(f"{_arrays(len(members), most, settings.array_parallelism)}, after {trunk_name}:")
        lines += [f"  {planned[run].entry.name or '(no overrides)'}" for run in members[:_MOST_NAMES]]
        lines += [f"  and {len(members) - _MOST_NAMES} more"] if len(members) > _MOST_NAMES else []
        console.print(Text("\n".join(lines)), soft_wrap=True)
    if rest := found[_MOST_GROUPS:]:
        console.print(f"and {len(rest)} more such groups, of {sum(len(group.members) for group in rest)} runs")
    script = Cluster(settings, sweep.jobs_folder).script(min(most, len(found[-1].members)), sweep.job_name)
    console.print(Text(f"\nThe script of the last array:\n\n{script}\nNothing was submitted."), soft_wrap=True)


def _epochs(trunk: Trunk) -> str:
    return " + ".join(f"{part.last_epoch} epochs" for part in trunk.parts)


def _arrays(runs: int, most: int, parallel: int) -> str:
    sizes = [min(most, runs - first) for first in range(0, runs, most)]
    at_once = f", {parallel} at a time" if sizes[0] > parallel else ""
    return ", ".join("1 job" if size == 1 else f"an array of {size}" for size in sizes) + at_once
