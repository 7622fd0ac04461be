"""``rescaler plan``: what runs and sweeps will take, from a short probe or from given hours per epoch."""

import argparse

from rescaler.cli.arguments import RUNS
from rescaler.compose import jobs
from rescaler.sweep.planner import plan_runs, plan_table


def run(arguments: argparse.Namespace) -> None:
    """Print the plan."""
    # Settings may follow the hours: argparse takes them for some.
    hours = None if arguments.hours is None else [word for word in arguments.hours if "=" not in word]
    settings = [*arguments.overrides, *(word for word in arguments.hours or () if "=" in word)]
    found = jobs(settings, arguments.config_dir, arguments.config_path, arguments.config_name)
    planned = plan_runs(found, RUNS, elsewhere=None if hours is None else "cuda", load=False)
    print(plan_table(planned, hours))
