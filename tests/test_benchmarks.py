"""The benchmarks run, their numbers make sense, and the README holds the committed ones."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """run(script, *sizes) -> what the benchmark put into its file, as quickly as it goes."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    measure = import_module("measure")
    monkeypatch.setattr(measure, "ROTATED", 0)
    monkeypatch.setattr(measure, "BUDGET", {"cpu": 0.0})
    monkeypatch.setattr(measure, "COPIED", {"cpu": 2**20})
    monkeypatch.setattr(measure, "SIDE", {"cpu": 64})
    monkeypatch.setattr(import_module("stylizer"), "STYLE", 32)
    path = tmp_path / "machine.json"

    def call(script: str, *sizes: float) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", [script, "--json", str(path), "--sizes", *map(str, sizes)])
        module = import_module(script)
        if script == "gram":
            monkeypatch.setattr(module, "compiled", module.eager)  # compiling takes long
            monkeypatch.setattr(module, "CHANNELS", (16, 96))
        module.main()
        sections: dict[str, Any] = json.loads(path.read_text())
        return sections

    return call


def check(section: dict[str, Any]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The rows by operation and method; every number is a possible one."""
    assert section["machine"]["torch"] == torch.__version__
    assert section["machine"]["device"] == "cpu"
    assert section["machine"]["cores"] == len(os.sched_getaffinity(0))
    assert section["copy_gb_s"] > 0.1
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in section["rows"]:
        found.setdefault((row["operation"], row["method"]), []).append(row)
        for key in ("ms", "floor", "bound", "ratio", "microseconds"):
            assert row.get(key, 1) > 0
        if "bound" in row:
            assert row["bound"] >= row["floor"]
            assert row["bound_by"] in ("traffic", "arithmetic")
    return found


def test_laplacian(run: Run) -> None:
    sizes = (0.0025, 0.01)
    section = run("laplacian", *sizes)["laplacian"]
    rows = check(section)
    for method in ("fastfcs", "SciPy CSR", "torch CSR"):
        for operation in ("product", "step"):
            keys = [(row["mp"], row["channels"]) for row in rows[operation, method]]
            assert sorted(keys) == [(mp, c) for mp in sizes for c in (1, 3, 8)]
    slow, quick = rows["step", "SciPy CSR"][0], rows["step", "fastfcs"][0]
    assert slow["ratio"] == pytest.approx(slow["ms"] / quick["ms"], rel=2e-3)
    assert {row["mp"] for row in rows["factors", "PyMatting"]} == set(sizes)
    # 25 entries a row of 12 bytes, and a row pointer; fewer at the border
    assert 270 < rows["memory", "CSR"][-1]["bytes_a_pixel"] < 304
    assert math.isfinite(section["goals"]["exponent"])


def test_explicit_steps_are_the_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    laplacian, measure = import_module("laplacian"), import_module("measure")
    from fastfcs import MattingLaplacian, ops

    image, x = torch.rand(2, 1, 3, 12, 15)
    want = ops.matting_filter(image, ops.matting_factors(image), x, laplacian.COEFFICIENTS)
    matrix = MattingLaplacian(image).to_scipy()
    matrix.data *= 4 / 9
    matrix.setdiag(matrix.diagonal() - 2)
    report = object.__new__(measure.Report)
    report.device = "cpu"
    columns = x[0].flatten(1).T.contiguous()
    for library in laplacian.libraries(matrix.astype("float32"), report):
        given = columns.numpy() if library.name == "SciPy CSR" else columns
        found = torch.as_tensor(library.filter(given)).T.reshape(x.shape)
        torch.testing.assert_close(found, want, rtol=0, atol=1e-4)


def test_gram(run: Run) -> None:
    sections = run("gram", 64, 100)
    rows = check(sections["gram"])
    assert len(rows["correction", "fastfcs"]) == 2 * 2 * 2 * 3  # C, n, batch, type
    for method in ("eager", "compile"):
        assert len(rows["correction", method]) == len(rows["correction", "fastfcs"])
        assert {row["type"] for row in rows["backward", method]} == {"float32"}
    assert sections["gram"]["goals"].keys() == {"narrow", "wide"}
    assert any("Triton" in sentence for sentence in sections["gram"]["left_out"])
    gram = import_module("gram")
    from fastfcs import ops

    h, target = torch.rand(2, 5, 7), torch.rand(1, 5, 5)
    ours = ops.gram_correction(h[:, :, None], target)[:, :, 0]
    torch.testing.assert_close(gram.eager(h, target), ours)


def test_stylizer(run: Run) -> None:
    sections = run("stylizer", 0.0004, 0.0016)
    rows = check(sections["stylizer"])
    kinds = [(row["kind"], row["mp"]) for row in rows["picture", "fastfcs"]]
    assert kinds == [(kind, mp) for kind in ("artistic", "photoreal") for mp in (0.0004, 0.0016)]
    assert len(rows["memory", "fastfcs"]) == 4
    assert len(rows["set_style", "fastfcs"]) == 1


def test_peak_memory_and_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    measure = import_module("measure")
    nbytes = 64 << 20
    peak = measure.peak_bytes(lambda: torch.ones(nbytes // 4) + 1, "cpu")
    assert peak == pytest.approx(2 * nbytes, rel=0.05)
    waited = measure.seconds(time.sleep, [(0.02,)], "cpu")
    assert 0.02 <= waited < 0.1
    assert measure.exponent([1, 2, 4], [3, 12, 48]) == pytest.approx(2)
    inputs = measure.rotated(lambda: (torch.empty(2**20),))
    assert len(inputs) * inputs[0][0].nbytes > measure.ROTATED


def test_an_interrupted_benchmark_keeps_its_rows(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    laplacian = import_module("laplacian")
    measure_size = laplacian.measure

    def interrupted(report: Any, megapixels: float) -> None:
        measure_size(report, megapixels)
        raise KeyboardInterrupt

    monkeypatch.setattr(laplacian, "measure", interrupted)
    monkeypatch.setattr(laplacian, "explicit", lambda *_, **__: None)
    with pytest.raises(KeyboardInterrupt):
        run("laplacian", 0.0025, 0.01)
    path = Path(sys.argv[2])
    section = json.loads(path.read_text())["laplacian"]
    assert {row.get("mp") for row in section["rows"]} == {None, 0.0025}
    assert "KeyboardInterrupt" in section["left_out"][0]
    assert not section["complete"]


def test_an_alternative_that_fails_is_left_out(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(h: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no such product")

    gram = import_module("gram")
    monkeypatch.setattr(gram, "eager", fails)
    section = run("gram", 64)["gram"]
    assert section["complete"]
    assert {row["method"] for row in section["rows"] if row["operation"] == "correction"} == {
        "fastfcs"
    }
    assert any("by eager" in line and "no such product" in line for line in section["left_out"])
    monkeypatch.setattr(gram.ops, "gram_correction", fails)
    with pytest.raises(RuntimeError, match="no such product"):
        run("gram", 64)


def test_what_is_measured_is_in_the_file_at_once(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    counts: list[int] = []
    measure = import_module("measure")
    monkeypatch.setattr(
        measure,
        "seconds",
        lambda *_: counts.append(len(found().get("rows", ()))) or 1.0,
    )

    def found() -> dict[str, Any]:
        path = tmp_path / "machine.json"
        return json.loads(path.read_text())["gram"] if path.exists() else {}

    run("gram", 64)
    assert counts[-1] == len(found()["rows"]) - 1 > 3


def test_the_readme_holds_the_committed_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    render = import_module("render")
    readme = render.README.read_text()
    assert readme == render.with_blocks(readme), "run benchmarks/render.py"


def test_rendered_rows(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    render, goals = import_module("render"), import_module("goals").GOALS
    nothing = render.goals([])
    assert nothing.count("awaits a GPU") == sum(device == "cuda" for _, device, _ in goals)
    gpu = {"device": "cuda", "gpu": "NVIDIA Test"}
    sections = {
        "gram": {"machine": gpu, "complete": True, "goals": {"floor": 0.811, "eager": 1.96}}
    }
    lines = render.goals([sections]).splitlines()
    assert sum(line.endswith("| NVIDIA Test |") for line in lines) == sum(
        key[:2] == ("gram", "cuda") for key in goals
    )
    assert any("| at least 80 % | 81 %, met | NVIDIA Test |" in line for line in lines)
    assert any("| at least 2 x | 1.96 x, NOT met | NVIDIA Test |" in line for line in lines)
    assert any("| at least 1.3 x | not measured | NVIDIA Test |" in line for line in lines)
    measured = run("stylizer", 0.0004, 0.0016)
    assert "| 0.0016 MP | photoreal |" in render.block([measured])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_run_gpu_stops_at_once_without_a_gpu(tmp_path: Path) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    stopped = subprocess.run(
        [bash, ROOT / "benchmarks/run_gpu.sh", tmp_path / "out"], capture_output=True, text=True
    )
    assert stopped.returncode == 2
    assert stopped.stderr == "run_gpu.sh: nvidia-smi finds no GPU here, so nothing was done.\n"
    assert stopped.stdout == ""
    assert not (tmp_path / "out").exists()
