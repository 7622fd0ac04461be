"""Imports point downward only, as CONTRIBUTING.md says."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "rescaler"


LAYERED = ("method", "training", "running", "sweeps")
"""Folders that go through several layers; any other is one layer's, whole."""


def layers() -> dict[str, int]:
    """Each module or folder of ``rescaler`` by the number of its line, counted from the top."""
    section = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## The layers")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("    ")]
    names = (re.findall(r"\w+", re.sub(r"\([^)]*\)", "", line)) for line in lines)
    return {name: number for number, found in enumerate(names) for name in found}


def imported(path: Path) -> Iterator[str]:
    """Modules and folders of ``rescaler`` that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.split(".")[0] == "rescaler":
            parts = [part for part in node.module.split(".")[1:] if part not in LAYERED]
            yield from parts[:1] or [alias.name for alias in node.names]


def test_imports_point_downward() -> None:
    layer = layers()
    modules = {}
    for path in PACKAGE.rglob("*.py"):
        parts = [part for part in path.relative_to(PACKAGE).with_suffix("").parts if part not in LAYERED]
        if parts != ["__init__"]:
            modules[path] = parts[0]
    assert set(modules.values()) == set(layer) - {"hydra_plugins"}
    found = ((module, name) for path, module in modules.items() for name in imported(path))
    assert [f"{module} imports {name}" for module, name in found if layer[name] < layer[module]] == []
