"""The architecture: imports run one way. And the docstrings: complete, with an example each."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import fastfcs

PACKAGE = Path(fastfcs.__file__).parent

# From the bottom up; modules on one line do not import each other.
LAYERS = (
    "_C checks delta_e files memory progress reproducible start",
    "ops precision errors",
    "laplacian",
    "chebyshev losses",
    "bandwidth",
    "filters vgg statistics images tiles",
    "constraints presets regions",
    "network large look grading",
    "pyramid",
    "refinement",
    "weights",
    "stylizer solvers",
    "restyling steps video",
    "app batch",
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


COMMANDS = {"command", "group", "_setting"}  # click decorators: their docstring is the help text


def public() -> Iterator[tuple[Path, ast.FunctionDef | ast.ClassDef]]:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name[0] != "_":
                calls = {
                    part.attr if isinstance(part, ast.Attribute) else getattr(part, "id", "")
                    for decorator in node.decorator_list
                    for part in ast.walk(decorator)
                }
                if not calls & COMMANDS and path.name != "__init__.py":
                    yield path, node


def test_public_docstrings_are_complete() -> None:
    checked = 0
    for path, node in public():
        text, where = ast.get_docstring(node) or "", f"{path.name}: {node.name}"
        assert ">>> " in text, f"{where} has no example"
        if isinstance(node, ast.FunctionDef):
            arguments = [*node.args.args, *node.args.kwonlyargs]
            result = ast.unparse(node.returns) if node.returns else "None"
            assert not arguments or "Args:" in text, where
            assert result in ("None", "NoReturn") or "Returns:" in text or "Yields:" in text, where
        checked += 1
    assert checked > 150
