"""The command line: how a command starts, and how it ends.

It imports nothing heavy, so that ``--help`` comes at once; what a command needs is imported when it is run.
"""

import argparse
import csv
import errno
import importlib
import io
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rescaler.cli.arguments import parsers
from rescaler.errors import InputError, missing_extra
from rescaler.files import write_text

STDOUT = "-"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; a mistake in the input ends it with one line and exit code 1."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR", "0") != "0"
    if "" not in sys.path:
        sys.path.append("")  # a user's module beside which `rescaler` starts is found as by `python -m rescaler`
    try:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # an encoding that lacks a sign is no reason to lose a result
        parsed = _parse(words)
        _check_paths(words)
        getattr(importlib.import_module(parsed.module), parsed.command)(parsed)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader at the other end of the pipe has read enough
        _drop_output()
    except (Exception, KeyboardInterrupt) as error:
        if _comes_of_interrupt(error):
            sys.exit("interrupted")
        if isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None:
            _drop_output()
            sys.exit(f"error: cannot write the output: {error.strerror}")
        if wants_traceback or not (isinstance(error, InputError) or missing_extra(error)):
            raise
        sys.exit(f"error: {missing_extra(error) or error}")


def _drop_output() -> None:
    """Let what is not yet written to standard output go nowhere, as Python writes it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _comes_of_interrupt(error: BaseException | None) -> bool:
    """Whether it was raised while Ctrl-C ended what a library was doing; one of ours, raised ``from None``, was not."""
    seen = set[int]()  # an error may be its own cause
    while error is not None and id(error) not in seen:
        if isinstance(error, KeyboardInterrupt):
            return True
        seen.add(id(error))
        hidden = isinstance(error, InputError) and error.__suppress_context__  # OmegaConf hides the context, too
        error = error.__cause__ or (None if hidden else error.__context__)
    return False


def _check_paths(words: Sequence[str]) -> None:
    """Raise InputError for paths that tables, YAML or Hydra cannot carry."""
    try:
        folder = str(Path.cwd())
    except OSError as error:
        raise InputError(f"the working folder cannot be read: {error.strerror}") from error
    for text in (folder, *words):
        if not text.isascii() and text != text.encode(errors="replace").decode():
            raise InputError(f"paths and settings must be UTF-8; got {text.encode(errors='backslashreplace').decode()}")
    if words[0] == "run" and "${" in folder:
        raise InputError(
            f"the path of the working folder must be without ${{, an interpolation for Hydra; got {folder}"
        )


def _parse(words: Sequence[str]) -> argparse.Namespace:
    top, commands = parsers(*words[:1])
    if not words or words[0] not in commands:
        return top.parse_args(words)
    return commands[words[0]].parse_intermixed_args(words[1:])  # settings and options in any order


def write(target: str, text: str) -> None:
    """Write to a file, or to standard output where ``target`` is ``-``."""
    if target == STDOUT:
        sys.stdout.write(text)
    else:
        write_text(Path(target), text)


def write_csv(target: str, rows: Iterable[Sequence[object]]) -> None:
    """Write rows, the first with the names of the columns, as :func:`write` does."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write(target, text.getvalue())
