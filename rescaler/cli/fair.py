"""``rescaler fair``: kernel rescaling and its opponents at equal cost, each with the learning rate that suits it."""

import argparse
from datetime import datetime
from itertools import product
from pathlib import Path

from rich.console import Console

from rescaler.cli import write
from rescaler.cli.arguments import RUNS
from rescaler.compose import read_experiment
from rescaler.config import require
from rescaler.run import launch

FIRST_TUNING_SEED = 1000
"""Seeds from here on choose learning rates; those of the claim are fresh."""


def fair(arguments: argparse.Namespace) -> None:
    """Choose each arm's learning rate on a hold-out, train all arms on every seed, print and draw the comparison."""
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
    show(folder / "test", margin=arguments.margin / 100, csv=arguments.csv, plot=folder / "cost.png")
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
    from rescaler.results.compare import final_scores, load_curves

    scores = final_scores(load_curves(folder))
    factors = [read_experiment(Path(run)).optim.lr_factor for run in scores["folder"]]
    means = scores.assign(factor=factors).groupby(["arm", "factor"])["test_top1"].mean()
    return {str(arm): float(best[1]) for arm, best in means.groupby("arm").idxmax().items()}


def show(folder: Path, *, margin: float, csv: str | None, plot: Path) -> None:
    """Print the comparison of the runs below a folder, and draw it."""
    from rescaler.figures import save_figure
    from rescaler.figures.compare import fair_figure
    from rescaler.results.compare import compare, fair_table, load_curves

    curves = load_curves(folder)
    rows = compare(curves, margin=margin)
    fair_table(rows, margin=margin).print(Console())
    save_figure(fair_figure(rows, curves, margin=margin), plot)
    print(f"Accuracy over cost: {plot}")
    if csv is not None:
        write(csv, curves.drop(columns="folder").to_csv(index=False))
