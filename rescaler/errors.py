"""The one exception for what a person can mend, and how errors are put into words."""

from collections.abc import Iterable


class InputError(ValueError):
    """Bad input: the message names what was wrong, its value and what is allowed.

    The command line prints the message as one line and exits with code 1; a traceback would only hide it.
    """


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that the machine's own memory, not a GPU's, is too small."""
    return isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)  # a RuntimeError of torch


def one_line(error: BaseException) -> str:
    """What an error says, without line breaks; its type where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def listed(names: Iterable[str], most: int = 4) -> str:
    """The first few of many names, for a message of one line."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
