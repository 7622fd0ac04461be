"""Target networks: the paper's and small ones for images of about 30 pixels."""

import inspect
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from rescaler.errors import InputError
from rescaler.models.overfeat import OverFeat, overfeat_fast, overfeat_small
from rescaler.models.residual import resnet18, resnet34, resnet_small

__all__ = ["OverFeat", "build", "overfeat_fast", "overfeat_small", "resnet18", "resnet34", "resnet_small"]

_KNOWN = ", ".join(
    f"{__name__}.{network.__name__}" for network in (overfeat_fast, overfeat_small, resnet18, resnet34, resnet_small)
)


def build(options: Mapping[str, Any], *, classes: int, channels: int) -> nn.Module:
    """Make the target network that the configuration's ``model`` describes.

    Args:
        options: ``_target_``, the import path of a function or class that makes the network, ours or the user's own;
            all else are its arguments beside ``num_classes`` and ``in_channels``.
        classes: number of classes, passed as ``num_classes``.
        channels: channels of the images, passed as ``in_channels``.

    Raises:
        InputError: the path leads to nothing that makes a network, or it does not take these arguments.
    """
    arguments = {str(key): value for key, value in options.items() if key != "_target_"}
    path = options.get("_target_")
    make = _resolve(path)
    for name, key in (("num_classes", "data.classes"), ("in_channels", "data.channels")):
        if name in arguments:
            raise InputError(f"model.{name} follows from {key}: set that; got {arguments[name]}")
    arguments |= {"num_classes": classes, "in_channels": channels}
    _check_arguments(make, arguments)
    try:
        network = make(**arguments)
    except InputError:
        raise
    except Exception as error:  # whatever a user's network raises
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"model._target_={path} does not take its arguments {arguments}: {reason}") from error
    if not isinstance(network, nn.Module):
        raise InputError(f"model._target_={path} must make a torch.nn.Module; it made a {type(network).__name__}")
    return network


def _resolve(path: object) -> Callable[..., object]:
    if not isinstance(path, str) or not path:
        raise InputError(f"model._target_ must be the import path of a network; got {path!r}; ours: {_KNOWN}")
    try:
        make = pkgutil.resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"model._target_={path} cannot be imported ({error}); ours: {_KNOWN}") from error
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
