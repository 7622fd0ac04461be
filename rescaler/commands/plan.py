"""``rescaler plan``: what runs and sweeps will take, from a short probe or from given hours per epoch."""

import argparse

from rescaler.compose import jobs
from rescaler.sweeps.timetable import plan_table


def run(arguments: argparse.Namespace) -> None:
    """Print the plan.

    Raises:
        InputError: a setting is impossible, or hours are wrong in number or value.
    """
    given = [word for word in arguments.hours or () if "=" not in word]
    # Settings may follow the hours: they would else be taken for some.
    settings = [*arguments.overrides, *(word for word in arguments.hours or () if "=" in word)]
    found = jobs(settings, arguments.config_dir)
    print(plan_table(found, None if arguments.hours is None else given))
