"""Build the network that the configuration names, and digest the code that makes it."""

import ast
import functools
import hashlib
import json
import re
import sys
from collections.abc import Iterator, Mapping
from importlib.util import resolve_name
from pathlib import Path
from typing import Any

from torch import nn

from rescaler.errors import InputError, one_line
from rescaler.instantiate import resolve, targets

_OURS = "ours: rescaler.models.overfeat_fast, overfeat_small, resnet18, resnet34, resnet_small, vgg_small"
_BY_VERSION = {"torch", "torchvision", "timm", "rescaler", *sys.stdlib_module_names}  # identified by their versions


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
    make = resolve(path, "model._target_", hint=f"; {_OURS}")
    is_network = isinstance(make, type) and issubclass(make, nn.Module)  # of a user's file that is called code.py
    if re.split("[.:]", str(path))[0] in sys.stdlib_module_names and not is_network:  # such as shutil.rmtree
        raise InputError(f"model._target_={path} must make a torch.nn.Module; it is of Python's own library; {_OURS}")
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
        made = f"must make a torch.nn.Module; it made a {type(network).__name__}"
        raise InputError(f"model._target_={path} {made}; {_OURS}")
    taken = [module.in_channels for module in network.modules() if isinstance(module, nn.Conv2d)]
    if taken and channels not in taken:
        raise InputError(
            f"model._target_={path} makes a network for images of {taken[0]} channels, but data.channels={channels}: "
            f"choose other data, or name a function of your own that takes in_channels"
        )
    return network


def code_digest(
    network: nn.Module, options: Mapping[str, object], key: str = "model._target_"
) -> tuple[str, tuple[str, ...]]:
    """Hash the syntax of the modules that define a network, without comments, docstrings and layout.

    These are the modules of its layers' classes and of all ``_target_`` in ``options``, and their imports from their
    own package or folder, without torch, torchvision, timm and rescaler. ``key`` is of the options, for errors.

    Returns:
        Hex digest, empty where no module is left, and the names of classes and functions without source code.
    """
    classes = {kind for module in network.modules() for kind in type(module).__mro__}
    hidden: set[str] = set()
    files: dict[Path, Any] = {}
    for each in (*classes, *(resolve(path, key) for path in targets(options))):
        home = getattr(each, "__module__", None) or type(each).__module__
        if home.partition(".")[0] in _BY_VERSION:
            continue
        file = getattr(sys.modules.get(home), "__file__", None) or ""
        if not file.endswith(".py") or not _add(home, Path(file).resolve(), files):
            hidden.add(f"{home}.{getattr(each, '__qualname__', each)}")
    digest = hashlib.sha256(json.dumps(sorted(files.values())).encode()).hexdigest()
    return digest if files else "", tuple(sorted(hidden))


def _add(module: str, path: Path, files: dict[Path, Any]) -> bool:
    """Add the syntax of a module's file and of its imports from beside it; whether it could be read."""
    if path in files:
        return True
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return False
    files[path] = [module, _syntax(tree)]
    is_package = path.name == "__init__.py"
    package = module if is_package else module.rpartition(".")[0]
    root = path.parents[module.count(".") + is_package]
    for name in _imports(tree, package):
        top = name.partition(".")[0]
        if top in _BY_VERSION:
            continue
        for folder in {path.parent, root} if top == module.partition(".")[0] else {path.parent}:
            for file in (f"{name.replace('.', '/')}.py", f"{name.replace('.', '/')}/__init__.py"):
                if (folder / file).is_file():
                    _add(name, (folder / file).resolve(), files)
    return True


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Absolute names of all possible modules among the imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (package or not node.level):
            home = resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module or ""
            yield from (home, *(f"{home}.{alias.name}" for alias in node.names))


def _syntax(node: Any) -> Any:
    """Turn syntax into lists that are the same in every version of Python (``ast.dump`` is not)."""
    if isinstance(node, list):
        return [_syntax(each) for each in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node):
        node.body = node.body[1:]
    fields = ((name, value) for name, value in ast.iter_fields(node) if value is not None and value != [])
    return [type(node).__name__, *([name, _syntax(value)] for name, value in fields)]
