"""Commands on sweeps: ``rescaler plan``, ``status``, ``retry``, ``cancel`` and ``fair``."""

import argparse
import contextlib
import dataclasses
import os
import signal
import socket
from datetime import datetime
from itertools import product
from pathlib import Path

from rich.console import Console

from rescaler.cli import write
from rescaler.cli.arguments import RUNS
from rescaler.config import Experiment, SlurmSettings, require
from rescaler.errors import InputError
from rescaler.record import CONFIG_FILE
from rescaler.sweep import FILE, Sweep, SweepRun, newest, scheduler
from rescaler.sweep.status import counts, status_table, statuses, sweep_at, watch
from rescaler.text import counted, log_to_stderr

FIRST_TUNING_SEED = 1000
"""Seeds from here on choose learning rates of ``fair``; those of the claim are fresh."""

# torch and Hydra take seconds to import, so what needs them is imported where it is used.


def plan(arguments: argparse.Namespace) -> None:
    """Print what runs will take, from a short probe or from given hours per epoch."""
    from rescaler.compose import jobs
    from rescaler.sweep.planner import plan_runs, plan_table

    # Settings may follow the hours: argparse takes them for some.
    hours = None if arguments.hours is None else [word for word in arguments.hours if "=" not in word]
    settings = [*arguments.overrides, *(word for word in arguments.hours or () if "=" in word)]
    found = jobs(settings, arguments.config_dir, arguments.config_path, arguments.config_name)
    planned = plan_runs(found, RUNS, elsewhere=None if hours is None else "cuda", load=False)
    print(plan_table(planned, hours))


def status(arguments: argparse.Namespace) -> None:
    """Print how the runs stand, once or until all are over."""
    folder, console = arguments.sweep or newest(RUNS, single=True), Console()
    if arguments.watch:
        watch(folder, console)
    else:
        sweep = sweep_at(folder)
        status_table(sweep, statuses(sweep)).print(console)


def cancel(arguments: argparse.Namespace) -> None:
    """Cancel SLURM's jobs, or end the process that trains the runs here."""
    sweep = Sweep.read(arguments.sweep or newest(RUNS))
    alive = [one for one, status in zip(sweep.runs, statuses(sweep), strict=True) if not status.is_over]
    if not alive:
        print(f"{sweep.folder}: nothing to cancel, no run waits or runs")
        return
    owner = sweep.owner
    if owner is not None and owner.host != socket.gethostname():
        raise InputError(f"{sweep.folder} runs on {owner.host}: cancel it there")
    if sweep.launcher is not None:
        scheduler.cancel([*(one.job for one in alive if one.job), *sweep.trunk_jobs.values()])
    for one in alive:
        one.cancelled = True
    sweep.write()
    if sweep.launcher is None and owner is not None:
        with contextlib.suppress(ProcessLookupError):  # it ended just now
            os.kill(owner.pid, signal.SIGTERM)  # it saves first
    print(f"{sweep.folder}: {counted(len(alive), 'run')} cancelled; `{sweep.command('retry')}` continues from there")


def retry(arguments: argparse.Namespace) -> None:
    """Run what failed, was lost or cancelled, as jobs on the cluster or here."""
    from rescaler.sweep.local import conclude, train_run

    sweep = Sweep.read(arguments.sweep or newest(RUNS))
    found = statuses(sweep)
    unfinished = [run for run, status in zip(sweep.runs, found, strict=True) if status.is_unfinished]
    if not unfinished:
        print(f"{sweep.folder}: nothing to retry: {counts(found)}")
        return
    sweep.folder = sweep.folder.absolute()
    if Path(sweep.cwd).is_dir():  # else it was moved, or copied from another machine: here is as good a guess as any
        os.chdir(sweep.cwd)  # where relative paths in the settings, such as the ledger's, mean what they meant
    if sweep.launcher is not None:
        _submit(sweep, unfinished, detach=arguments.detach)
        return
    log_to_stderr()
    with sweep.owned():
        experiments = [_experiment(sweep, one) for one in unfinished]
        for one in unfinished:
            one.cancelled = False
        sweep.write()
        for one, experiment in zip(unfinished, experiments, strict=True):
            with contextlib.suppress(Exception):  # train_run logs it; the others are tried as well
                train_run(experiment, sweep.folder_of(one), group=sweep.name, name=one.name)
    conclude(sweep.folder)


def _submit(sweep: Sweep, unfinished: list[SweepRun], *, detach: bool) -> None:
    from rescaler.compose import Job
    from rescaler.plan import plan
    from rescaler.sweep.planner import Planned
    from rescaler.sweep.slurm import start

    try:
        asked = SlurmSettings(**(sweep.launcher or {}))
    except TypeError as error:
        raise InputError(f"{sweep.folder / FILE} is not what a sweep writes: {error}") from error
    more = {key: value for key, value in asked.additional_parameters.items() if key != "hold"}  # they are to run
    settings = dataclasses.replace(asked, additional_parameters=more, detach=detach)
    experiments = [_experiment(sweep, one) for one in unfinished]
    planned = [
        Planned(one, plan(experiment, elsewhere=settings.device_type), sweep.folder_of(one), Job((), experiment))
        for one, experiment in zip(unfinished, experiments, strict=True)
    ]
    start(sweep, planned, settings)


def _experiment(sweep: Sweep, run: SweepRun) -> Experiment:
    """Read the settings of a run; raise InputError if they are not those that the sweep was started with."""
    from rescaler.compose import read_experiment
    from rescaler.sweep.planner import settings_digest

    folder = sweep.folder_of(run)
    experiment = read_experiment(folder)
    if run.settings not in (None, settings_digest(experiment)):
        raise InputError(
            f"{folder / CONFIG_FILE} was changed after the start of the sweep, in a setting that changes numbers: "
            "restore it, or start another sweep"
        )
    return experiment


def fair(arguments: argparse.Namespace) -> None:
    """Choose each arm's learning rate on a hold-out, train all arms on every seed, print and draw the comparison."""
    from rescaler.figures import save_figure
    from rescaler.figures.compare import fair_figure
    from rescaler.results.compare import compare, fair_table, load_curves
    from rescaler.run import launch

    arms, factors = _words(arguments.arms), [_number("--lr", word) for word in _words(arguments.lr)]
    require(0 < arguments.budget <= 1, "--budget", arguments.budget, "above 0 and at most 1")
    for option in ("seeds", "tuning_seeds"):
        value = getattr(arguments, option)
        require(value >= 1, f"--{option.replace('_', '-')}", value, "at least 1")
    folder = arguments.folder or RUNS / f"fair_{datetime.now():%Y-%m-%d_%H-%M-%S}"
    chosen = dict.fromkeys(arms, factors[0])
    if arguments.tuned is not None:
        chosen = best_factors(arguments.tuned / "tuning")
        require({*arms} <= {*chosen}, "--arms", arguments.arms, f"among {', '.join(chosen)}, as in {arguments.tuned}")
    elif len(factors) > 1:
        seeds = range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + arguments.tuning_seeds)
        jobs = [_job(arguments, arm, factor, seed) for arm, factor, seed in product(arms, factors, seeds)]
        launch([*arguments.overrides, f"data.holdout={arguments.holdout}"], jobs, folder / "tuning", arguments)
        chosen = best_factors(folder / "tuning")
    jobs = [_job(arguments, arm, chosen[arm], seed) for arm, seed in product(arms, range(arguments.seeds))]
    launch(arguments.overrides, jobs, folder / "test", arguments)
    curves, margin = load_curves(folder / "test"), arguments.margin / 100
    rows = compare(curves, margin=margin)
    fair_table(rows, margin=margin).print(Console())
    save_figure(fair_figure(rows, curves, margin=margin), folder / "cost.png")
    print(f"Accuracy over cost: {folder / 'cost.png'}")
    if arguments.csv is not None:
        write(arguments.csv, curves.drop(columns="folder").to_csv(index=False))
    if len(factors) > 1 or arguments.tuned is not None:
        print("Learning rates, times the schedule's: " + ", ".join(f"{arm} {chosen[arm]:g}" for arm in arms))


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _number(key: str, word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = 0.0
    require(value > 0, key, word, "positive numbers, separated by commas")
    return value


def _job(arguments: argparse.Namespace, arm: str, factor: float, seed: int) -> list[str]:
    from rescaler.results.compare import FULL

    budget = "null" if arm == FULL else arguments.budget
    return [f"arm={arm}", f"schedule.budget={budget}", f"optim.lr_factor={factor}", f"seed={seed}"]


def best_factors(folder: Path) -> dict[str, float]:
    """Return each arm's learning-rate factor with the best mean accuracy on the hold-out."""
    from rescaler.compose import read_experiment
    from rescaler.results.compare import final_scores, load_curves

    scores = final_scores(load_curves(folder))
    factors = [read_experiment(Path(run)).optim.lr_factor for run in scores["folder"]]
    means = scores.assign(factor=factors).groupby(["arm", "factor"])["test_top1"].mean()
    return {str(arm): float(best[1]) for arm, best in means.groupby("arm").idxmax().items()}
