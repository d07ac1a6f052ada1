"""Builds fastfcs._C with ninja: the C++ operators always, the CUDA kernels wherever nvcc is found.

Environment: CXX; FASTFCS_CUDA=0|1 (forbid or require CUDA); CUDA_HOME; TORCH_CUDA_ARCH_LIST.
"""

from __future__ import annotations

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
from build_backend import find_torch  # noqa: E402

ROOT = Path(__file__).parent.resolve()
TORCH_ABI = (2, 10)  # the oldest torch that the binary runs with; every later one does too
ARCHITECTURES = "8.0 9.0+PTX"
FLAGS = "-std=c++17 -O3 -fPIC -fvisibility=hidden -fno-math-errno -ffp-contract=fast -Wall -Wextra"


def stop(sentence: str) -> NoReturn:
    raise SystemExit(f"fastfcs: {sentence}")


def compiler() -> str:
    asked = os.environ.get("CXX")
    for name in [asked] if asked else ["g++", "clang++", "c++"]:
        if shutil.which(shlex.split(name)[0]):
            return name
    stop(f"a C++ compiler is needed to build, {asked or 'g++ or clang++'} was not found; install one or set CXX.")


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
    homes = [os.environ.get("CUDA_HOME", ""), os.environ.get("CUDA_PATH", "")]
    places = [f"{home}/bin" for home in homes if home] + [os.environ.get("PATH", ""), "/usr/local/cuda/bin"]
    nvcc = shutil.which("nvcc", path=os.pathsep.join(places))
    if wish == "1" and not nvcc:
        stop("FASTFCS_CUDA=1 needs nvcc, which is neither in CUDA_HOME nor on the PATH.")
    return nvcc


def cuda_version(nvcc: str) -> str:
    answer = subprocess.run([nvcc, "--version"], capture_output=True, text=True)
    release = re.search(r"release ([\d.]+)", answer.stdout)
    if answer.returncode or not release:
        stop(f"{nvcc} --version fails: {(answer.stderr or answer.stdout).strip().splitlines()[:1]}")
    return release[1]


def code_generation(architectures: str) -> list[str]:
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
    return options


class Build(build_ext):
    def build_extension(self, extension: Extension) -> None:
        import ninja
        import pybind11

        target = Path(self.get_ext_fullpath(extension.name)).resolve()
        folder = Path(self.build_temp).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)

        cxx, torch, nvcc = compiler(), torch_folder(), find_nvcc()
        python = sysconfig.get_path("include")
        major, minor = TORCH_ABI
        includes = f"-isystem {torch}/include -isystem {pybind11.get_include()} -isystem {python}"
        abi = f"-DTORCH_TARGET_VERSION=0x{major:02x}{minor:02x}000000000000ull"
        facts = {"VERSION": self.distribution.get_version(), "TORCH_ABI": f"{major}.{minor}"}
        link = f"-L{torch}/lib -Wl,--no-as-needed -ltorch"
        linker = f"{cxx} -shared"

        # One line for each object: its rule, its source, and flags of its own.
        objects = {path.stem: ("cxx", path, "") for path in (ROOT / "csrc").glob("*.cpp")}
        objects |= {f"cpu_{path.stem}": ("cxx", path, "") for path in (ROOT / "csrc/cpu").glob("*.cpp")}
        _, rows, _ = objects.pop("cpu_matting_rows")
        objects["plain"] = ("cxx", rows, "-DFASTFCS_ISA=plain -DFASTFCS_VECTOR=16")
        if platform.machine() in ("x86_64", "AMD64"):
            objects["avx2"] = ("cxx", rows, "-mavx2 -mfma -DFASTFCS_ISA=avx2 -DFASTFCS_VECTOR=32")
        cuda = sorted((ROOT / "csrc/cuda").glob("*.cu")) if nvcc else []
        nvcc_flags = ""
        if cuda:
            architectures = os.environ.get("TORCH_CUDA_ARCH_LIST") or ARCHITECTURES
            facts |= {"CUDA": cuda_version(nvcc), "CUDA_ARCHITECTURES": architectures}
            nvcc_flags = " ".join(
                [f"-ccbin {shlex.split(cxx)[0]} -std=c++17 -O3 --expt-relaxed-constexpr", abi]
                + ["-Xcompiler -fPIC,-fvisibility=hidden"]
                + code_generation(architectures)
            )
            objects |= {f"cuda_{path.stem}": ("nvcc", path, "") for path in cuda}
            # nvcc knows where its own runtime is.
            linker = f"{nvcc} -ccbin {shlex.split(cxx)[0]} -shared -cudart static"
            link = link.replace("-Wl,", "-Xlinker ")
        else:
            print(f"fastfcs: no CUDA kernels in this build ({'none in csrc/cuda' if nvcc else 'no nvcc'}).")
        definitions = " ".join(f"-DFASTFCS_{key}={shlex.quote(chr(34) + value + chr(34))}" for key, value in facts.items())
        objects["module"] = (*objects["module"][:2], definitions)

        lines = [
            "rule cxx",
            f"  command = {cxx} -MMD -MF $out.d {FLAGS} {abi} {includes} $flags -c $in -o $out",
            "  depfile = $out.d",
            "  deps = gcc",
            "rule nvcc",
            f"  command = {nvcc} -MMD -MF $out.d {nvcc_flags} {includes} -c $in -o $out",
            "  depfile = $out.d",
            "  deps = gcc",
            "rule link",
            f"  command = {linker} -o $out $in {link}",
        ]
        for name, (rule, source, flags) in objects.items():
            lines += [f"build {name}.o: {rule} {source}", f"  flags = {flags}"]
        lines += [f"build {target}: link " + " ".join(f"{name}.o" for name in objects), ""]
        (folder / "build.ninja").write_text("\n".join(lines))

        command = [str(Path(ninja.BIN_DIR, "ninja")), "-C", str(folder), *(["-v"] if self.verbose > 1 else [])]
        answer = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if answer.returncode:
            log = folder / "build.log"
            log.write_text(answer.stdout)
            lines = answer.stdout.splitlines()
            reason = next((line for line in lines if re.search(r"\b(error|fatal)\b", line)), lines[-1])
            stop(f"compiling failed: {reason.strip()} (everything it said: {log})")


setup(ext_modules=[Extension("fastfcs._C", sources=[])], cmdclass={"build_ext": Build})
