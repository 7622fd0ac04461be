"""Plan a sweep: which runs are trained, which epochs they share, where each writes, how long it takes.

The local launcher, the one for SLURM with its dry run, and ``rescaler plan`` all ask here.
"""

import dataclasses
import json
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rescaler import measure
from rescaler.chain import digest
from rescaler.compose import Job, names_of, read_experiment
from rescaler.config import CostSettings, Experiment, identity, stage_names
from rescaler.data import published_size
from rescaler.errors import InputError
from rescaler.ledger import Ledger
from rescaler.networks import Networks
from rescaler.plan import Run, plan
from rescaler.record import CONFIG_FILE
from rescaler.reference import resolve
from rescaler.resume import pin_states
from rescaler.runfolder import write_config
from rescaler.schedule import batches_per_epoch, network_names
from rescaler.sweep import SweepRun, is_below
from rescaler.text import TextTable, counted, percent

log = logging.getLogger(__name__)


class Planned(NamedTuple):
    """A run of a sweep, checked and laid out."""

    entry: SweepRun
    run: Run
    folder: Path
    job: Job

    @property
    def ledger(self) -> Ledger:
        """Ledger of the run's epochs."""
        return Ledger(Path(self.run.experiment.ledger.folder))


def plan_runs(
    jobs: Sequence[Job],
    sweep: Path,
    *,
    elsewhere: str | None = None,
    load: bool = True,
    reference: Sequence[float] = (),
) -> list[Planned]:
    """Check and lay out every job of a sweep; jobs that are the same run become one.

    Args:
        jobs: composed.
        sweep: folder of the sweep.
        elsewhere: as of :func:`rescaler.plan.plan`.
        load: whether to load the data, which keys of the ledger need.
        reference: what a mini-batch of each network costs, where the settings do not say and it is not to be measured.
    """
    if reference:
        given = CostSettings(list(reference))
        jobs = [job._replace(experiment=dataclasses.replace(job.experiment, cost=given)) for job in jobs]
    experiments = resolve([job.experiment for job in jobs], elsewhere=elsewhere)
    jobs = [job._replace(experiment=experiment) for job, experiment in zip(jobs, experiments, strict=True)]
    found: dict[tuple[str, str], Planned] = {}
    networks, folders = dict[str, Networks](), dict[str, str]()
    for job, name in zip(jobs, names_of([job.overrides for job in jobs]), strict=True):
        if not is_below(job.folder):
            raise InputError(f"hydra.sweep.subdir must be a folder below hydra.sweep.dir; got {job.folder}")
        try:
            run = plan(job.experiment, elsewhere=elsewhere, networks=networks, load=load)
        except InputError as error:
            raise InputError(f"{name}: {error}" if len(jobs) > 1 else str(error)) from error
        planned = Planned(SweepRun(name, job.folder), run, (sweep / job.folder).absolute(), job)
        same = found.setdefault((run.id, str(planned.ledger.folder)), planned)
        if same is not planned:
            log.warning("%s is the same run as %s: it is run once", name, same.entry.name)
        elif (other := folders.setdefault(job.folder, name)) != name:
            raise InputError(
                f"hydra.sweep.subdir must be another for each run; got {job.folder} for {other} and for {name}"
            )
    return list(found.values())


def check_folder(folder: Path, experiment: Experiment) -> None:
    """Raise InputError if ``folder`` holds another run; the same run is continued there."""
    if not (folder / CONFIG_FILE).exists():
        return
    try:
        kept, wanted = (plan(each, elsewhere="cuda", load=False).id for each in (read_experiment(folder), experiment))
    except InputError as error:
        raise InputError(f"{folder} holds a run already, and not this one: {error}") from error
    if kept != wanted:
        raise InputError(f"{folder} holds another run already: choose another folder, or remove it")


def settings_digest(experiment: Experiment) -> str:
    """Digest of the settings that can change a number."""
    return digest(identity(experiment))[:16]


def freeze(planned: Sequence[Planned]) -> None:
    """Write each run's settings into its folder, and pin the states in the ledger at which runs part.

    That is before these states exist: in whatever order the runs are trained, each finds its trunk.
    """
    for one in planned:
        check_folder(one.folder, one.run.experiment)
    for one in planned:
        one.ledger.check_writable()
        write_config(one.folder, one.run.experiment)
        one.entry.settings = settings_digest(one.run.experiment)
    for one, count in zip(planned, _shared_epochs(_missing(planned)), strict=True):
        pin_states(one.run, one.ledger, one.folder, (count,) if count else ())


@dataclass(frozen=True)
class Trunk:
    """First epochs of one run, which others have too."""

    run: int
    """Index in the sweep."""
    last_epoch: int
    forks: tuple[int, ...]
    """Epochs whose states other runs start from."""


class Group(NamedTuple):
    """Runs that start from the same trunk, or from none."""

    trunks: tuple[Trunk, ...]
    """Trained one after the other: there are several where the trunk itself forks."""
    members: tuple[int, ...]
    """Indices of the runs."""


def groups(planned: Sequence[Planned], *, share_trunk: bool = True) -> list[Group]:
    """Group the runs behind their trunks; last those without one, complete runs among them."""
    found = find_trunks(_missing(planned), lambda path: Path(path).exists()) if share_trunk else []
    branches = {run for group in found for run in group.members}
    alone = tuple(run for run in range(len(planned)) if run not in branches)
    return [*found, *([Group((), alone)] if alone else [])]


def find_trunks(keys: Sequence[Sequence[str]], has_state: Callable[[str], bool]) -> list[Group]:
    """Group runs that share epochs, without those groups whose shared states all exist."""
    shared = _shared_epochs(keys)
    families = defaultdict(list)
    for run, count in enumerate(shared):
        if count > 0:
            families[keys[run][0]].append(run)  # runs that share an epoch share all before it
    found = []
    for runs in families.values():
        ends = {keys[run][shared[run] - 1] for run in runs}
        if all(map(has_state, ends)):
            continue
        trunks: list[Trunk] = []
        covered: set[str] = set()
        for run in sorted(runs, key=lambda run: -shared[run]):
            own = keys[run][: shared[run]]
            if own[-1] not in covered:
                trunks.append(Trunk(run, len(own), tuple(i for i, key in enumerate(own, start=1) if key in ends)))
                covered.update(own)
        found.append(Group(tuple(trunks), tuple(runs)))
    return found


def _shared_epochs(keys: Sequence[Sequence[str]]) -> list[int]:
    """How many epochs of each run, from its first, some other run has too."""
    runs_with = Counter(key for own in keys for key in own)
    return [sum(runs_with[key] > 1 for key in own) for own in keys]


def _missing(planned: Sequence[Planned]) -> list[list[str]]:
    """Paths of the states of each run's epochs; none of a run that is complete."""
    paths = []
    for one in planned:
        chain = one.run.chain
        keys = [] if chain.is_complete(one.ledger) else chain.known_keys
        paths.append([str(one.ledger.state_path(key)) for key in keys])
    return paths


class Timed(NamedTuple):
    """Scheduled epochs of a run. Held ones (section 5.2) follow from its accuracies: nobody knows them before."""

    run: Run
    hours: list[float]
    """Of each epoch, as if the run were alone."""
    target_hours: float
    """Of the target baseline."""


def time_epochs(run: Run, epoch_hours: Sequence[float]) -> Timed:
    """Sum up a run's epochs from the hours of one epoch of each network, the smallest first, the target last."""
    stages = run.chain.stages
    whole = [epoch_hours[-1 if stage.name == "target" else number] for number, stage in enumerate(stages)]
    hours = [whole[slot.stage] * slot.batches / stages[slot.stage].stretch.batches for slot in run.chain.slots]
    return Timed(run, hours, run.chain.schedule.epochs * epoch_hours[-1])


def shared_hours(timed: Iterable[Timed], *, beside: Iterable[Timed] = ()) -> float:
    """Hours of several runs if each epoch is trained once.

    Args:
        timed: the runs.
        beside: runs that are trained anyway; the epochs of others that they have cost nothing more.
    """
    anyway = {key for one in beside for key in one.run.chain.known_keys}
    by_key: dict[str, float] = {}
    alone = 0.0
    for one in timed:
        keys = one.run.chain.known_keys
        by_key.update(zip(keys, one.hours, strict=False))
        alone += sum(one.hours[len(keys) :])  # of a held run, after the resize
    return alone + sum(hours for key, hours in by_key.items() if key not in anyway)


def plan_table(planned: Sequence[Planned], hours: Sequence[str] | None, key: str = "--hours") -> TextTable:
    """Table of the time of each run and of all together."""
    from rescaler.results import network_label, time_unit  # pandas takes a second

    epoch_hours, basis = _measured(planned) if hours is None else _given(hours, planned, key)
    timed = [time_epochs(one.run, each) for one, each in zip(planned, epoch_hours, strict=True)]
    unit, unit_s = time_unit(3600 * max(one.target_hours for one in timed))

    def time(hours: float) -> str:
        return f"{hours * 3600 / unit_s:,.1f} {unit}"

    rows = []
    for label, one in zip(_labels(planned), timed, strict=True):
        taken = sum(one.hours)
        saved = f"{time(one.target_hours - taken)} ({percent(1 - taken / one.target_hours)})"
        rows.append(
            [
                network_label(one.run.resize_epoch, hold=one.run.chain.holds) + label,
                _epochs(one.run),
                time(taken),
                "–" if one.run.resize_epoch == 0 else saved,
            ]
        )
    notes = [*_sums(timed, time), *basis]
    if any(one.run.chain.holds for one in timed):
        notes.append("Held runs (section 5.2) take some epochs more, known only when they are trained: not counted.")
    names = ", ".join(dict.fromkeys(one.run.experiment.name for one in planned))
    heading = f"{names}: {counted(len(timed), 'run')} of {max(len(one.hours) for one in timed)} epochs"
    return TextTable(heading, ("Network", "Epochs", "Training time", "Time saved"), rows, notes)


def _epochs(run: Run) -> str:
    """Epochs of each network, the last of which may be a part of one."""
    epochs = {stage.name: stage.stretch.epochs for stage in run.chain.stages}
    return " + ".join(str(epochs.get(name, 0)) for name in stage_names(len(run.experiment.shrink.stages)))


def _labels(planned: Sequence[Planned]) -> list[str]:
    """How each run differs from the others, beside when it is resized: `` [seed=1]``, or nothing."""
    everywhere = set.intersection(*(set(one.job.overrides) for one in planned))
    labels = []
    for one in planned:
        own = [word for word in one.job.overrides if word not in everywhere and not word.startswith("resize_epoch=")]
        labels.append(f" [{' '.join(own)}]" if own else "")
    return labels


def _sums(timed: Sequence[Timed], time: Callable[[float], str]) -> list[str]:
    """Cost of the sweep, and of its resized runs where both baselines are trained anyway."""
    if len(timed) == 1:
        return []
    alone, shared = sum(sum(one.hours) for one in timed), shared_hours(timed)
    notes = [
        f"All runs, each alone: {time(alone)}; epochs in common trained once: {time(shared)}{_less(alone, shared)}"
    ]
    baselines = [one for one in timed if one.run.resize_epoch in (0, "never")]
    resized = [one for one in timed if one not in baselines]
    if resized and baselines:
        alone, beside = sum(sum(one.hours) for one in resized), shared_hours(resized, beside=baselines)
        if not math.isclose(alone, beside):
            less = _less(alone, beside)
            notes.append(f"The resized runs, each alone: {time(alone)}; beside the baselines: {time(beside)}{less}")
    return notes


def _less(alone: float, shared: float) -> str:
    return "" if math.isclose(alone, shared) else f" ({percent(1 - shared / alone)} less)"


def _given(words: Sequence[str], planned: Sequence[Planned], key: str) -> tuple[list[list[float]], list[str]]:
    """Hours of an epoch by network for each run, as the command line has them, and a note."""
    names = network_names(planned[0].run.experiment)
    try:
        hours = [float(word) for word in words]
        positive = all(0 < value < math.inf for value in hours)
    except ValueError:
        positive = False
    if not positive or len(hours) != len(names):
        raise InputError(f"{key} must be {len(names)} positive numbers ({', '.join(names)}); got {' '.join(words)}")
    settings = [_what_takes_time(one.run.experiment) for one in planned]
    swept = [name for name in settings[0] if any(other[name] != settings[0][name] for other in settings)]
    if swept:
        raise InputError(
            f"{key} must hold for every run, but epochs take different times where {swept[0]} is swept: plan one "
            f"value at a time, or leave {key} out to measure"
        )
    each = ", ".join(f"{name} {value:.4g} h" for name, value in zip(names, hours, strict=True))
    return [hours] * len(planned), [f"Given: {each} an epoch."]


def _measured(planned: Sequence[Planned]) -> tuple[list[list[float]], list[str]]:
    """Hours of an epoch by network for each run, measured here once for each setting that matters, and notes."""
    measured: dict[str, list[float]] = {}
    keys, notes = [], []
    for one, label in zip(planned, _labels(planned), strict=True):
        keys.append(json.dumps(_what_takes_time(one.run.experiment)))
        if keys[-1] not in measured:
            batches = _batches(one.run.experiment)
            measured[keys[-1]], said = measure.epoch_hours(one.run.experiment, batches, label)
            notes += said
    notes.append("Steps are of random images on the device; evaluation and the rescale are not counted.")
    return [measured[key] for key in keys], notes


def _batches(experiment: Experiment) -> int:
    """Mini-batches of an epoch, by the published size of the data set."""
    return batches_per_epoch(experiment, published_size(experiment.data))


def _what_takes_time(experiment: Experiment) -> dict[str, object]:
    """Settings that decide the time of an epoch, by key."""
    data = experiment.data
    return {
        "model": dict(experiment.model),
        "shrink": dataclasses.asdict(experiment.shrink),
        "data": [data.image_px, data.channels, data.classes, data.name, data.train or data.folder, data.workers],
        "optim.batch_size": experiment.optim.batch_size,
        "schedule.batches_per_epoch": _batches(experiment),
        "step": dataclasses.asdict(experiment.step),
        "device": experiment.device,
    }
