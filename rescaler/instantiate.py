"""Build what a ``_target_`` names: an optimizer, a transform, a logger."""

import functools
import pkgutil
from collections.abc import Mapping
from typing import Any

from rescaler.errors import InputError, one_line, one_line_with_place


def partial(options: Mapping[str, Any], key: str) -> "functools.partial[Any]":
    """Return a function or class with its arguments, by Hydra's ``instantiate`` where other targets are nested in them.

    Args:
        options: ``_target_``, the import path, and arguments by name.
        key: of the options, for errors.

    Raises:
        InputError: there is no such function or class, or a nested one fails.
    """
    path = options.get("_target_")
    try:
        if not isinstance(path, str) or not callable(target := pkgutil.resolve_name(path)):
            raise InputError("it must be the import path of a function or class")
        arguments = {name: value for name, value in options.items() if name != "_target_"}
        if "_target_" not in str(arguments):
            return functools.partial(target, **arguments)
        from hydra.utils import instantiate

        found: functools.partial[Any] = instantiate({**options, "_partial_": True, "_convert_": "all"})
    except (Exception, SystemExit) as error:  # whatever a user's module raises
        said = one_line(error) if isinstance(error, InputError) else one_line_with_place(error.__cause__ or error)
        raise InputError(f"{key}._target_={path}: {said}") from error
    return found
