"""Builds fastfcs._C with ninja: the C++ operators always, the CUDA kernels if nvcc is available.

Environment variables: CXX; FASTFCS_CUDA=0|1 (forbid or require CUDA); CUDA_HOME;
TORCH_CUDA_ARCH_LIST.
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

logging.disable(logging.INFO)  # setuptools' list of copied files would hide our error message

ROOT = Path(__file__).parent.resolve()
TORCH_ABI = (2, 10)  # the oldest torch that the binary runs with; all later versions work too
ARCHITECTURES = "8.0 9.0+PTX"
FLAGS = (
    "-std=c++17 -O3 -fPIC -fvisibility=hidden -fno-math-errno -fno-trapping-math "
    "-ffp-contract=fast -Wall -Wextra"
)


def stop(message: str) -> NoReturn:
    raise SystemExit(f"fastfcs: {message}")


def first_error(output: str) -> str:
    lines = output.strip().splitlines() or ["no output"]
    return next(
        (line for line in lines if re.search(r"\b(error|fatal)\b", line)), lines[-1]
    ).strip()


def compiler() -> str:
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++"]
    for name in names:
        if shutil.which(shlex.split(name)[0]):
            return name
    stop(f"CXX must be an installed C++ compiler, got no {' or '.join(names)}")


def torch_folder() -> Path:
    folder = find_torch()
    if folder is None:
        stop("torch must be installed before fastfcs is built")
    version = re.search(r"__version__ = '((\d+)\.(\d+)[^']*)'", (folder / "version.py").read_text())
    if version is None or (int(version[2]), int(version[3])) < TORCH_ABI:
        installed = version[1] if version else "an unknown version"
        oldest = "{}.{}".format(*TORCH_ABI)
        stop(f"torch must be {oldest} or newer, got {installed} in {folder}")
    return folder


def find_nvcc() -> str | None:
    """Find the path of nvcc; None stands for a build without CUDA."""
    setting = os.environ.get("FASTFCS_CUDA", "")
    if setting not in ("", "0", "1"):
        stop(f"FASTFCS_CUDA must be 0 or 1, got {setting!r}")
    if setting == "0":
        return None
    homes = [os.environ[key] for key in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(key)]
    folders = [f"{home}/bin" for home in homes]
    folders += [os.environ.get("PATH", ""), "/usr/local/cuda/bin"]
    nvcc = shutil.which("nvcc", path=os.pathsep.join(folders))
    if setting == "1" and not nvcc:
        stop("FASTFCS_CUDA=1 requires nvcc, which is neither in CUDA_HOME nor on the PATH")
    return nvcc


def cuda_version(nvcc: str) -> str:
    result = subprocess.run([nvcc, "--version"], capture_output=True, text=True)
    release = re.search(r"release ([\d.]+)", result.stdout)
    if release is None:
        stop(f"{nvcc} --version failed: {first_error(result.stdout + result.stderr)}")
    return release[1]


def code_generation(architectures: str) -> str:
    """Translate a list such as "8.0 9.0+PTX" into options of nvcc."""
    options = []
    for name in re.split(r"[ ;]+", architectures.strip()):
        match = re.fullmatch(r"(\d+)\.(\d+[af]?)(\+PTX)?", name)
        if match is None:
            stop(f'TORCH_CUDA_ARCH_LIST must be numbers such as "{ARCHITECTURES}", got {name!r}')
        number = match[1] + match[2]
        options.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if match[3]:
            options.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return " ".join(options)


def row_flags() -> dict[str, str]:
    """Return the compiler flags of the inner loops, csrc/cpu/*_rows.cpp, per instruction set."""
    options = {"plain": (16, "")}  # name: bytes per vector, compiler options
    if platform.machine() == "x86_64":
        options["avx2"] = (32, "-mavx2 -mfma -mf16c")
        options["avx512"] = (64, f"{options['avx2'][1]} -mavx512f -mavx512bw -mavx512dq -mavx512vl")
        options["amx"] = (64, f"{options['avx512'][1]} -mavx512bf16 -mamx-tile -mamx-bf16")
    return {
        name: f"-DFASTFCS_ISA={name} -DFASTFCS_VECTOR={width} {flags}"
        for name, (width, flags) in options.items()
    }


def build_file(target: Path, version: str, in_place: bool) -> str:
    """Compose build.ninja: one object per source, or per instruction set for *_rows.cpp."""
    import pybind11

    cxx, torch, nvcc = compiler(), torch_folder(), find_nvcc()
    host = shlex.split(cxx)[-1]
    cuda = sorted((ROOT / "csrc/cuda").glob("*.cu")) if nvcc else []
    # torch 2.11 also bundles headers of pybind11, but they reject TORCH_TARGET_VERSION.
    headers = [pybind11.get_include(), torch / "include", sysconfig.get_path("include")]
    common = "-DTORCH_TARGET_VERSION=0x{:02x}{:02x}000000000000ull ".format(*TORCH_ABI)
    common += " ".join(f"-isystem {folder}" for folder in headers)
    definitions = {"VERSION": version, "TORCH_ABI": "{}.{}".format(*TORCH_ABI)}

    # An installed extension uses the torch installed next to it, whatever its version. An extension
    # in its source tree uses the torch that it was built with.
    run_path = f"{torch}/lib" if in_place else "$$ORIGIN/../torch/lib"
    linker, device = cxx, ""
    if cuda:
        architectures = os.environ.get("TORCH_CUDA_ARCH_LIST") or ARCHITECTURES
        definitions |= {"CUDA": cuda_version(nvcc), "CUDA_ARCHITECTURES": architectures}
        device = f"{nvcc} -ccbin {host} -std=c++17 -O3 --expt-relaxed-constexpr"
        device += f" -Xcompiler -fPIC,-fvisibility=hidden {code_generation(architectures)}"
        # nvcc links, because it knows the location of its runtime.
        linker = f"{nvcc} -ccbin {host} -cudart static"
    else:
        print("fastfcs: building without nvcc, hence without CUDA kernels", file=sys.stderr)

    objects = {  # name: rule, source, additional flags
        **{f.stem: ("cxx", f, "") for f in sorted((ROOT / "csrc").glob("*.cpp"))},
        **{f"cuda_{f.stem}": ("cuda", f, "") for f in cuda},
    }
    for f in sorted((ROOT / "csrc/cpu").glob("*.cpp")):
        if f.stem.endswith("_rows"):
            objects |= {f"{f.stem}_{isa}": ("cxx", f, flags) for isa, flags in row_flags().items()}
        else:
            objects[f"cpu_{f.stem}"] = ("cxx", f, "")
    quoted = [f"-DFASTFCS_{key}='\"{value}\"'" for key, value in definitions.items()]
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
        target.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        version = self.distribution.get_version()
        (folder / "build.ninja").write_text(build_file(target, version, self.in_place))
        result = subprocess.run(
            [Path(ninja.BIN_DIR, "ninja"), "-C", folder],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if result.returncode:
            print(result.stdout, file=sys.stderr)
            stop(f"compilation failed: {first_error(result.stdout)}")


setup(ext_modules=[Extension("fastfcs._C", sources=[])], cmdclass={"build_ext": Build})
