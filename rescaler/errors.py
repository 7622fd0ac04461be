"""The one exception for what a person can mend, and how errors are put into words."""

import contextlib
import importlib
import os
import pkgutil
import traceback
from collections.abc import Iterable, Iterator


class InputError(ValueError):
    """Bad input: the message names what was wrong, its value and what is allowed.

    The command line prints the message as one line and exits with code 1; a traceback would only hide it.
    """


class ArgumentError(InputError):
    """A bad argument of a library function; who took it from a setting says the setting's name instead.

    Args:
        argument: its name.
        problem: what follows the name in the message.
    """

    def __init__(self, argument: str, problem: str) -> None:
        super().__init__(argument, problem)
        self.argument, self.problem = argument, problem

    def __str__(self) -> str:
        return f"{self.argument}{self.problem}"


_NO_MEMORY = (
    "DefaultCPUAllocator",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
"""Words of plain RuntimeErrors of torch: only CUDA's allocator has a class of its own for it."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory, the machine's or a GPU's, is too small."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's; not imported here
        return True
    if type(error).__name__ == "PanicException":  # of a library in Rust, safetensors: Python gave it no memory
        return "pointer is null" in str(error)
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _NO_MEMORY)


def one_line(error: BaseException) -> str:
    """What an error says, without line breaks; its type where it says nothing. Names that are no UTF-8 are escaped."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")


def one_line_with_place(error: BaseException) -> str:
    """What an error says, with its type, and the file and line that raised it below the caller."""
    if isinstance(error, SyntaxError):  # says both
        return one_line(error)
    imports = ("<frozen", pkgutil.__file__, importlib.__file__)
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__)[1:] if not frame.filename.startswith(imports)
    ]
    place = f" ({os.path.basename(frames[-1].filename)}, line {frames[-1].lineno})" if frames else ""  # noqa: PTH119
    said = one_line(error)
    return (said if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: {said}") + place


def first_line(error: BaseException) -> str:
    """What an error says first, where more would be too much; its type where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def enough_memory(otherwise: str) -> Iterator[None]:
    """Turn a lack of memory into one clear line.

    Args:
        otherwise: what it was too small for, or what to do, as it follows on "too small".

    Raises:
        InputError: the machine's memory, or a GPU's, is too small.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(f"the device's memory is too small{otherwise}: {first_line(error)}") from error


def listed(names: Iterable[str], most: int = 4) -> str:
    """The first few of many names, for a message of one line."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


_EXTRAS = {
    "jinja2": "report",
    "lightning": "lightning",
    "onnx": "onnx",
    "onnxscript": "onnx",
    "PIL": "images",
    "pyarrow": "images",
    "shtab": "completion",
    "simplejpeg": "images",
}
"""Packages that only an extra of ours installs."""


def missing_extra(error: BaseException) -> str | None:
    """Say which extra installs a package that is missing; None for any other error."""
    name = error.name if isinstance(error, ModuleNotFoundError) else None
    package = (name or "").partition(".")[0]
    extra = _EXTRAS.get(package)
    return f"{package} is not installed: pip install 'rescaler[{extra}]'" if extra else None
