"""Emulated kernels on arrays of more than 2^31 elements, almost all of them zero and never touched.

Only the blocks at the beginning, in the middle and at the end of each grid run. The compiler's
sanitizer reports signed integers that overflow, its warnings 64-bit numbers that become 32 bits.
"""

import ctypes
import mmap
import re
from collections.abc import Iterator
from math import prod
from pathlib import Path

import pytest
import reference
import test_feature_kernels as formulas
import torch
from emulated import EPS, Kernels, needs_compiler
from reference import relative_error
from torch import Tensor

pytestmark = needs_compiler

MAP_NORESERVE = 0x4000  # a flag of Linux, which mmap names from Python 3.12 on


def sparse(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Zeros that take no memory until they are written."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
    memory = mmap.mmap(-1, prod(shape) * dtype.itemsize, flags=flags)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


@pytest.fixture
def edges(library: ctypes.CDLL) -> Iterator[ctypes.CDLL]:
    """Kernels that run only the edges of their grids: 64 blocks, or the number that a test sets."""
    library.set_order(ctypes.c_long(0))
    library.set_edges(ctypes.c_long(64))
    yield library
    library.set_edges(ctypes.c_long(0))
    library.set_gram_blocks(ctypes.c_long(1584))
    library.set_device(*map(ctypes.c_long, (132, 228 * 1024, 227 * 1024)))


def test_no_offset_is_narrowed(emulation: Path) -> None:
    log = (emulation / "build.log").read_text()
    narrowed = re.findall(r".*conversion from .* to '(?:unsigned )?(?:int|short|char)'.*", log)
    assert not narrowed, "\n".join(narrowed)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((2**23 + 3, 16, 1, 17), torch.float32),
        ((2**23 + 3, 16, 1, 20), torch.float32),
        ((2**23 + 3, 16, 1, 24), torch.float16),
    ],
)
def test_gram_of_a_large_batch(
    edges: ctypes.CDLL, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    """More than 2^31 features and entries of Gram matrices; only the last element is not zero."""
    batch, channels, _, pixels = shape
    h, grad, dh = (sparse(*shape, dtype=dtype) for _ in range(3))
    target, dtarget = (sparse(batch, channels, channels) for _ in range(2))
    for tensor in (h, grad, target):
        tensor[-1] = torch.randn(tensor[-1].shape).to(dtype)
    edges.workspace.restype = ctypes.c_long
    elements = edges.workspace(2, *map(ctypes.c_long, (batch, channels, pixels)))
    workspace = sparse(elements)
    kernels = Kernels(edges)
    suffix = str(dtype).removeprefix("torch.")
    sizes = (batch, channels, pixels, batch)
    arrays = (h, target, grad, dh, dtarget, workspace)
    kernels.call(f"gram_correction_backward_{suffix}", *arrays, *sizes)
    expected = reference.gram_correction_backward(h[-1:], target[-1:], grad[-1:])
    tolerance = 2e-6 if dtype == torch.float32 else 1e-3
    for actual, exact in zip((dh[-1:], dtarget[-1:]), expected, strict=True):
        assert (actual.double() - exact).norm() < tolerance * exact.norm()


@pytest.mark.parametrize(
    ("channels", "pixels", "dtype"),
    [
        (17, 5 * 2**26 + 64, torch.float32),
        (17, 5 * 2**26 + 65, torch.float32),
        (17, 5 * 2**26 + 64, torch.float16),
        (1, 2**31 + 64, torch.float32),
    ],
)
def test_gram_of_many_pixels(
    edges: ctypes.CDLL, channels: int, pixels: int, dtype: torch.dtype
) -> None:
    """Rows of a tile lie 2^31 apart, or are longer. Many blocks run, so that each does little."""
    edges.set_edges(ctypes.c_long(25))
    edges.set_gram_blocks(ctypes.c_long(2**17 if channels > 1 else 2**21))
    edges.set_device(*map(ctypes.c_long, (10**6, 228 * 1024, 227 * 1024)))
    h, grad, dh = (sparse(1, channels, 1, pixels, dtype=dtype) for _ in range(3))
    target, dtarget = torch.randn(2, 1, channels, channels)
    ends = [*range(40), *range(pixels - 40, pixels)]  # pixels that are not zero
    for tensor in (h, grad):
        tensor[..., ends] = torch.randn(1, channels, 1, 80).to(dtype)
    edges.workspace.restype = ctypes.c_long
    workspace = sparse(edges.workspace(2, *map(ctypes.c_long, (1, channels, pixels))))
    arrays = (h, target, grad, dh, dtarget, workspace)
    suffix = str(dtype).removeprefix("torch.")
    name = f"gram_correction_backward_{suffix}"
    Kernels(edges).call(name, *arrays, 1, channels, pixels, 1)
    _, expected = reference.gram_correction_backward(h[..., ends], target, grad[..., ends])
    assert (dtarget - expected).norm() < 2e-6 * expected.norm()
    # G is divided by the number of pixels, so that it vanishes in the rounding of the target.
    expected = -target[0].double() @ grad[0, :, 0, ends].double()
    tolerance = 2e-6 if dtype == torch.float32 else 1e-3
    assert (dh[0, :, 0, ends] - expected).norm() < tolerance * expected.norm()


@pytest.mark.parametrize("shape", [(2**25 + 1, 5, 5), (1, 46400, 46400)])
def test_matting(edges: ctypes.CDLL, shape: tuple[int, int, int]) -> None:
    """A large batch, and planes of more than 2^31 pixels; the last corner is not zero."""
    batch, height, width = shape
    size = min(height, 20)
    edges.set_edges(ctypes.c_long(2))
    image, x, out = (sparse(batch, 3, height, width) for _ in range(3))
    factors = sparse(batch, 6, height - 2, width - 2)
    corner = (slice(-1, None), slice(None), slice(-size, None), slice(-size, None))
    image[corner], x[corner] = torch.rand(2, 1, 3, size, size)
    kernels = Kernels(edges)
    kernels.call("matting_factors_float32", image, factors, batch, height, width, EPS)
    edges.set_edges(ctypes.c_long(0))
    every = kernels.factors(image[corner].contiguous())
    assert torch.equal(factors[-1:, :, -1, 2 - size :], every[..., -1, :])
    factors[-1:, :, 2 - size :, 2 - size :] = every  # those of the blocks that did not run
    edges.set_edges(ctypes.c_long(1))
    kernels.call("matting_matvec_float32", image, factors, x, out, batch, 3, height, width)
    expected = reference.matting_matvec(image[corner], x[corner], EPS)
    # Windows beyond the corner, which are not among the reference's, are left out.
    inner = slice(None) if size == height else slice(2, None)
    actual = out[corner][..., inner, inner].double()
    assert (actual - expected[..., inner, inner]).norm() < 2e-5 * expected.norm()
    if size == height:
        buffers = sparse(2, *x.shape)
        coefficients = torch.randn(4, dtype=torch.float64)
        arrays = (image, factors, x, coefficients, 3, out, buffers)
        kernels.call("matting_filter_float32", *arrays, batch, 3, height, width)
        expected = reference.matting_filter(image[corner], x[corner], coefficients, EPS)
        assert (out[corner].double() - expected).norm() < 2e-5 * expected.norm()


def pixels_of(*shape: int, dtype: torch.dtype = torch.float16) -> Tensor:
    """Zeros (B,C,H,W) in channels_last memory."""
    batch, channels, height, width = shape
    return sparse(batch, height, width, channels, dtype=dtype).permute(0, 3, 1, 2)


def corner(size: int) -> tuple[slice, ...]:
    """The last pixels of the last batch element."""
    return (slice(-1, None), slice(None), slice(-size, None), slice(-size, None))


@pytest.mark.parametrize("name", formulas.PASSES)
@pytest.mark.parametrize("shape", [(2**24 + 3, 16, 3, 3), (1, 1, 46400, 46400)])
def test_passes(edges: ctypes.CDLL, name: str, shape: tuple[int, ...]) -> None:
    """A large batch, and planes of more than 2^31 pixels; the last corner is not zero."""
    backward = name.endswith("backward")
    padded = formulas.padded_size(name, shape)
    x, by = pixels_of(*(padded if backward else shape)), pixels_of(*shape)
    out = pixels_of(*(shape if backward else padded))
    size = min(shape[2], 40)
    gates = by[corner(size)]
    values = x[corner(formulas.padded_size(name, gates.shape)[2] if backward else size)]
    for tensor in (values, gates):
        tensor.copy_(torch.randn(tensor.shape))
    pitches = [pitch for tensor in (x, by) for pitch in (tensor.stride(2), tensor.stride(0))]
    arguments = (x, by, out, *shape, *pitches, formulas.SLOPE)
    Kernels(edges).call(f"{name}_float16", *arguments)
    expected = formulas.expected(name, values, gates)
    actual = out[-1:, :, -1, -3:]  # apart from what lies beyond the corner
    assert relative_error(actual, expected[:, :, -1, -3:]) < 5e-4


@pytest.mark.parametrize("shape", [(2**26 + 3, 16, 1, 3), (1, 1, 46400, 46400)])
def test_level_gradient(edges: ctypes.CDLL, shape: tuple[int, ...]) -> None:
    edges.set_edges(ctypes.c_long(9))
    edges.set_device(*map(ctypes.c_long, (10**6, 228 * 1024, 227 * 1024)))
    batch, channels, height, width = shape
    h, out = pixels_of(*shape), pixels_of(batch, channels, height + 2, width + 2)
    coarse = pixels_of(batch, channels, (height + 1) // 2, (width + 1) // 2)
    weights = torch.randn(1, channels, channels)
    fine, below = h[corner(40)], coarse[corner(20)]
    for tensor in (fine, below):
        tensor.copy_(torch.randn(tensor.shape))
    arguments = (h, weights, coarse, out, *shape, 1, formulas.SLOPE)
    Kernels(edges).call("level_gradient_float16", *arguments)
    expected = formulas.level_gradient(fine, weights, below)
    actual = out[-1:, :, -1, -3:]
    assert relative_error(actual, expected[:, :, -1, -3:]) < 5e-4
