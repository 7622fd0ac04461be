"""``python -m rescaler COMMAND``, or ``rescaler COMMAND``: everything but training."""

import importlib
import os
import sys
from collections.abc import Sequence

from rescaler.commands.parser import parser
from rescaler.errors import InputError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; a mistake in the input ends it with one line and exit code 1."""
    reader = parser()
    parsed, more = reader.parse_known_args(arguments)
    if more and hasattr(parsed, "overrides") and all("=" in word and word[0] != "-" for word in more):
        parsed.overrides += more  # argparse takes settings from one place only, Hydra from anywhere
    elif more:
        reader.error(f"unrecognized arguments: {' '.join(more)}")
    try:
        importlib.import_module(f"rescaler.commands.{parsed.command}").run(parsed)
        sys.stdout.flush()
    except BrokenPipeError:  # whom it was piped to has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted")


if __name__ == "__main__":
    main()
