"""The emulation of the CUDA kernels (tests/emulation), compiled, and its kernels as functions."""

import ctypes
import math
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
KERNELS = sorted((ROOT / "csrc/cuda").glob("*.cu"))
# Without the file that registers the operators, which needs a whole torch and no emulation.
EMULATED = [source for source in KERNELS if source.name != "ops.cu"]
TORCH_HEADERS = Path(torch.__file__).parent / "include"
COMPILER = shutil.which("c++")

MARGIN = 128  # elements of NaN before and after every array that a kernel is given
EPS = 1e-7

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler (c++) found")


def build(folder: Path) -> ctypes.CDLL:
    path = folder / "kernels.so"
    options = [
        "-std=c++17",
        "-O1",
        "-U_FORTIFY_SOURCE",  # its longjmp refuses to change stacks
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-unknown-pragmas",
        "-DFASTFCS_GRAM_BLOCKS=::emulation::gram_blocks",
        "-fPIC",
        "-shared",
    ]
    includes = [f"-I{ROOT / 'tests/emulation'}", f"-I{TORCH_HEADERS}"]
    sources = [ROOT / "tests/emulation/kernels.cpp", *EMULATED]
    subprocess.run([COMPILER, *options, *includes, "-x", "c++", *sources, "-o", path], check=True)
    return ctypes.CDLL(str(path))


class Kernels:
    """The emulated kernels: arrays lie between margins of NaN, threads run in both orders."""

    def __init__(self, library: ctypes.CDLL, tf32: bool = False) -> None:
        self.library = library
        self.tf32 = tf32  # of the Gram kernels, given float32

    def call(self, name: str, *arguments: object) -> None:
        function = getattr(self.library, name)
        function.restype = ctypes.c_char_p
        message = function(*map(self._c, arguments))
        if message is not None:
            raise RuntimeError(message.decode())

    @staticmethod
    def _c(value: object) -> object:
        if isinstance(value, Tensor):
            return ctypes.c_void_p(value.data_ptr())
        return ctypes.c_double(value) if isinstance(value, float) else ctypes.c_long(int(value))

    def run(
        self, name: str, inputs: list[object], outputs: list[Tensor], sizes: list[int]
    ) -> list[Tensor]:
        """The outputs, once the margins are intact and the order of the threads does not matter."""
        runs = []
        for reverse in (False, True):
            self.library.set_reversed(ctypes.c_bool(reverse))
            given = [_between_margins(v) if isinstance(v, Tensor) else v for v in inputs]
            results = [_between_margins(v) for v in outputs]
            suffix = "tf32" if self.tf32 else _suffix(inputs)
            self.call(f"{name}_{suffix}", *given, *results, *sizes)
            for tensor in results:
                assert _margins_intact(tensor), f"{name} wrote outside its output"
            runs.append(results)
        for one, other in zip(*runs, strict=True):
            assert torch.equal(one.nan_to_num(), other.nan_to_num()), (
                f"{name} depends on the order of its threads"
            )
        return runs[0]

    def factors(self, image: Tensor) -> Tensor:
        batch, _, height, width = image.shape
        empty = torch.full((batch, 9, height - 2, width - 2), math.nan, dtype=image.dtype)
        # eps comes last in the C function
        return self.run("matting_factors", [image], [empty], [batch, height, width, EPS])[0]

    def matvec(self, image: Tensor, factors: Tensor, x: Tensor) -> Tensor:
        return self.run(
            "matting_matvec", [image, factors, x], [torch.full_like(x, math.nan)], list(x.shape)
        )[0]

    def filter(self, image: Tensor, factors: Tensor, x: Tensor, coefficients: Tensor) -> Tensor:
        order = len(coefficients) - 1
        inputs = [image, factors, x, coefficients, order]
        buffers = torch.full((2 if order > 1 else 0, *x.shape), math.nan, dtype=x.dtype)
        outputs = [torch.full_like(x, math.nan), buffers]
        return self.run("matting_filter", inputs, outputs, list(x.shape))[0]

    def _gram_sizes(self, kind: int, h: Tensor) -> tuple[list[int], Tensor]:
        batch, channels, height, width = h.shape
        sizes = [batch, channels, height * width]
        self.library.workspace.restype = ctypes.c_long
        elements = self.library.workspace(kind, *map(ctypes.c_long, sizes))
        return sizes, torch.full((elements,), math.nan, dtype=gram_dtype(h))

    def gram(self, h: Tensor) -> Tensor:
        sizes, workspace = self._gram_sizes(0, h)
        out = torch.full((h.shape[0], h.shape[1], h.shape[1]), math.nan, dtype=gram_dtype(h))
        return self.run("gram", [h], [out, workspace], sizes)[0]

    def correction(self, h: Tensor, target: Tensor) -> Tensor:
        sizes, workspace = self._gram_sizes(1, h)
        outputs = [torch.full_like(h, math.nan), workspace]
        return self.run("gram_correction", [h, target], outputs, [*sizes, len(target)])[0]

    def backward(self, h: Tensor, target: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        sizes, workspace = self._gram_sizes(2, h)
        outputs = [torch.full_like(h, math.nan), torch.full_like(target, math.nan), workspace]
        dh, dtarget, _ = self.run(
            "gram_correction_backward", [h, target, grad], outputs, [*sizes, len(target)]
        )
        return dh, dtarget


def _between_margins(tensor: Tensor) -> Tensor:
    flat = torch.full((tensor.numel() + 2 * MARGIN,), math.nan, dtype=tensor.dtype)
    middle = flat[MARGIN : MARGIN + tensor.numel()].view(tensor.shape)
    return middle.copy_(tensor)


def _margins_intact(tensor: Tensor) -> bool:
    whole = torch.tensor([], dtype=tensor.dtype).set_(tensor.untyped_storage())
    return bool(whole[:MARGIN].isnan().all() and whole[MARGIN + tensor.numel() :].isnan().all())


def _suffix(inputs: list[object]) -> str:
    assert isinstance(inputs[0], Tensor)
    return str(inputs[0].dtype).removeprefix("torch.")


def gram_dtype(h: Tensor) -> torch.dtype:
    return torch.float64 if h.dtype == torch.float64 else torch.float32
