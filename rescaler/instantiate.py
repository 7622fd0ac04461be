"""Import and build what a ``_target_`` names: a network, an optimizer, a transform, a data set, a logger."""

import functools
import pkgutil
import sys
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from rescaler.errors import InputError, one_line, one_line_with_place


def resolve(path: object, key: str, *, hint: str = "") -> Any:
    """Import the function or class that the setting ``key`` names.

    Raises:
        InputError: it cannot be imported, or is something else; the message ends with ``hint``.
    """
    if not isinstance(path, str) or not path:
        raise InputError(f"{key} must be an import path; got {path!r}{hint}")
    try:
        found = pkgutil.resolve_name(path)
    except (Exception, SystemExit) as error:  # whatever a custom module raises
        raise InputError(f"{key}={path} cannot be imported ({one_line_with_place(error)}){hint}") from error
    if isinstance(found, ModuleType):  # a function may have its module's name, as torchvision.models.alexnet
        package, _, name = path.rpartition(".")
        found = getattr(sys.modules.get(package), name, found)
    if not callable(found):
        raise InputError(f"{key}={path} is no function or class{hint}")
    return found


def targets(options: object) -> Iterator[object]:
    """Find every ``_target_``, nested ones too."""
    if isinstance(options, Mapping):
        yield from (value for key, value in options.items() if key == "_target_")
    if isinstance(options, Mapping | list | tuple):
        for value in options.values() if isinstance(options, Mapping) else options:
            yield from targets(value)


def partial(options: Mapping[str, Any], key: str) -> "functools.partial[Any]":
    """Return a function or class with its arguments, by Hydra's ``instantiate`` where other targets are nested in them.

    ``options`` hold ``_target_``, the import path, and arguments by name; ``key`` is theirs, for errors.

    Raises:
        InputError: there is no such function or class, or a nested one fails.
    """
    path, arguments = options.get("_target_"), {name: value for name, value in options.items() if name != "_target_"}
    target = resolve(path, f"{key}._target_")
    if not any(targets(arguments)):
        return functools.partial(target, **arguments)
    from hydra.utils import instantiate

    try:
        found: functools.partial[Any] = instantiate({**options, "_partial_": True, "_convert_": "all"})
    except (Exception, SystemExit) as error:  # whatever a user's module raises
        cause = error.__cause__ or error
        said = one_line(cause) if isinstance(cause, InputError) else one_line_with_place(cause)
        raise InputError(f"{key}._target_={path}: {said}") from error
    return found
