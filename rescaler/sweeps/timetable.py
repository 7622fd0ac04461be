"""What the runs of a sweep will take, as a table."""

import math
from collections.abc import Callable, Sequence

from rescaler.compose import Job, distinctions
from rescaler.errors import InputError
from rescaler.results import network_label, time_unit
from rescaler.schedule import network_names
from rescaler.sweeps.forecast import Forecast, forecast, shared_hours, what_takes_time
from rescaler.texttable import TextTable, counted, percent

_COLUMNS = ("Network", "Epochs", "Training time", "Time saved")


def plan_table(jobs: Sequence[Job], hours: Sequence[str] | None, key: str = "--hours") -> TextTable:
    """The time of each run and of all together.

    Args:
        jobs: the runs.
        hours: of one epoch of each network, the smallest first; None: as measured here.
        key: what the user gave the hours by.

    Raises:
        InputError: hours are wrong in number or value.
    """
    if hours is None:
        from rescaler.sweeps import timing  # torch takes seconds to import, and given hours need none of it

        epoch_hours, basis = timing.epoch_hours(jobs)
    else:
        epoch_hours, basis = _given(hours, jobs, key)
    runs = [forecast(job.experiment, each) for job, each in zip(jobs, epoch_hours, strict=True)]
    return _table(jobs, runs, basis)


def _given(words: Sequence[str], jobs: Sequence[Job], key: str) -> tuple[list[list[float]], list[str]]:
    """Hours of an epoch by network for each run, as the command line has them, and a note."""
    names = network_names(jobs[0].experiment)
    try:
        hours = [float(word) for word in words]
        positive = all(0 < value < math.inf for value in hours)
    except ValueError:
        positive = False
    if not positive or len(hours) != len(names):
        raise InputError(f"{key} must be {len(names)} positive numbers ({', '.join(names)}); got {' '.join(words)}")
    settings = [what_takes_time(job.experiment) for job in jobs]
    swept = [key for key in settings[0] if any(other[key] != settings[0][key] for other in settings)]
    if swept:
        raise InputError(
            f"{key} must hold for every run, but epochs take different times where {swept[0]} is swept: plan one "
            f"value at a time, or leave {key} out to measure"
        )
    each = ", ".join(f"{name} {value:.4g} h" for name, value in zip(names, hours, strict=True))
    return [hours] * len(jobs), [f"Given: {each} an epoch."]


def _table(jobs: Sequence[Job], runs: Sequence[Forecast], basis: Sequence[str]) -> TextTable:
    unit, unit_s = time_unit(3600 * max(run.target_hours for run in runs))

    def time(hours: float) -> str:
        return f"{hours * 3600 / unit_s:,.1f} {unit}"

    rows = []
    for words, run in zip(distinctions(jobs), runs, strict=True):
        saved = f"{time(run.saved_hours)} ({percent(run.saved_hours / run.target_hours)})"
        baseline = run.resize_epoch == 0
        epochs = " + ".join(str(count) for count in run.stage_epochs)
        rows.append(
            [
                network_label(run.resize_epoch, hold=run.held) + words,
                epochs,
                time(run.hours),
                "–" if baseline else saved,
            ]
        )
    notes = [*_sums(runs, time), *basis]
    if any(run.held for run in runs):
        notes.append(
            "Held runs (section 5.2) go on for some epochs more, known only when they are trained: not counted."
        )
    names = ", ".join(dict.fromkeys(job.experiment.name for job in jobs))
    heading = f"{names}: {counted(len(runs), 'run')} of {max(len(run.epochs) for run in runs)} epochs"
    return TextTable(heading, _COLUMNS, rows, notes)


def _sums(runs: Sequence[Forecast], time: Callable[[float], str]) -> list[str]:
    """What the sweep costs, and what its resized runs do where both baselines are trained anyway."""
    if len(runs) == 1:
        return []
    alone, shared = sum(run.hours for run in runs), shared_hours(runs)
    notes = [
        f"All runs, each alone: {time(alone)}; epochs in common trained once: {time(shared)}{_less(alone, shared)}"
    ]
    resized = [run for run in runs if run.resize_epoch not in (0, "never")]
    baselines = [run for run in runs if run.resize_epoch in (0, "never")]
    if resized and baselines:
        alone, beside = sum(run.hours for run in resized), shared_hours(resized, beside=baselines)
        if not math.isclose(alone, beside):
            less = _less(alone, beside)
            notes.append(f"The resized runs, each alone: {time(alone)}; beside the baselines: {time(beside)}{less}")
    return notes


def _less(alone: float, shared: float) -> str:
    return "" if math.isclose(alone, shared) else f" ({percent(1 - shared / alone)} less)"
