"""Builds fastfcs._C with ninja: the C++ operators always, the CUDA kernels wherever nvcc is found.

Environment: CXX; FASTFCS_CUDA=0|1 (forbid or require CUDA); CUDA_HOME; TORCH_CUDA_ARCH_LIST.
"""

from __future__ import annotations

import logging
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NoReturn

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

sys.path.insert(0, str(Path(__file__).parent))
from build_backend import find_torch

logging.disable(logging.INFO)  # setuptools' list of copied files would hide our one sentence

ROOT = Path(__file__).parent.resolve()
TORCH_ABI = (2, 10)  # the oldest torch that the binary runs with; every later one does too
ARCHITECTURES = "8.0 9.0+PTX"
FLAGS = "-std=c++17 -O3 -fPIC -fvisibility=hidden -fno-math-errno -ffp-contract=fast -Wall -Wextra"


def stop(sentence: str) -> NoReturn:
    raise SystemExit(f"fastfcs: {sentence}")


def first_error(output: str) -> str:
    lines = output.strip().splitlines() or ["it said nothing"]
    return next(
        (line for line in lines if re.search(r"\b(error|fatal)\b", line)), lines[-1]
    ).strip()


def compiler() -> str:
    asked = os.environ.get("CXX")
    for name in [asked] if asked else ["g++", "clang++", "c++"]:
        if shutil.which(shlex.split(name)[0]):
            return name
    wanted = asked or "g++ or clang++"
    stop(f"a C++ compiler is needed to build, {wanted} was not found; install one or set CXX.")


def torch_folder() -> Path:
    folder = find_torch()
    if folder is None:
        stop("torch is needed to build, install it first.")
    version = re.search(r"__version__ = '((\d+)\.(\d+)[^']*)'", (folder / "version.py").read_text())
    if version is None or (int(version[2]), int(version[3])) < TORCH_ABI:
        found = version[1] if version else "an unknown version"
        stop(f"torch {TORCH_ABI[0]}.{TORCH_ABI[1]} or newer is needed, {folder} is {found}.")
    return folder


def find_nvcc() -> str | None:
    """nvcc, if CUDA is to be built."""
    wish = os.environ.get("FASTFCS_CUDA", "")
    if wish not in ("", "0", "1"):
        stop(f"FASTFCS_CUDA must be 0 or 1, got {wish!r}.")
    if wish == "0":
        return None
    homes = [os.environ[key] for key in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(key)]
    folders = [f"{home}/bin" for home in homes]
    folders += [os.environ.get("PATH", ""), "/usr/local/cuda/bin"]
    nvcc = shutil.which("nvcc", path=os.pathsep.join(folders))
    if wish == "1" and not nvcc:
        stop("FASTFCS_CUDA=1 needs nvcc, which is neither in CUDA_HOME nor on the PATH.")
    return nvcc


def cuda_version(nvcc: str) -> str:
    answer = subprocess.run([nvcc, "--version"], capture_output=True, text=True)
    release = re.search(r"release ([\d.]+)", answer.stdout)
    if release is None:
        stop(f"{nvcc} --version fails: {first_error(answer.stdout + answer.stderr)}")
    return release[1]


def code_generation(architectures: str) -> str:
    """nvcc's options for a list such as "8.0 9.0+PTX"."""
    options = []
    for name in re.split(r"[ ;]+", architectures.strip()):
        match = re.fullmatch(r"(\d+)\.(\d+[af]?)(\+PTX)?", name)
        if match is None:
            stop(f'TORCH_CUDA_ARCH_LIST must be numbers such as "{ARCHITECTURES}", got {name!r}.')
        number = match[1] + match[2]
        options.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if match[3]:
            options.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return " ".join(options)


def row_flags() -> dict[str, str]:
    """The instruction sets that the inner loops, csrc/cpu/*_rows.cpp, are compiled for."""
    options = {"plain": (16, "")}  # name: bytes of a vector, the compiler's options
    if platform.machine() == "x86_64":
        options["avx2"] = (32, "-mavx2 -mfma -mf16c")
        options["avx512"] = (64, f"{options['avx2'][1]} -mavx512f -mavx512bw -mavx512dq -mavx512vl")
    return {
        name: f"-DFASTFCS_ISA={name} -DFASTFCS_VECTOR={width} {flags}"
        for name, (width, flags) in options.items()
    }


def build_file(target: Path, version: str, in_place: bool) -> str:
    """What ninja is to do: one object for each source, and for each instruction set of the rows."""
    import pybind11

    cxx, torch, nvcc = compiler(), torch_folder(), find_nvcc()
    host = shlex.split(cxx)[-1]
    cuda = sorted((ROOT / "csrc/cuda").glob("*.cu")) if nvcc else []
    # torch 2.11 bundles pybind11's headers too, but they refuse TORCH_TARGET_VERSION.
    headers = [pybind11.get_include(), torch / "include", sysconfig.get_path("include")]
    common = "-DTORCH_TARGET_VERSION=0x{:02x}{:02x}000000000000ull ".format(*TORCH_ABI)
    common += " ".join(f"-isystem {folder}" for folder in headers)
    facts = {"VERSION": version, "TORCH_ABI": "{}.{}".format(*TORCH_ABI)}

    # An installed extension finds the torch that is installed next to it, whichever version that
    # is. One that stays in its source tree has only the torch that it was built with.
    run_path = f"{torch}/lib" if in_place else "$$ORIGIN/../torch/lib"
    linker, device = cxx, ""
    if cuda:
        architectures = os.environ.get("TORCH_CUDA_ARCH_LIST") or ARCHITECTURES
        facts |= {"CUDA": cuda_version(nvcc), "CUDA_ARCHITECTURES": architectures}
        device = f"{nvcc} -ccbin {host} -std=c++17 -O3 --expt-relaxed-constexpr"
        device += f" -Xcompiler -fPIC,-fvisibility=hidden {code_generation(architectures)}"
        # nvcc links, because it knows where its runtime is.
        linker = f"{nvcc} -ccbin {host} -cudart static"
    else:
        print("fastfcs: nvcc is not used, this build has no CUDA kernels.", file=sys.stderr)

    objects = {  # name: rule, source, flags of its own
        **{f.stem: ("cxx", f, "") for f in sorted((ROOT / "csrc").glob("*.cpp"))},
        **{f"cuda_{f.stem}": ("cuda", f, "") for f in cuda},
    }
    for f in sorted((ROOT / "csrc/cpu").glob("*.cpp")):
        if f.stem.endswith("_rows"):
            objects |= {f"{f.stem}_{isa}": ("cxx", f, flags) for isa, flags in row_flags().items()}
        else:
            objects[f"cpu_{f.stem}"] = ("cxx", f, "")
    quoted = [f"-DFASTFCS_{key}='\"{value}\"'" for key, value in facts.items()]
    objects["module"] = ("cxx", ROOT / "csrc/module.cpp", " ".join(quoted))

    link = f"{linker} -shared -o $out $in -L{torch}/lib -Xlinker --no-as-needed -ltorch"
    lines = ["rule link", f"  command = {link} -Xlinker -rpath='{run_path}'"]
    for rule, command in {"cxx": f"{cxx} {FLAGS}", "cuda": device}.items():
        lines += [
            f"rule {rule}",
            f"  command = {command} {common} $flags -MMD -MF $out.d -c $in -o $out",
        ]
        lines += ["  depfile = $out.d", "  deps = gcc"]
    for name, (rule, source, flags) in objects.items():
        lines += [f"build {name}.o: {rule} {source}", f"  flags = {flags}"]
    return "\n".join(
        [*lines, f"build {target}: link {' '.join(f'{name}.o' for name in objects)}", ""]
    )


class Build(build_ext):
    def run(self) -> None:
        self.in_place = bool(self.inplace)  # setuptools clears `inplace` while it builds
        super().run()

    def build_extension(self, extension: Extension) -> None:
        import ninja

        target = Path(self.get_ext_fullpath(extension.name)).resolve()
        folder = Path(self.build_temp).resolve()
        for needed in (target.parent, folder):
            needed.mkdir(parents=True, exist_ok=True)
        version = self.distribution.get_version()
        (folder / "build.ninja").write_text(build_file(target, version, self.in_place))
        answer = subprocess.run(
            [Path(ninja.BIN_DIR, "ninja"), "-C", folder],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if answer.returncode:
            print(answer.stdout, file=sys.stderr)
            stop(f"compiling failed: {first_error(answer.stdout)}")


setup(ext_modules=[Extension("fastfcs._C", sources=[])], cmdclass={"build_ext": Build})
