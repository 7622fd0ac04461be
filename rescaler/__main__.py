"""``python -m rescaler COMMAND``, or ``rescaler COMMAND``: everything that reads rather than trains."""

import argparse
import sys
from collections.abc import Sequence

from rescaler.commands import ledger, report, tables, upload
from rescaler.errors import InputError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; a mistake in the input ends it with one line and exit code 1."""
    parser = argparse.ArgumentParser(
        prog="rescaler",
        description="Read what runs recorded. To train, see `python -m rescaler.run --help`.",
    )
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in (tables, report, ledger, upload):
        command.add_parser(subparsers)
    parsed = parser.parse_args(arguments)
    try:
        parsed.run(parsed)
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted")


if __name__ == "__main__":
    main()
