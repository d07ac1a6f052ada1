"""The benchmarks run, their numbers make sense, and the documents hold the committed ones."""

from __future__ import annotations

import ctypes
import json
import math
import os
import shutil
import subprocess
import sys
import tarfile
from argparse import Namespace
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from test_build import program

ROOT = Path(__file__).parents[1]

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """run(script, *sizes) runs a benchmark with tiny budgets and returns its file."""
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
            monkeypatch.setattr(module, "compiled", lambda: module.eager)  # compiling is slow
            monkeypatch.setattr(module, "CHANNELS", (16, 96))
        module.main()
        sections: dict[str, Any] = json.loads(path.read_text())
        return sections

    return call


def check(section: dict[str, Any]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Check that every number is plausible; return the rows by operation and method."""
    assert section["machine"]["torch"] == torch.__version__
    assert section["machine"]["device"] == "cpu"
    assert section["machine"]["cores"] == len(os.sched_getaffinity(0))
    assert 0 < section["copy_gb_s"] < math.inf
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in section["rows"]:
        rows.setdefault((row["operation"], row["method"]), []).append(row)
        for key in ("ms", "floor", "bound", "ratio", "microseconds"):
            assert row.get(key, 1) > 0
        if "bound" in row:
            assert row["bound"] >= row["floor"]
            assert row["bound_by"] in ("traffic", "arithmetic")
    return rows


def test_laplacian(run: Run) -> None:
    sizes = (0.0025, 0.01)
    section = run("laplacian", *sizes)["laplacian"]
    rows = check(section)
    for method in ("fastfcs", "SciPy CSR", "torch CSR"):
        for operation in ("product", "step"):
            keys = [(row["mp"], row["channels"]) for row in rows[operation, method]]
            assert sorted(keys) == [(mp, c) for mp in sizes for c in (1, 3, 8)]
    assert all("ratio" in row for row in rows["step", "SciPy CSR"])
    assert {row["mp"] for row in rows["factors", "PyMatting"]} == set(sizes)
    # 25 entries of 12 bytes per row and a row pointer; fewer at the border
    assert 270 < rows["memory", "CSR"][-1]["bytes_a_pixel"] < 304
    assert math.isfinite(section["goals"]["exponent"])


@pytest.mark.parametrize("size", [(3, 3), (4, 3), (5, 9), (12, 15)])
def test_the_assembled_matrix_is_the_explicit_one(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    laplacian = import_module("laplacian")
    from fastfcs import MattingLaplacian

    image = torch.rand(1, 3, *size, dtype=torch.float64)
    starts, columns, values = laplacian.assembled(image, 4 / 9, -2)
    expected = MattingLaplacian(image).to_scipy()
    assert starts.tolist() == expected.indptr.tolist()
    assert columns.tolist() == expected.indices.tolist()
    expected.data *= 4 / 9
    expected.setdiag(expected.diagonal() - 2)
    torch.testing.assert_close(values, torch.from_numpy(expected.data), rtol=0, atol=1e-9)


def test_explicit_steps_are_the_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    laplacian, measure = import_module("laplacian"), import_module("measure")
    from fastfcs import ops

    image, x = torch.rand(2, 1, 3, 12, 15)
    expected = ops.matting_filter(image, ops.matting_factors(image), x, laplacian.COEFFICIENTS)
    *structure, values = laplacian.assembled(image, 4 / 9, -2)
    report = object.__new__(measure.Report)
    report.device = "cpu"
    columns = x[0].flatten(1).T.contiguous()
    for library in laplacian.libraries((*structure, values.float()), report):
        signal = columns.numpy() if library.name == "SciPy CSR" else columns
        result = torch.as_tensor(library.filter(signal)).T.reshape(x.shape)
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-4)


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


def test_stylizer(run: Run, native_half: None, monkeypatch: pytest.MonkeyPatch) -> None:
    sections = run("stylizer", 0.0016)
    rows = check(sections["stylizer"])
    kinds = [(row["kind"], row["mp"]) for row in rows["picture", "fastfcs"]]
    assert kinds == [("artistic", 0.0016), ("photoreal", 0.0016)]
    assert len(rows["memory", "fastfcs"]) == 2
    assert len(rows["set_style", "fastfcs"]) == 1
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    render = import_module("render")
    assert "| 0.0016 MP | photoreal |" in render.benchmarks([sections])


def test_peak_memory_and_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    measure = import_module("measure")
    nbytes = 64 << 20
    peak = measure.peak_bytes(lambda: torch.ones(nbytes // 4) + 1, "cpu")
    assert peak == pytest.approx(2 * nbytes, rel=0.05)
    clock = 0.0

    def wait(seconds: float) -> None:
        nonlocal clock
        clock += seconds

    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock)
    assert measure.seconds(wait, [(1.0,), (2.0,), (3.0,)], "cpu") == pytest.approx(2)
    assert measure.exponent([1, 2, 4], [3, 12, 48]) == pytest.approx(2)
    inputs = measure.Rotated(lambda: (torch.empty(2**20),))
    assert len(inputs) * inputs[0][0].nbytes > measure.ROTATED


def test_an_interrupted_benchmark_keeps_its_rows(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    laplacian = import_module("laplacian")
    measure_size = laplacian.measure

    def interrupted(report: Any, *which: Any) -> None:
        measure_size(report, *which)
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


def test_every_row_is_written_at_once(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    counts: list[int] = []
    measure = import_module("measure")

    def counted(*calls: Any) -> list[float]:
        counts.append(len(section().get("rows", ())))
        return [1.0] * len(calls)

    monkeypatch.setattr(measure, "alternating", counted)

    def section() -> dict[str, Any]:
        path = tmp_path / "machine.json"
        return json.loads(path.read_text())["gram"] if path.exists() else {}

    run("gram", 64)
    assert counts[-1] == len(section()["rows"]) - 1 > 3


def test_alternatives_alternate_with_fastfcs(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ratio is that of alternating times per step, not of the times in the rows."""
    measure = import_module("measure")
    arguments = Namespace(device="cpu", json=None, add=False)
    called: list[tuple[str, int]] = []
    clock = 0.0
    seconds = {"ours": 4.0, "theirs": 30.0}

    def call(name: str) -> Callable[[int], None]:
        def timed(number: int) -> None:
            nonlocal clock
            clock += seconds[name]
            called.append((name, number))

        return timed

    with measure.Report("laplacian", arguments, lambda report: None) as report:
        monkeypatch.setattr(measure.time, "perf_counter", lambda: clock)
        report.time("step", "fastfcs", call("ours"), [(1,), (2,)], steps=2, mp=1.0)
        seconds["ours"] = 8.0  # the clock is slower now
        called.clear()
        assert report.time("step", "other", call("theirs"), [(3,), (4,)], steps=5, mp=1.0) == 6000
        assert called[:4] == [("ours", 1), ("theirs", 3), ("ours", 2), ("theirs", 4)]
        assert called[::2] == [("ours", number) for _, number in called[::2]]
        report.time("step", "other", call("theirs"), [(3,)], mp=2.0)
        report.forget()
        report.time("step", "third", call("theirs"), [(3,)], steps=5, mp=1.0)
    ratios = [(row["method"], row["mp"], row.get("ratio")) for row in report.rows]
    assert ratios == [
        ("fastfcs", 1.0, None),
        ("other", 1.0, 6 / 4),
        ("other", 2.0, None),
        ("third", 1.0, 6 / 2),
    ]


def test_short_calls_are_compared_in_seven_rounds(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = import_module("measure")
    made: list[int] = []

    def make() -> tuple[torch.Tensor]:
        made.append(1)
        return (torch.zeros(1),)

    times = iter([[0.001, 0.002], [0.001, 0.004], [0.001, 0.009], [0.1, 0.3], *[[1, 5]] * 4])
    monkeypatch.setattr(measure, "alternating", lambda *calls: next(times))
    inputs = measure.Rotated(make)
    per_round = len(made)
    assert measure.compared((print, inputs), (print, [()])) == (0.3, 5)  # the median of each
    assert next(times) == [1, 5]
    assert len(made) == 7 * per_round  # every round has fresh inputs


def test_the_documents_hold_the_committed_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    documents = import_module("render").documents()
    names = {"README.md", "results.md", "benchmarks.md", "evaluation.md", "video.md", "cluster.md"}
    assert {path.name for path in documents} == names
    for path, text in documents.items():
        assert path.read_text() == text, "run benchmarks/render.py"


def test_rendered_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    render, goals = import_module("render"), import_module("goals").GOALS
    nothing = render.unmeasured([])
    _, cpu, gpu = nothing.split("## Unmeasured: awaiting a ")
    for device, text in {"cpu": cpu, "cuda": gpu}.items():
        assert text.count("\n| ") - 2 == sum(where == device for _, where, _ in goals)
    machine = {"device": "cuda", "gpu": "NVIDIA Test"}
    sections = {
        "gram": {
            "machine": machine,
            "complete": True,
            "goals": {"correction streamed": 0.811, "launches": 13.2, "eager": 1.96},
        }
    }
    lines = render.goals([sections]).splitlines()
    of_gram = sum(key[:2] == ("gram", "cuda") for key in goals)
    assert sum(line.endswith("| NVIDIA Test |") for line in lines) == of_gram == len(lines) - 2
    assert any("| at least 80 % | 81 %, met | NVIDIA Test |" in line for line in lines)
    assert any("| at most 12 µs | 13.2 µs, NOT met | NVIDIA Test |" in line for line in lines)
    assert any("| at least 2 x | 1.96 x, NOT met | NVIDIA Test |" in line for line in lines)
    assert any("| at least 1.3 x | not measured | NVIDIA Test |" in line for line in lines)
    awaited = render.unmeasured([sections])
    assert awaited.count("\n| ") == nothing.count("\n| ") - of_gram


def test_add_keeps_the_rows_of_the_file(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    gram = import_module("gram")

    def only(*options: str) -> dict[str, Any]:
        argv = ["gram", "--json", sys.argv[2], "--sizes", "64", "--channels", "16", *options]
        monkeypatch.setattr(sys, "argv", argv)
        gram.main()
        section: dict[str, Any] = json.loads(Path(sys.argv[2]).read_text())["gram"]
        return section

    run("gram", 64)
    ours = only("--methods", "fastfcs", "--types", "float32")
    assert {row["method"] for row in ours["rows"] if row["operation"] == "backward"} == {"fastfcs"}
    both = only("--methods", "eager", "--types", "float32", "--add")
    assert both["rows"][: len(ours["rows"])] == ours["rows"]
    (first, second) = (
        row for row in both["rows"] if row["operation"] == "backward" and row["batch"] == 1
    )
    assert second["method"] == "eager"
    assert second["ratio"] == pytest.approx(second["ms"] / first["ms"], rel=2e-3)
    assert both["copy_gb_s"] == ours["copy_gb_s"]
    again = only("--methods", "fastfcs", "eager", "--types", "float32", "--add")
    measured = [row for row in again["rows"] if row["operation"] != "overhead"]
    assert measured == [row for row in both["rows"] if row["operation"] != "overhead"]
    assert len(again["rows"]) == len(both["rows"])


def test_gram_shares_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    gram, measure = import_module("gram"), import_module("measure")
    report = object.__new__(measure.Report)
    report.script, report.device, report.goals = "gram", "cuda", {}
    report.machine = {"l2_bytes": 50e6}

    def row(channels: int, pixels: int, ms: float, bound: float, by: str) -> dict[str, Any]:
        size = {"type": "float32", "batch": 1, "channels": channels, "pixels": pixels}
        measured = {"ms": ms, "bound": bound, "bound_by": by, "method": "fastfcs"}
        return {"operation": "correction", **size, **measured}

    report.rows = [
        row(16, 4096, 0.01, 0.1, "traffic"),  # what launches take
        row(16, 262144, 0.02, 0.4, "traffic"),  # 17 MB: within half of L2
        row(16, 2**20, 0.11, 0.8, "traffic"),
        row(32, 2**20, 0.21, 0.7, "traffic"),
        row(64, 2**20, 0.51, 0.6, "arithmetic"),
        row(128, 2**20, 9.01, 0.1, "arithmetic"),  # above 64 channels
    ]
    gram.shares(report)
    assert report.goals == {
        "launches": pytest.approx(10),
        "correction resident": pytest.approx(0.8),
        "correction streamed": pytest.approx(0.7 * 0.21 / 0.2),
        "correction arithmetic": pytest.approx(0.6 * 0.51 / 0.5),
    }


@pytest.mark.slow
def test_libraries_of_variants(
    library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The emulated kernels stand in for compiled ones."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    module = import_module("kernel_library")
    kernels = module.Library(library)
    try:
        module.attempt(kernels, "matting", "cpu", [(5, 33)], [1, 3])
        module.attempt(kernels, "gram", "cpu", [(3, 7)], [16])
    finally:
        torch.use_deterministic_algorithms(False)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 + 4 * 2
    assert "filter 5 x 33, 3 channels: relative error" in said[1]
    monkeypatch.setitem(module.CLOSE, "float32", 0.0)
    with pytest.raises(AssertionError, match="correction float32, 16 channels"):
        module.attempt(kernels, "gram", "cpu", [(3, 7)], [16])
    torch.use_deterministic_algorithms(False)


def test_variants_are_compared(
    run: Run,
    library: ctypes.CDLL,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The emulated kernels are compared with themselves and with some that fail."""
    module, kernels = import_module("variants"), import_module("kernel_library")
    monkeypatch.setattr(module, "ORDER", 2)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    path = tmp_path / "variants.json"
    given = Namespace(device="cpu", json=path, add=False)
    same = {
        kernels.Variant("matting"): kernels.Library(library),
        kernels.Variant("matting", "MATTING_WARPS", 4): kernels.Library(library),
    }

    class Fails(kernels.Library):
        def call(self, *_: object) -> None:
            raise RuntimeError("it could not start")

    gram = {
        kernels.Variant("gram"): kernels.Library(library),
        kernels.Variant("gram", "GRAM_SHARED", 1): kernels.Library(library),  # no matter at C = 16
        kernels.Variant("gram", "GRAM_BLOCKS", 1): Fails(library),
    }
    with import_module("measure").Report("variants", given, module.table, ()) as report:
        module.matting(report, same, 0.0003)
        module.gram(report, gram, 1, 40, "float16", 16)
    section = json.loads(path.read_text())["variants"]
    rows = [(row["operation"], row["method"]) for row in section["rows"]]
    assert rows == [
        ("filter", "default"),
        ("filter", "MATTING_WARPS=4"),
        ("correction", "default"),
        ("backward", "default"),
    ]
    failures = [line for line in section["left_out"] if "by GRAM_BLOCKS=1, " in line]
    assert len(failures) == 2
    assert failures[0].endswith("it could not start")
    one, other = section["rows"][:2]
    assert other["ratio"] == pytest.approx(other["ms"] / one["ms"], rel=2e-3)
    assert 0 < one["error"] == other["error"] < 1e-5
    said = capsys.readouterr().out
    assert "filter 0.0003 " in said
    assert "MATTING_WARPS=4 " in said


def test_variants_are_compiled_with_their_constant(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    module = import_module("kernel_library")
    monkeypatch.setattr(module, "CONSTANTS", {"GRAM_BLOCKS": (396,), "GRAM_NOTHING": (1,)})
    monkeypatch.setattr(module, "FORMER", tmp_path)
    chosen = module.variants()
    assert [variant.name for variant in chosen] == [
        "matting default",
        "gram default",
        "GRAM_BLOCKS=396",
    ]
    lines = module.build_file(chosen, "nvcc", "sm_90").splitlines()
    where = lines.index(f"build gram-GRAM_BLOCKS=396.o: object {ROOT}/csrc/cuda/gram.cu")
    assert lines[where + 1] == "  define = -DFASTFCS_GRAM_BLOCKS=396"
    (linked,) = (line for line in lines if line.startswith("build GRAM_BLOCKS=396.so: "))
    objects = ["affine.o", "gram-GRAM_BLOCKS=396.o", "matting.o", "kernel_library.o"]
    assert linked.split()[3:] == objects
    assert sum(line.startswith("build matting.o:") for line in lines) == 1


def test_former_kernels_are_a_variant_with_sources_of_their_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    module = import_module("kernel_library")
    monkeypatch.setattr(module, "CONSTANTS", {})
    monkeypatch.setattr(module, "FORMER", tmp_path)
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    chosen = module.variants(("gram",))
    assert [variant.name for variant in chosen] == ["gram default", "GRAM_FORMER=1"]
    text = module.build_file(chosen, "nvcc", "sm_90")
    for source in ("csrc/cuda/gram.cu", "csrc/cuda/matting.cu", "benchmarks/kernel_library.cu"):
        name = Path(source).stem
        assert f"build {name}.o: object {ROOT / source}\n" in text
        assert f"build {name}-GRAM_FORMER=1.o: object {tmp_path / source}\n" in text
    assert (tmp_path / "tests/emulation/functions.h").exists()


def shell(*command: object, **environment: object) -> subprocess.CompletedProcess[str]:
    bash = shutil.which("bash")
    assert bash is not None
    return subprocess.run(
        [bash, *map(str, command)],
        env=os.environ | {key: str(value) for key, value in environment.items()},
        capture_output=True,
        text=True,
    )


def script(path: Path, *lines: str) -> Path:
    """A script of these stages."""
    head = ["set -u", f"source {ROOT}/benchmarks/gpu_env.sh"]
    path.write_text("\n".join([*head, *lines, "finish", ""]))
    return path


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_run_gpu_stops_at_once_without_a_gpu(tmp_path: Path) -> None:
    stopped = shell(ROOT / "benchmarks/run_gpu.sh", tmp_path / "out")
    assert stopped.returncode == 2
    assert stopped.stderr == "run_gpu.sh: nvidia-smi finds no GPU here, so nothing was done.\n"
    assert stopped.stdout == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--fast"], "--fast is not an option; they are --dry-run and --dry-run --build."),
        (["--build"], "--build is for --dry-run; without it, the build comes first anyway."),
        (["here", "there"], "one folder is expected, got here and there."),
    ],
)
def test_run_gpu_rejects_wrong_options(words: list[str], sentence: str) -> None:
    refused = shell(ROOT / "benchmarks/run_gpu.sh", *words)
    assert (refused.returncode, refused.stderr) == (2, f"run_gpu.sh: {sentence}\n")


@pytest.mark.slow
def test_run_gpu_starts_in_a_dry_run(tmp_path: Path) -> None:
    """Every stage's script is there, imports what it needs and takes its options."""
    run = shell(
        ROOT / "benchmarks/run_gpu.sh", "--dry-run", tmp_path / "out", PYTHON=sys.executable
    )
    assert run.returncode == 0, run.stdout + run.stderr
    ended = dict(line.split(maxsplit=1) for line in run.stdout.splitlines()[:-1])
    assert len(ended) > 10
    assert {*ended.values()} == {"ok, dry run"}
    assert not (tmp_path / "out").exists()


def test_train_gpu_starts_in_a_dry_run(tmp_path: Path) -> None:
    """Options of `fastfcs train` are parsed; wrong ones and a missing pack raise errors."""
    pack = tmp_path / "pictures.pack"
    command = ROOT / "benchmarks/train_gpu.sh", "--dry-run", pack, tmp_path / "out"
    missing = shell(*command, PYTHON=sys.executable)
    assert (missing.returncode, missing.stderr) == (2, f"train_gpu.sh: {pack} cannot be read.\n")
    pack.touch()
    answer = shell(*command, PYTHON=sys.executable)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "train        ok, dry run\n" in answer.stdout
    wrong = shell(*command, PYTHON=sys.executable, OPTIONS="--sizes 256")
    assert wrong.returncode == 1
    assert "No such option" in wrong.stdout


def test_a_dry_run_fails_where_a_stage_would_not_start(tmp_path: Path) -> None:
    parses = "import argparse; p = argparse.ArgumentParser(); p.add_argument('--dry-run'"
    sources = {
        "good": f"{parses}, action='store_true'); p.parse_args()",
        "syntax": "def (",
        "imports": "import a_module_that_is_not_there",
        "option": f"{parses}, action='store_true'); p.parse_args()",
    }
    for name, source in sources.items():
        (tmp_path / f"{name}.py").write_text(source)
    run = shell(
        script(
            tmp_path / "trial.sh",
            'begin 30 "$@"',
            *(
                f'stage {name} 10 "$python" {tmp_path}/{name}.py'
                for name in sources
                if name != "option"
            ),
            f'stage option 10 a-tool --of-it "$python" {tmp_path}/option.py --other',
        ),
        "--dry-run",
        PYTHON=sys.executable,
    )
    assert run.returncode == 1
    ended = dict(line.split(maxsplit=1) for line in run.stdout.splitlines()[1:-1])
    assert ended.pop("good") == "ok, dry run"
    assert ended.pop("limits") == "FAILED: they add up to 40 s, more than 30"
    assert ended["syntax"].startswith("FAILED with status 1, dry run: SyntaxError")
    assert ended["imports"].endswith("No module named 'a_module_that_is_not_there'")
    assert ended["option"].endswith("error: unrecognized arguments: --other")
    assert run.stdout.startswith("option       not run: a-tool was not found\n")


def test_stages_end_one_by_one(tmp_path: Path) -> None:
    program(tmp_path / "nvidia-smi", 'case "$*" in *name*) echo "NVIDIA T 1";; *) echo 9.0;; esac')
    program(tmp_path / "nvcc", "exit 0")
    run = shell(
        script(
            tmp_path / "trial.sh",
            "needed() { :; }  # this Python's torch may have no CUDA",
            'begin 60 "$@"',
            "stage slow 1 bash -c 'trap \"echo interrupted; exit 0\" INT; sleep 5 & wait'",
            "stage wrong 9 bash -c 'echo first; echo last; exit 3'",
            "stage absent 9 env A=B a-tool",
            'stage right 9 bash -c \'echo "$A at $0"\' "$json"',
        ),
        tmp_path / "out",
        PYTHON=sys.executable,
        PATH=f"{tmp_path}:{os.environ['PATH']}",
        A="b",
    )
    assert run.returncode == 1, run.stderr
    assert run.stdout.splitlines()[1:-1] == [
        "wrong        FAILED with status 3, 0 s: last",
        "absent       not run: a-tool was not found",
        "right        ok, 0 s",
    ]
    assert run.stdout.startswith("slow         FAILED: stopped after ")
    with tarfile.open(tmp_path / "out/trial.tar.gz") as logs:
        said = {
            member.name: logs.extractfile(member).read().decode()  # type: ignore[union-attr]
            for member in logs
            if member.isfile()
        }
    assert said["./slow.log"] == "interrupted\n"
    assert said["./right.log"] == f"b at {tmp_path}/out/nvidia-t-1.json\n"
    assert said["./summary.txt"].splitlines() == run.stdout.splitlines()[:-1]


def test_missing_packages_are_named(tmp_path: Path) -> None:
    program(tmp_path / "nvidia-smi", "echo 9.0")
    program(tmp_path / "nvcc", "exit 0")
    bare = program(tmp_path / "python3", f'exec {sys.executable} -S "$@"')
    path = f"{tmp_path}:{os.environ['PATH']}"
    stopped = shell(ROOT / "benchmarks/run_gpu.sh", tmp_path / "out", PYTHON=bare, PATH=path)
    assert stopped.returncode == 2
    assert stopped.stderr == (
        f"run_gpu.sh: {bare} lacks torch, numpy, pillow, safetensors, click, rich, setuptools,"
        " pybind11, ninja; nothing is fetched here, but wheels in build/wheels are used.\n"
    )
