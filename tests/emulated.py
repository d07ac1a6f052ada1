"""Compiles the emulation of the CUDA kernels (tests/emulation) and wraps its functions."""

import ctypes
import fcntl
import importlib.util
import math
import mmap
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
KERNELS = sorted((ROOT / "csrc/cuda").glob("*.cu"))
# All but the file that registers the operators; tests/emulation/ops.cpp includes that one.
EMULATED = [source for source in KERNELS if source.name != "ops.cu"]
TORCH = Path(torch.__file__).parent
TORCH_HEADERS = TORCH / "include"
COMPILER = shutil.which("c++")

LIBC = ctypes.CDLL(None)

EPS = 1e-7
ORDERS = ("forward", "reversed", "shuffled")  # emulation::Order

needs_compiler = pytest.mark.skipif(
    COMPILER is None or importlib.util.find_spec("ninja") is None,
    reason="no C++ compiler (c++) or no ninja found",
)


FLAGS = [
    "-std=c++17",
    "-O1",
    "-U_FORTIFY_SOURCE",  # the fortified longjmp does not allow a change of stacks
    "-fPIC",
    # accesses of 16 bytes, offsets of 32 bits
    "-fsanitize=alignment,signed-integer-overflow",
    "-fno-sanitize-recover=all",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wconversion",
    "-Wno-sign-conversion",
    "-Wno-maybe-uninitialized",  # false positives with sanitizers
    "-Wno-error=conversion",  # see test_no_offset_is_narrowed
    "-Wno-unknown-pragmas",
    "-DFASTFCS_GRAM_BLOCKS=::emulation::gram_blocks",
]


@contextmanager
def alone(folder: Path) -> Iterator[Path]:
    """A folder, created if needed, in which no other process works until the block ends."""
    folder.mkdir(exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def build(folder: Path) -> None:
    """Copies the sources to `folder` and compiles them there."""
    for part in ("csrc", "tests/emulation"):
        shutil.copytree(ROOT / part, folder / part, dirs_exist_ok=True)
    abi = re.search(r"TORCH_ABI = \((\d+), (\d+)\)", (ROOT / "setup.py").read_text())
    flags = [*FLAGS, f"-isystem {TORCH_HEADERS}", "-Itests/emulation"]
    flags += [
        "-DTORCH_TARGET_VERSION=0x{:02x}{:02x}000000000000ull".format(*map(int, abi.groups()))
    ]
    sources = [f"csrc/cuda/{source.name}" for source in EMULATED]
    sources += [
        f"tests/emulation/{name}.cpp" for name in ("ops", "kernels", "sanitizers", "stream")
    ]
    objects = {Path(source).stem: source for source in sources}
    lines = [
        "rule compile",
        f"  command = {COMPILER} {' '.join(flags)} -MMD -MF $out.d -x c++ -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        f"  command = {COMPILER} -shared -o $out $in -L{TORCH / 'lib'} -ltorch_cpu",
        *(f"build {name}.o: compile {source}" for name, source in objects.items()),
        f"build kernels.so: link {' '.join(f'{name}.o' for name in objects)}",
        "build without_stream.so: link "
        + " ".join(f"{name}.o" for name in objects if name not in ("kernels", "stream")),
    ]
    (folder / "build.ninja").write_text("\n".join([*lines, ""]))
    compile(folder)


def compile(folder: Path) -> None:
    """Compiles changed sources in `folder`; the compiler's warnings go to build.log."""
    import ninja

    command = [Path(ninja.BIN_DIR, "ninja"), "-C", folder]
    result = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}
    )
    (folder / "build.log").write_text(result.stdout)
    if result.returncode:
        raise RuntimeError(f"the emulation does not compile:\n{result.stdout}")


class Protected:
    """A copy of an array whose end, or start, is next to a page of memory without access.

    There are `offset` elements of NaN between that page and the array. On the other side, NaN fills
    the rest of a page, which is followed by another page without access. The copy is contiguous or,
    if `strided`, has the array's strides, with NaN between its rows.
    """

    def __init__(self, tensor: Tensor, at_end: bool, offset: int, strided: bool = False) -> None:
        gap = offset * tensor.element_size()
        strides = tensor.stride() if strided else torch.empty(tensor.shape, device="meta").stride()
        last = sum((n - 1) * stride for n, stride in zip(tensor.shape, strides, strict=True))
        nbytes = (last + 1 if tensor.numel() else 0) * tensor.element_size()
        inside = max(-(-(nbytes + gap) // mmap.PAGESIZE), 1) * mmap.PAGESIZE
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        memory = mmap.mmap(-1, inside + 2 * mmap.PAGESIZE, flags=private)
        whole = torch.frombuffer(memory, dtype=torch.uint8)
        for page in (whole.data_ptr(), whole.data_ptr() + mmap.PAGESIZE + inside):
            failed = LIBC.mprotect(ctypes.c_void_p(page), mmap.PAGESIZE, 0)
            assert not failed
        whole = whole[mmap.PAGESIZE : -mmap.PAGESIZE].fill_(0xFF)
        start = inside - gap - nbytes if at_end else gap
        self.margins = whole[:start], whole[start + nbytes :]
        self.bytes = whole[start : start + nbytes]
        elements = self.bytes.view(tensor.dtype)
        self.tensor = elements.as_strided(tensor.shape, strides).copy_(tensor)

    def margins_intact(self) -> bool:
        return all(bool((margin == 0xFF).all()) for margin in self.margins)


class Kernels:
    """The emulated kernels. Every call runs once per order of threads and blocks.

    In the forward order the ends of all arrays are next to protected memory, in the other orders
    their starts. The array number `misaligned`, counted as in the C function's arguments, is
    shifted by `offset` elements.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        tf32: bool = False,
        channels_last: bool = False,
        orders: tuple[str, ...] = ORDERS[:2],
        misaligned: int = 0,
        offset: int = 0,
    ) -> None:
        self.library = library
        self.tf32 = tf32  # for the Gram kernels with float32
        self.channels_last = channels_last  # the layout of features in the Gram kernels
        self.orders = orders
        self.misaligned, self.offset = misaligned, offset

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
        if value is None:
            return ctypes.c_void_p(None)
        if isinstance(value, str):
            return ctypes.c_char_p(value.encode())
        return ctypes.c_double(value) if isinstance(value, float) else ctypes.c_long(int(value))

    def run(
        self,
        name: str,
        inputs: list[object],
        outputs: list[Tensor],
        sizes: list[int | float],
        strided: bool = False,
    ) -> list[Tensor]:
        """The outputs. Fails if they depend on the order or if anything else is written.

        Inputs are passed as contiguous copies or, if `strided`, with their strides.
        """
        suffix = "tf32" if self.tf32 else _suffix(inputs)
        runs = []
        for order in self.orders:
            self.library.set_order(ctypes.c_long(ORDERS.index(order)))
            arrays = [
                Protected(
                    value,
                    order == "forward",
                    self.offset * (i == self.misaligned),
                    strided and i < len(inputs),
                )
                if isinstance(value, Tensor)
                else value
                for i, value in enumerate([*inputs, *outputs])
            ]
            arguments = [a.tensor if isinstance(a, Protected) else a for a in arrays]
            self.call(f"{name}_{suffix}", *arguments, *sizes)
            results = arrays[len(inputs) :]
            for array in results:
                assert array.margins_intact(), f"{name} wrote outside its output"
            runs.append(results)
        for first, *others in zip(*runs, strict=True):
            assert all(torch.equal(first.bytes, other.bytes) for other in others), (
                f"{name} depends on the order of its threads or blocks"
            )
        return [array.tensor for array in runs[0]]

    def factors(self, image: Tensor) -> Tensor:
        batch, _, height, width = image.shape
        empty = torch.full((batch, 6, height - 2, width - 2), math.nan, dtype=image.dtype)
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

    def fit(self, guide: Tensor, signal: Tensor, radius: int, eps: float) -> Tensor:
        batch, _, height, width = guide.shape
        outputs = [torch.full((batch, 12, height, width), math.nan, dtype=guide.dtype)] * 2
        sizes = [batch, height, width, radius, eps]
        return self.run("affine_fit", [guide, signal], outputs, sizes)[1]

    def apply(self, image: Tensor, models: Tensor) -> Tensor:
        """The image may be contiguous or in channels_last memory."""
        interleaved = not image.is_contiguous()
        batch, _, height, width = image.shape
        stored = image.permute(0, 2, 3, 1) if interleaved else image
        sizes = [batch, height, width, interleaved, *models.shape[2:]]
        out = self.run("affine_apply", [stored, models], [torch.zeros_like(stored)], sizes)[0]
        return out.permute(0, 3, 1, 2) if interleaved else out

    def _gram_sizes(self, kind: int, h: Tensor) -> tuple[list[int], Tensor]:
        batch, channels, height, width = h.shape
        sizes = [batch, channels, height * width]
        function = self.library.cross_gram_elements if kind == 3 else self.library.workspace
        function.restype = ctypes.c_long
        arguments = sizes if kind == 3 else [kind, *sizes]
        elements = function(*map(ctypes.c_long, arguments))
        return sizes, torch.full((elements,), math.nan, dtype=gram_dtype(h))

    def _named(self, name: str) -> str:
        return f"{name}_last" if self.channels_last else name

    def _stored(self, h: Tensor) -> Tensor:
        """Features whose contiguous copy has the layout of the kernels."""
        return h.permute(0, 2, 3, 1) if self.channels_last else h

    def _restored(self, stored: Tensor) -> Tensor:
        return stored.permute(0, 3, 1, 2) if self.channels_last else stored

    def gram(self, h: Tensor) -> Tensor:
        sizes, workspace = self._gram_sizes(0, h)
        outputs = [torch.full((*h.shape[:2], h.shape[1]), math.nan, dtype=gram_dtype(h)), workspace]
        return self.run(self._named("gram"), [self._stored(h)], outputs, sizes)[0]

    def cross_gram(self, h: Tensor, g: Tensor) -> Tensor:
        sizes, workspace = self._gram_sizes(3, h)
        outputs = [torch.full((*h.shape[:2], h.shape[1]), math.nan, dtype=gram_dtype(h)), workspace]
        inputs: list[object] = [self._stored(h), self._stored(g)]
        return self.run("cross_gram", inputs, outputs, [*sizes, self.channels_last])[0]

    def correction(self, h: Tensor, target: Tensor) -> Tensor:
        sizes, workspace = self._gram_sizes(1, h)
        h = self._stored(h)
        outputs = [torch.full_like(h, math.nan), workspace]
        name = self._named("gram_correction")
        return self._restored(self.run(name, [h, target], outputs, [*sizes, len(target)])[0])

    def backward(self, h: Tensor, target: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        sizes, workspace = self._gram_sizes(2, h)
        h, grad = self._stored(h), self._stored(grad)
        outputs = [torch.full_like(h, math.nan), torch.full_like(target, math.nan), workspace]
        name = self._named("gram_correction_backward")
        dh, dtarget, _ = self.run(name, [h, target, grad], outputs, [*sizes, len(target)])
        return self._restored(dh), dtarget

    def level(self, h: Tensor, weights: Tensor, coarse: Tensor | None, slope: float) -> Tensor:
        batch, channels, height, width = h.shape
        out = torch.full((batch, height + 2, width + 2, channels), math.nan, dtype=h.dtype)
        inputs = [pixels(h), weights, None if coarse is None else pixels(coarse)]
        sizes = [*h.shape, len(weights), slope]
        return self.run("level_gradient", inputs, [out], sizes)[0].permute(0, 3, 1, 2)

    def between(
        self, name: str, x: Tensor, by: Tensor, size: tuple[int, int], slope: float
    ) -> Tensor:
        """gate, halve or one of their adjoints; x and by may be slices with rows apart."""
        out = torch.full((*by.shape[:1], *size, by.shape[1]), math.nan, dtype=by.dtype)
        pitches = [pitch for tensor in (x, by) for pitch in (tensor.stride(2), tensor.stride(0))]
        sizes = [*by.shape, *pitches, slope]
        inputs: list[object] = [pixels(x), pixels(by)]
        return self.run(name, inputs, [out], sizes, strided=True)[0].permute(0, 3, 1, 2)


def pixels(tensor: Tensor) -> Tensor:
    return tensor.permute(0, 2, 3, 1)


def _suffix(inputs: list[object]) -> str:
    assert isinstance(inputs[0], Tensor)
    return str(inputs[0].dtype).removeprefix("torch.")


def gram_dtype(h: Tensor) -> torch.dtype:
    return torch.float64 if h.dtype == torch.float64 else torch.float32
