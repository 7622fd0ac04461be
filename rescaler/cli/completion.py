"""``rescaler completion``: commands and options for a shell to complete."""

import argparse

from rescaler.cli.arguments import parsers


def run(arguments: argparse.Namespace) -> None:
    """Print the script."""
    import shtab

    top, commands = parsers(*parsers()[1])
    for command in commands.values():
        for action in command._actions:
            action.help = action.help and str(action.help)  # Hydra's are made when they are shown
            if action.nargs != 0 and action.choices is None:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(top, arguments.shell))
