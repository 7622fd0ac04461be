"""Where commands write what they were asked for."""

import sys
from pathlib import Path

from rescaler.commands.parser import STDOUT
from rescaler.files import write_text


def write(target: str, text: str) -> None:
    """Write to a file, or to standard output where ``target`` is ``-``.

    Raises:
        InputError: the file cannot be written.
    """
    if target == STDOUT:
        sys.stdout.write(text)
    else:
        write_text(Path(target), text)
