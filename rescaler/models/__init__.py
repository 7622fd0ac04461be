"""Target networks: the paper's and small ones for images of about 30 pixels."""

import inspect
import pkgutil
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from torch import nn

from rescaler.errors import InputError, one_line
from rescaler.models.auxiliary import loss_and_scores
from rescaler.models.overfeat import OverFeat, overfeat_fast, overfeat_small
from rescaler.models.residual import resnet18, resnet34, resnet_small

__all__ = [
    "OverFeat",
    "build",
    "loss_and_scores",
    "overfeat_fast",
    "overfeat_small",
    "resnet18",
    "resnet34",
    "resnet_small",
]

_KNOWN = ", ".join(
    f"{__name__}.{network.__name__}" for network in (overfeat_fast, overfeat_small, resnet18, resnet34, resnet_small)
)


def build(options: Mapping[str, Any], *, classes: int, channels: int) -> nn.Module:
    """Make the target network that the configuration's ``model`` describes.

    Args:
        options: ``_target_``, the import path of a function or class that makes the network, ours, torchvision's or the
            user's own; all else are its arguments beside ``num_classes`` and ``in_channels``. ``image_px`` is passed
            if the function takes that: it may be left over from the model that ``_target_`` replaces.
        classes: number of classes, passed as ``num_classes`` if the function takes that.
        channels: channels of the images, passed as ``in_channels`` if the function takes that.

    Raises:
        InputError: the path leads to nothing that makes a network, that fails with these arguments, or the network does
            not take images of these channels.
    """
    arguments = {str(key): value for key, value in options.items() if key != "_target_"}
    path = options.get("_target_")
    make = _resolve(path)
    for name, key in (("num_classes", "data.classes"), ("in_channels", "data.channels")):
        if name in arguments:
            raise InputError(f"model.{name} follows from {key}: set that; got {arguments[name]}")
    implied = {"num_classes": classes, "in_channels": channels}
    if "image_px" in arguments:
        implied["image_px"] = arguments.pop("image_px")
    _check_arguments(make, arguments)
    try:
        network = _make(make, arguments, implied)
    except InputError:
        raise
    except Exception as error:  # whatever a user's network raises
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise InputError(f"model._target_={path} fails with the arguments {arguments | implied}: {reason}") from error
    if not isinstance(network, nn.Module):
        raise InputError(f"model._target_={path} must make a torch.nn.Module; it made a {type(network).__name__}")
    taken = [module.in_channels for module in network.modules() if isinstance(module, nn.Conv2d)]
    if taken and channels not in taken:
        raise InputError(
            f"model._target_={path} makes a network for images of {taken[0]} channels, but data.channels={channels}: "
            f"choose other data, or name a function of your own that takes in_channels"
        )
    return network


def _make(make: Callable[..., object], arguments: dict[str, Any], implied: dict[str, Any]) -> object:
    """Call with what it takes of the implied arguments, which are left in there: ``**kwargs`` do not tell before."""
    try:
        return make(**arguments, **implied)
    except TypeError as error:
        refused = [name for name in implied if f"unexpected keyword argument '{name}'" in str(error)]
        if not refused:
            raise
    for name in refused:
        del implied[name]
    return _make(make, arguments, implied)


def _resolve(path: object) -> Callable[..., object]:
    if not isinstance(path, str) or not path:
        raise InputError(f"model._target_ must be the import path of a network; got {path!r}; ours: {_KNOWN}")
    try:
        make = pkgutil.resolve_name(path)
    except Exception as error:  # whatever is raised by a user's module
        raise InputError(f"model._target_={path} cannot be imported ({one_line(error)}); ours: {_KNOWN}") from error
    if isinstance(make, ModuleType):  # a function may have its module's name, as torchvision.models.alexnet
        package, _, name = path.rpartition(".")
        make = getattr(sys.modules.get(package), name, make)
    if not callable(make):
        raise InputError(f"model._target_={path} is no function or class; ours: {_KNOWN}")
    found: Callable[..., object] = make
    return found


def _check_arguments(make: Callable[..., object], arguments: Mapping[str, Any]) -> None:
    try:
        parameters = inspect.signature(make).parameters.values()
    except ValueError:  # a builtin without a signature
        return
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    names = [parameter.name for parameter in parameters if parameter.kind is not parameter.POSITIONAL_ONLY]
    for name in arguments:
        if name not in names:
            raise InputError(f"model.{name} is no argument of {make.__name__}; it takes: {', '.join(names)}")
