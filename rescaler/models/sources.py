"""Digest of the code that makes a network and that its layers run."""

import ast
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from importlib.util import resolve_name
from pathlib import Path
from typing import Any

from torch import nn

from rescaler.models.factory import resolve, targets

_BY_VERSION = {"torch", "torchvision", "timm", "rescaler", *sys.stdlib_module_names}  # identified by their versions


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
