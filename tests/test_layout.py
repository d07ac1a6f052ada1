"""The architecture: imports run one way, from what is built on top to what it is built on."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import fastfcs

PACKAGE = Path(fastfcs.__file__).parent

# From the bottom up; modules on one line do not import each other.
LAYERS = (
    "_C checks files progress",
    "ops",
    "laplacian",
    "chebyshev losses",
    "bandwidth",
    "filters vgg statistics images",
    "constraints presets regions",
    "network",
    "weights",
    "refinement",
    "stylizer solvers",
    "evaluation",
    "training",
    "cli",
    "__main__",
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names.split()}


def imports(path: Path) -> Iterator[str]:
    """The top-level parts of the package that a file imports, also within functions."""
    inside = path.relative_to(PACKAGE).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*inside[: len(inside) - node.level + 1], *(node.module or "").split(".")]
            base = [part for part in base if part]
            yield from [base[0]] if base else (alias.name for alias in node.names)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            absolute = [node.module] if isinstance(node, ast.ImportFrom) else []
            names = absolute or [alias.name for alias in node.names]
            assert not any(str(name).split(".")[0] == "fastfcs" for name in names), path


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_imports_run_one_way() -> None:
    edges = 0
    for path in PACKAGE.rglob("*.py"):
        part = part_of(path)
        if part == "__init__":  # lazy, of everything
            continue
        for other in imports(path):
            if other not in (part, "__version__"):
                edges += 1
                assert RANK[other] < RANK[part], f"{path} imports {other}"
    assert edges > 50


def test_every_module_has_a_layer() -> None:
    parts = {part_of(path) for path in PACKAGE.rglob("*.py")} - {"__init__"}
    assert parts == set(RANK) - {"_C"}
