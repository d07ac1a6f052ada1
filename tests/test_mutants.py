"""tests/emulation/mutants.py: its table is up to date, and it detects survivors.

The mutants themselves are run by hand: `make mutants`.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from emulated import ROOT, needs_compiler


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    path = ROOT / "tests/emulation/mutants.py"
    spec = importlib.util.spec_from_file_location("mutants", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "mutants", module)  # for its child processes
    monkeypatch.syspath_prepend(path.parent)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "START", "spawn")  # this process has threads
    return module


def test_every_mutant_applies(script: ModuleType) -> None:
    assert len({mutant.name for mutant in script.MUTANTS}) == len(script.MUTANTS)
    for mutant in script.MUTANTS:
        source = (ROOT / "csrc" / mutant.source).read_text()
        assert source.count(mutant.text) == 1, f"{mutant.name} does not apply"
        assert mutant.text != mutant.replacement


@pytest.mark.slow
@needs_compiler
def test_killed_or_not(
    script: ModuleType, emulation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(script.TESTS, "cuda/matting.cu", ("test_factors", "test_kernels.py"))
    (fault,) = (
        m for m in script.MUTANTS if m.name == "factors: the image's width for the windows'"
    )
    killed = script.verdict(fault, emulation, tmp_path / "killed")
    assert killed.startswith("killed by test_kernels.py::test_factors")
    survives = script.outcome(tmp_path / "killed", ("test_shuffles", "test_emulation.py"))
    assert survives == "SURVIVES"  # these tests do not cover the fault
    obsolete = fault._replace(text="no such text")
    assert script.verdict(obsolete, emulation, tmp_path / "obsolete") == "DOES NOT APPLY"
