"""Links of the documents lead to files that exist, and to names that those files define."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def links(document: Path) -> list[tuple[str, Path]]:
    """The text and the file of every relative link; code blocks are skipped."""
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    found = [(text, target) for text, target, _ in LINK.findall(text) if "://" not in target]
    return [(text, document.parent / target) for text, target in found]


def names(path: Path) -> set[str]:
    """The names that a Python file defines or imports: `f`, `Class`, `Class.method`."""
    defined = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            defined.add(node.name)
        if isinstance(node, ast.ImportFrom):
            defined |= {alias.asname or alias.name for alias in node.names}
        if isinstance(node, ast.ClassDef):
            methods = [inner for inner in node.body if isinstance(inner, ast.FunctionDef)]
            defined |= {f"{node.name}.{method.name}" for method in methods}
    return defined


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for text, path in links(document):
        assert path.exists(), f"{document.name}: {text} leads to {path}"
        if path.suffix == ".py" and re.fullmatch(r"`[\w.]+`", text):
            assert text.strip("`") in names(path), f"{path} does not define {text}"


def formulas() -> list[tuple[list[str], list[str]]]:
    """The rows of the README's table of formulas: files, and names."""
    _, after = (ROOT / "README.md").read_text().split("## Which file for which formula")
    rows = [line.split("|")[2:4] for line in after.split("## ")[0].splitlines() if "](" in line]
    return [(re.findall(r"\]\((.*?)\)", files), re.findall(r"`(.*?)`", n)) for files, n in rows]


def test_each_formula_is_in_its_file() -> None:
    rows = formulas()
    assert len(rows) >= 14
    for files, symbols in rows:
        assert symbols
        paths = [ROOT / file for file in files]
        defined = set().union(*(names(path) for path in paths if path.suffix == ".py"))
        assert set(symbols) <= defined, f"{files} lacks {set(symbols) - defined}"


def test_each_point_links_to_its_function() -> None:
    _, after = (ROOT / "README.md").read_text().split("## How it works")
    points = re.findall(r"^\d+\. .*$", after.split("## ")[0], flags=re.MULTILINE)
    assert len(points) == 10
    for point in points:
        assert re.search(r"\[`[\w.]+`\]\((fastfcs|csrc)/[\w/.]+\)", point), point


def test_the_readme_is_short_and_its_sentences_too() -> None:
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) <= 118
    assert "milliseconds" not in readme
    prose = re.sub(r"```.*?```|^(    |\||!\[|<!--).*?$", "", readme, flags=re.DOTALL | re.MULTILINE)
    prose = re.sub(r"\]\([^)]*\)", "]", prose)
    for sentence in re.split(r"(?<=[.!?:])\s+|\n\n+", prose):
        assert len(sentence.split()) <= 35, sentence
