"""The build: its information about itself, its contents, and its errors."""

import os
import shutil
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from toolchain import cuda_tool

from fastfcs import _C

ROOT = Path(__file__).parents[1]
TORCH = Path(torch.__file__).parent


def run_setup(*arguments: object, **environment: object) -> subprocess.CompletedProcess[str]:
    """Runs setup.py without the variables of this environment that configure it."""
    settings = ("CXX", "CUDA_HOME", "CUDA_PATH", "FASTFCS_CUDA", "TORCH_CUDA_ARCH_LIST")
    inherited = {key: value for key, value in os.environ.items() if key not in settings}
    return subprocess.run(
        [sys.executable, "setup.py", "-q", *map(str, arguments)],
        cwd=ROOT,
        env=inherited | {key: str(value) for key, value in environment.items()},
        capture_output=True,
        text=True,
    )


def build_error(folder: Path, **environment: object) -> str:
    """The last line of a build that must fail without a traceback."""
    build = run_setup("build_ext", "-b", folder / "lib", "-t", folder / "temp", **environment)
    assert build.returncode == 1
    assert "Traceback" not in build.stderr
    return build.stderr.strip().splitlines()[-1]


def program(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_build_info() -> None:
    info = _C.build_info()
    assert info["version"] == version("fastfcs")
    assert info["compiler"].startswith(("gcc ", "clang "))
    assert info["torch_abi"] == "2.10"
    assert info["cpu"] in ("plain", "avx2", "avx512", "amx")
    assert (info["cuda"] is None) == (info["cuda_architectures"] is None)


def test_no_compiler(tmp_path: Path) -> None:
    assert build_error(tmp_path, CXX=tmp_path / "absent") == (
        f"fastfcs: CXX must be an installed C++ compiler, got no {tmp_path}/absent"
    )


def test_failing_compiler_gives_its_first_error(tmp_path: Path) -> None:
    fails = program(
        tmp_path / "c++", "echo 'x.cpp:1:1: error: first'; echo 'error: second'; exit 1"
    )
    message = build_error(tmp_path, CXX=fails, FASTFCS_CUDA=0)
    assert message == "fastfcs: compilation failed: x.cpp:1:1: error: first"


def test_failing_nvcc_gives_its_first_error(tmp_path: Path) -> None:
    compiles = program(tmp_path / "c++", "exit 0")
    program(
        tmp_path / "cuda/bin/nvcc",
        """[ "$1" = --version ] && echo "release 13.0, V13" && exit
           echo "nvcc fatal   : Unsupported gpu architecture 'compute_80'"; exit 1""",
    )
    message = build_error(tmp_path, CXX=compiles, CUDA_HOME=tmp_path / "cuda", FASTFCS_CUDA=1)
    assert "compilation failed: nvcc fatal   : Unsupported gpu architecture" in message


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("FASTFCS_CUDA", "yes", "fastfcs: FASTFCS_CUDA must be 0 or 1, got 'yes'"),
        (
            "TORCH_CUDA_ARCH_LIST",
            "Hopper",
            "fastfcs: TORCH_CUDA_ARCH_LIST must be numbers such as \"8.0 9.0+PTX\", got 'Hopper'",
        ),
    ],
)
def test_wrong_settings(tmp_path: Path, name: str, value: str, message: str) -> None:
    program(tmp_path / "cuda/bin/nvcc", 'echo "release 13.0"')
    settings = {"CXX": program(tmp_path / "c++", "exit 0"), "CUDA_HOME": tmp_path / "cuda"}
    assert build_error(tmp_path, **settings, **{name: value}) == message


def test_old_torch(tmp_path: Path) -> None:
    torch = tmp_path / "site/torch"
    torch.mkdir(parents=True)
    (torch / "__init__.py").touch()
    (torch / "version.py").write_text("__version__ = '2.4.1+cpu'\n")
    compiles = program(tmp_path / "c++", "exit 0")
    message = build_error(tmp_path, CXX=compiles, PYTHONPATH=tmp_path / "site")
    assert message == f"fastfcs: torch must be 2.10 or newer, got 2.4.1+cpu in {torch}"


def run_python(code: str) -> str:
    """The output of a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


LOADED = "print(*{line.split()[-1] for line in open('/proc/self/maps') if '/%s' in line})"


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler (c++) found")
@pytest.mark.parametrize(
    "cuda",
    [
        False,
        pytest.param(
            True,
            marks=[
                pytest.mark.toolchain,
                pytest.mark.skipif(
                    cuda_tool("nvcc") is None, reason="no CUDA compiler (nvcc) found"
                ),
            ],
        ),
    ],
)
def test_next_to_another_torch(tmp_path: Path, cuda: bool) -> None:
    """Torch's own pybind11 headers are not used; the torch next to the binary is."""
    site = tmp_path / "lib"
    (site / "torch/include/pybind11").mkdir(parents=True)
    (site / "torch/__init__.py").touch()
    (site / "torch/version.py").write_text("__version__ = '2.11.0'\n")
    for header in ("pybind11.h", "numpy.h"):
        (site / "torch/include/pybind11" / header).write_text("#error not with a stable ABI\n")
    for entry in (TORCH / "include").iterdir():
        if entry.name != "pybind11":
            (site / "torch/include" / entry.name).symlink_to(entry)
    stub = site / "torch/lib/libtorch.so"
    stub.parent.mkdir()
    command = ["c++", "-shared", "-Wl,-soname,libtorch.so", "-xc++", os.devnull, "-o", stub]
    subprocess.run(command, check=True)

    # module.cpp is really preprocessed and the objects, which are empty, really linked.
    program(
        tmp_path / "c++",
        """case " $*" in
             *" -c "*) case "$*" in *module.cpp*) c++ -E "$@" || exit ;; esac
                       for object; do :; done
                       exec c++ -fPIC -xc++ -c /dev/null -o "$object" ;;
             *) exec c++ "$@" ;;
           esac""",
    )
    program(
        tmp_path / "cuda/bin/nvcc",
        f"""case " $*" in
              *" -c "*) exec {tmp_path}/c++ "$@" ;;
              *) exec {cuda_tool("nvcc")} "$@" ;;
            esac""",
    )
    settings = {"CXX": tmp_path / "c++", "CUDA_HOME": tmp_path / "cuda", "PYTHONPATH": site}
    target = ("-b", site, "-t", tmp_path / "temp")
    built = run_setup("build_ext", *target, FASTFCS_CUDA=int(cuda), **settings)
    assert built.returncode == 0, built.stderr

    (binary,) = (site / "fastfcs").glob("_C.*")
    load = f"import ctypes; ctypes.CDLL('{binary}'); " + LOADED % "libtorch.so"
    assert run_python(load).split() == [str(stub)]
    assert run_python("import torch; " + load).split() == [str(TORCH / "lib/libtorch.so")]


def test_extension_is_imported_before_torch() -> None:
    code = "import sys, fastfcs._C; assert 'torch' not in sys.modules; import torch, fastfcs; "
    code += "assert fastfcs.gram(torch.ones(1, 2, 3, 4)).eq(1).all(); "
    loaded = run_python(code + LOADED % "libtorch_cpu.so").split()
    assert loaded == [str((TORCH / "lib/libtorch_cpu.so").resolve())]


@pytest.mark.toolchain
@pytest.mark.parametrize("name", ["cuobjdump", "nvdisasm"])
def test_disassembler_comes_with_the_test_dependencies(name: str) -> None:
    path = cuda_tool(name)
    assert path is not None
    result = subprocess.run([path, "--version"], capture_output=True, text=True, check=True)
    assert "NVIDIA" in result.stdout


def test_torch_is_required_only_if_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    import build_backend

    assert build_backend.torch_requirement() == []
    monkeypatch.setattr(build_backend, "find_torch", lambda: None)
    assert build_backend.torch_requirement() == ["torch>=2.10"]


def test_source_distribution_is_complete(tmp_path: Path) -> None:
    built = run_setup("egg_info", "-e", tmp_path, "sdist", "-d", tmp_path)
    assert built.returncode == 0, built.stderr
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    patterns = {
        "csrc": ("*.*",),
        "fastfcs": ("*.py", "*.html", "*.safetensors", "py.typed"),
        "tests": ("*.py", "*.h", "*.cpp", "*.json"),
        "examples": ("*.py",),
        "benchmarks": ("*.py", "*.sh", "*.json"),
        "docs": ("*.md", "*.jpg"),
    }
    needed = {
        str(path.relative_to(ROOT))
        for folder, endings in patterns.items()
        for ending in endings
        for path in (ROOT / folder).rglob(ending)
    }
    assert len(needed) > 200
    top = "build_backend.py pyproject.toml LICENSE NOTICE README.md CITATION.cff Makefile"
    assert needed | set(top.split()) <= names
