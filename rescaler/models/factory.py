"""Build the network that the configuration names."""

import functools
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from torch import nn

from rescaler.errors import InputError, one_line, one_line_with_place

_OURS = "ours: rescaler.models.overfeat_fast, overfeat_small, resnet18, resnet34, resnet_small, vgg_small"


def build(options: Mapping[str, Any], *, classes: int, channels: int) -> nn.Module:
    """Build a network, by ``hydra.utils.instantiate`` where other targets are nested in it.

    Args:
        options: ``_target_``, the import path of a function or class, and its arguments, nested targets among them.
            ``image_px`` may be left over from the model that ``_target_`` replaces.
        classes: passed as ``num_classes`` if the function accepts that.
        channels: passed as ``in_channels`` if the function accepts that.

    Raises:
        InputError: there is no such function, it fails with these arguments or makes no network for such images.
    """
    path = options.get("_target_")
    make = resolve(path)
    if (made := _makes(path, make)) is not None:
        raise InputError(f"model._target_={path} must make a torch.nn.Module; it is {made}; {_OURS}")
    implied = {"num_classes": classes, "in_channels": channels}
    for name, key in (("num_classes", "data.classes"), ("in_channels", "data.channels")):
        if name in options:
            raise InputError(f"model.{name} follows from {key}: set that; got {options[name]}")
    arguments = {str(key): value for key, value in options.items() if key != "_target_"}
    implied |= {"image_px": arguments.pop("image_px")} if "image_px" in arguments else {}
    shown = dict(arguments)
    if len(list(targets(options))) > 1 or any(key.startswith("_") for key in arguments):
        from hydra.utils import instantiate  # not at the top: else the library needs torch alone

        make = functools.partial(instantiate, {"_target_": path, "_convert_": "all", **arguments})
        arguments = {}
    while True:
        try:
            network = make(**arguments, **implied)
            break
        except (Exception, SystemExit) as error:  # whatever a custom network raises
            at = re.search(r"full_key: (\S+)", str(error))
            is_hydras = type(error).__module__.startswith("hydra.")
            cause = (error.__cause__ if is_hydras else None) or error
            refused = {name for name in implied if f"unexpected keyword argument '{name}'" in str(cause)}
            if not refused and isinstance(cause, InputError):
                raise cause from None
            if not refused:
                where = f"model.{at[1]} fails" if at else f"fails with the arguments {shown | implied}"
                reason = f"{type(cause).__name__}: {one_line(cause)}"
                raise InputError(f"model._target_={path}: {where}: {reason}") from error
            implied = {name: value for name, value in implied.items() if name not in refused}
    if not isinstance(network, nn.Module):
        raise InputError(f"model._target_={path} must make a torch.nn.Module; it made a {type(network).__name__}")
    taken = [module.in_channels for module in network.modules() if isinstance(module, nn.Conv2d)]
    if taken and channels not in taken:
        raise InputError(
            f"model._target_={path} makes a network for images of {taken[0]} channels, but data.channels={channels}: "
            f"choose other data, or name a function of your own that takes in_channels"
        )
    return network


def _makes(path: Any, make: Any) -> str | None:
    """Say what a class or function is that can make no network, as far as that is known without calling it."""
    if inspect.isclass(make):
        return None if issubclass(make, nn.Module) else f"the class {make.__name__}"
    if inspect.isbuiltin(make) or path.partition(".")[0] in sys.stdlib_module_names:
        return "a function of Python's own"
    given = getattr(make, "__annotations__", {}).get("return")
    return (
        f"a function that gives {given.__name__}"
        if inspect.isclass(given) and not issubclass(given, nn.Module)
        else None
    )


def targets(options: object) -> Iterator[object]:
    """Find every ``_target_``, nested ones too."""
    if isinstance(options, Mapping):
        yield from (value for key, value in options.items() if key == "_target_")
    if isinstance(options, Mapping | list | tuple):
        for value in options.values() if isinstance(options, Mapping) else options:
            yield from targets(value)


def resolve(path: object, key: str = "model._target_") -> Any:
    """Import the function or class that the setting ``key`` names.

    Raises:
        InputError: it cannot be imported, or is something else.
    """
    ours = f"; {_OURS}" if key == "model._target_" else ""
    if not isinstance(path, str) or not path:
        raise InputError(f"{key} must be an import path; got {path!r}{ours}")
    try:
        found = pkgutil.resolve_name(path)
    except (Exception, SystemExit) as error:  # whatever a custom module raises
        raise InputError(f"{key}={path} cannot be imported ({one_line_with_place(error)}){ours}") from error
    if isinstance(found, ModuleType):  # a function may have its module's name, as torchvision.models.alexnet
        package, _, name = path.rpartition(".")
        found = getattr(sys.modules.get(package), name, found)
    if not callable(found):
        raise InputError(f"{key}={path} is no function or class{ours}")
    return found
