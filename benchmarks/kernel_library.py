"""The kernels as a library of C functions, compiled by nvcc once per variant of a constant.

python benchmarks/kernel_library.py [VARIANT]

Without VARIANT, all variants are compiled into build/variants, for TORCH_CUDA_ARCH_LIST if set,
otherwise for the installed GPU. With a VARIANT such as GRAM_BLOCKS=792, its library is checked
against float64. Each variant is checked in a process of its own, since an invalid access makes CUDA
unusable for the rest of the process.

If build/former contains the sources of an earlier revision, its kernels are the variants FORMER:
mkdir -p build/former && git archive REVISION csrc | tar -x -C build/former
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import shutil
import subprocess
import sys
from argparse import ArgumentParser, RawTextHelpFormatter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ninja
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build/variants"
FORMER = ROOT / "build/former"
# The non-default values of each constant, a macro FASTFCS_... in the kernels' source.
CONSTANTS: dict[str, Sequence[int]] = {
    "MATTING_WARPS": (1, 4),
    "MATTING_STRIP": (900, 3600),
    "MATTING_MEANS": (1,),
    "GRAM_BLOCKS": (396, 792, 3168),
    "GRAM_STREAMING": (0, 2),
    "GRAM_SHARED": (48 << 10, 200 << 10),
    "GRAM_TF32_TERMS": (3,),
}
TYPES = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
CLOSE = {"float32": 1e-5, "tf32": 1e-3, "float16": 1e-3, "bfloat16": 8e-3}  # relative errors


class Variant(NamedTuple):
    family: str  # "matting" or "gram"
    constant: str = ""  # empty: all constants have their defaults
    value: int = 0

    @property
    def name(self) -> str:
        return f"{self.constant}={self.value}" if self.constant else f"{self.family} default"

    @property
    def root(self) -> Path:
        """The folder that contains its csrc."""
        return FORMER if self.constant.endswith("FORMER") else ROOT

    @property
    def path(self) -> Path:
        return FOLDER / f"{self.name.replace(' ', '-')}.so"


def variants(families: Sequence[str] = ("matting", "gram")) -> list[Variant]:
    """List the variants, defaults first. Constants that the sources do not have are omitted."""
    text = "".join(path.read_text() for path in (ROOT / "csrc").rglob("*.*"))
    former = families if (FORMER / "csrc").exists() else ()
    return [
        *(Variant(family) for family in families),
        *(Variant(family, f"{family.upper()}_FORMER", 1) for family in former),
        *(
            Variant(family, constant, value)
            for constant, values in CONSTANTS.items()
            if (family := constant.partition("_")[0].lower()) in families
            if f"FASTFCS_{constant}" in text
            for value in values
        ),
    ]


def build_file(chosen: Sequence[Variant], nvcc: str, architecture: str) -> str:
    """Return the text of build.ninja; only sources that a constant affects are compiled again."""
    functions = "benchmarks/kernel_library.cu", "tests/emulation/functions.h"
    for root in {variant.root for variant in chosen} - {ROOT}:
        for name in functions:  # these include the csrc next to them
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
    flags = f"-O3 -std=c++17 --expt-relaxed-constexpr -Xcompiler -fPIC -arch={architecture}"
    flags += f" -isystem {Path(torch.__file__).parent / 'include'}"
    rules = [
        *("rule object", f"  command = {nvcc} {flags} $define -MMD -MF $out.d -c $in -o $out"),
        *("  depfile = $out.d", "  deps = gcc"),
        *(
            "rule library",
            f"  command = {nvcc} -shared -cudart static -Xlinker -Bsymbolic -o $out $in",
        ),
    ]
    objects, libraries = {}, []
    for variant in chosen:
        linked = []
        kernels = sorted((variant.root / "csrc/cuda").glob("*.cu"))
        for source in [*kernels, variant.root / functions[0]]:
            if source.name in ("ops.cu", "features.cu"):  # without variants
                continue
            of_family = source.stem.partition("_")[0] == variant.family
            own = variant.constant and (of_family or variant.root != ROOT)
            name = f"{source.stem}-{variant.name}.o" if own else f"{source.stem}.o"
            define = f"-DFASTFCS_{variant.name}" if own else ""
            objects[name] = f"build {name}: object {source}\n  define = {define}"
            linked.append(name)
        libraries.append(f"build {variant.path.name}: library {' '.join(linked)}")
    return "\n".join([*rules, *objects.values(), *libraries, ""])


def compile_all(chosen: Sequence[Variant]) -> None:
    """Compile variants in parallel. Failures are printed and leave no library."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/cuda/bin"])
    nvcc = shutil.which("nvcc", path=path)
    if nvcc is None:
        sys.exit("kernel_library.py: nvcc is neither on the PATH nor in /usr/local/cuda/bin")
    listed = re.match(r"(\d+)\.(\d+)", os.environ.get("TORCH_CUDA_ARCH_LIST", ""))
    number = listed.groups() if listed else torch.cuda.get_device_capability()
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second process waits and finds everything compiled
        (FOLDER / "build.ninja").write_text(build_file(chosen, nvcc, "sm_{}{}".format(*number)))
        result = subprocess.run(
            [Path(ninja.BIN_DIR, "ninja"), "-C", FOLDER, "-k", "0"], capture_output=True, text=True
        )
        (FOLDER / "build.log").write_text(result.stdout)
        for failed in re.findall(r"^FAILED: (?:\[.*?\] )?(.*?) *$", result.stdout, re.MULTILINE):
            print(f"{failed} did not compile: {FOLDER}/build.log", flush=True)
            for variant in chosen:  # libraries of earlier sources
                if variant.name in failed or "=" not in failed:
                    variant.path.unlink(missing_ok=True)


class Library:
    """The functions of tests/emulation/functions.h for contiguous tensors, with new results."""

    def __init__(self, functions: ctypes.CDLL) -> None:
        self.functions = functions

    def call(self, name: str, *arguments: Any) -> None:
        function = getattr(self.functions, name)
        function.restype = ctypes.c_char_p
        message = function(*map(_argument, arguments))
        if message is not None:
            raise RuntimeError(message.decode())

    def factors(self, image: Tensor) -> Tensor:
        _, _, height, width = image.shape
        factors = image.new_empty(1, 9, height - 2, width - 2)  # no variant stores more
        kind = str(image.dtype).removeprefix("torch.")
        self.call(f"matting_factors_{kind}", image, factors, 1, height, width, 1e-7)
        return factors

    def filter(self, image: Tensor, factors: Tensor, x: Tensor, coefficients: Tensor) -> Tensor:
        result, buffers = torch.empty_like(x), x.new_empty(2, *x.shape)
        arguments = (image, factors, x, coefficients, len(coefficients) - 1, result, buffers)
        kind = str(x.dtype).removeprefix("torch.")
        self.call(f"matting_filter_{kind}", *arguments, *x.shape)
        return result

    def correction(self, h: Tensor, target: Tensor, kind: str) -> Tensor:
        result = torch.empty_like(h)
        arguments = (h, target, result, self._workspace(1, h))
        self.call(f"gram_correction_{kind}", *arguments, *h.shape, len(target))
        return result

    def backward(self, h: Tensor, target: Tensor, grad: Tensor, kind: str) -> Tensor:
        dh, dtarget = torch.empty_like(h), torch.empty_like(target)
        arguments = (h, target, grad, dh, dtarget, self._workspace(2, h))
        self.call(f"gram_correction_backward_{kind}", *arguments, *h.shape, len(target))
        return dh

    def _workspace(self, operation: int, h: Tensor) -> Tensor:
        self.functions.workspace.restype = ctypes.c_long
        elements = self.functions.workspace(operation, *map(ctypes.c_long, h.shape))
        return torch.empty(elements, device=h.device)


def _argument(value: Any) -> Any:
    if isinstance(value, Tensor):
        assert value.is_contiguous()
        return ctypes.c_void_p(value.data_ptr())
    return ctypes.c_double(value) if isinstance(value, float) else ctypes.c_long(value)


def correction_in_float64(h: Tensor, target: Tensor) -> Tensor:
    h = h.double()
    return (torch.bmm(h, h.mT) / h.shape[-1] - target.double()).mT @ h


def backward_in_float64(h: Tensor, target: Tensor, grad: Tensor) -> Tensor:
    h, grad, n = h.double(), grad.double(), h.shape[-1]
    s = torch.bmm(h, grad.mT)
    return (torch.bmm(h, h.mT) / n - target.double()) @ grad + (s + s.mT) @ h / n


def error(actual: Tensor, expected: Tensor) -> float:
    """The relative error."""
    return float((actual.double() - expected).norm() / expected.norm())


def attempt(
    library: Library,
    family: str,
    device: str,
    sizes: Sequence[tuple[int, int]],
    channels: Sequence[int],
) -> None:
    """Compare every timed function of a family with float64; check that it writes all results."""
    from fastfcs import ops  # imported here, since compiling must not need a built fastfcs

    torch.use_deterministic_algorithms(True, warn_only=True)  # fills new tensors with NaN

    def close(name: str, actual: Tensor, expected: Tensor, bound: float) -> None:
        print(f"{name}: relative error {error(actual, expected):.1e}", flush=True)
        assert error(actual, expected) < bound, name

    for height, width in sizes:
        if family == "matting":
            for c in channels:
                image = torch.rand(1, 3, height, width)
                x = torch.rand(1, c, height, width)
                coefficients = torch.randn(21, dtype=torch.float64)
                inputs = image.double(), x.double()
                expected = ops.matting_filter(
                    inputs[0], ops.matting_factors(inputs[0]), inputs[1], coefficients
                )
                image, x = image.to(device), x.to(device)
                actual = library.filter(image, library.factors(image), x, coefficients)
                close(f"filter {height} x {width}, {c} channels", actual.cpu(), expected, 1e-4)
            continue
        for kind, dtype in TYPES.items():
            for c in channels:
                h, grad = (torch.randn(2, c, height * width, device=device) for _ in range(2))
                h, grad = h.to(dtype), grad.to(dtype)
                target = torch.randn(1, c, c, device=device)
                size = f"{kind}, {c} channels, {height * width} pixels"
                actual = library.correction(h, target, kind)
                expected = correction_in_float64(h, target)
                close(f"correction {size}", actual, expected, CLOSE[kind])
                actual = library.backward(h, target, grad, kind)
                expected = backward_in_float64(h, target, grad)
                close(f"backward {size}", actual, expected, CLOSE[kind])


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawTextHelpFormatter)
    parser.add_argument("variant", nargs="?")
    parser.add_argument("--dry-run", action="store_true", help="compile nothing, need no device")
    arguments = parser.parse_args()
    known = {variant.name: variant for variant in variants()}
    if arguments.variant is not None and arguments.variant not in known:
        parser.error(f"VARIANT must be one of {', '.join(known)}, got {arguments.variant}")
    if arguments.dry_run:
        print(f"would compile {', '.join(known)}")
    elif arguments.variant is None:
        compile_all(list(known.values()))
    else:
        variant = known[arguments.variant]
        torch.manual_seed(0)
        sizes, channels = ((131, 257), (256, 256)), (16, 32, 64, 96, 128, 256)
        if variant.family == "matting":
            channels = (1, 2, 3)
        attempt(Library(ctypes.CDLL(str(variant.path))), variant.family, "cuda", sizes, channels)


if __name__ == "__main__":
    main()
