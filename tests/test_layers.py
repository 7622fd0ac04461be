"""Imports point downward only, as CONTRIBUTING.md says, and never in a circle."""

import ast
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "rescaler"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}
LAYERED = ("method", "training", "running")
"""Folders that go through several layers; any other is one layer's, whole."""


def layers() -> dict[str, int]:
    """Each module or folder of ``rescaler`` by the number of its line, counted from the top."""
    section = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## The layers")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("    ")]
    names = (re.findall(r"\w+", re.sub(r"\([^)]*\)", "", line)) for line in lines)
    return {name: number for number, found in enumerate(names) for name in found}


def layer_of(module: str) -> str:
    """The name that the layers have for a module."""
    return next(part for part in module.split(".")[1:] if part not in LAYERED)


def imported(module: str) -> Iterator[str]:
    """Modules of ``rescaler`` that a module imports, wherever in it; not the package, which is imported anyway."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            assert node.module is not None
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in inside]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (name for name in names if name in MODULES and name != "rescaler")


def test_imports_point_downward() -> None:
    layer = layers()
    modules = [module for module in MODULES if module.split(".")[-1] not in ("rescaler", *LAYERED)]
    assert {layer_of(module) for module in modules} == set(layer) - {"hydra_plugins"}
    found = ((module, name) for module in modules for name in imported(module))
    assert [f"{a} imports {b}" for a, b in found if layer[layer_of(b)] < layer[layer_of(a)]] == []


def test_no_import_goes_in_a_circle() -> None:
    graphlib.TopologicalSorter({module: set(imported(module)) for module in MODULES}).prepare()
