"""``python -m rescaler COMMAND``, or ``rescaler COMMAND``: everything but training."""

import argparse
import os
import sys
from collections.abc import Sequence

from rescaler.commands import cancel, describe, ledger, plan, prepare, report, retry, status, tables, upload
from rescaler.errors import InputError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; a mistake in the input ends it with one line and exit code 1."""
    parser = argparse.ArgumentParser(
        prog="rescaler",
        description="Look at networks, plan runs, read what runs recorded. To train: `python -m rescaler.run --help`.",
    )
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in (describe, plan, prepare, status, retry, cancel, tables, report, upload, ledger):
        command.add_parser(subparsers)
    parsed, more = parser.parse_known_args(arguments)
    if more and hasattr(parsed, "overrides") and all("=" in word and word[0] != "-" for word in more):
        parsed.overrides += more  # argparse takes positional words from one place only, Hydra from anywhere
    elif more:
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    try:
        parsed.run(parsed)
        sys.stdout.flush()
    except BrokenPipeError:  # whom it was piped to has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted")


if __name__ == "__main__":
    main()
