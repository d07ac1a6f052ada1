"""Features in channels_last memory on CUDA: the kernels under emulation, and their operators."""

import ctypes
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from emulated import ORDERS, Kernels, gram_dtype, needs_compiler
from reference import relative_error
from torch import Tensor

pytestmark = needs_compiler

TOLERANCE = {  # half a unit in the last place of the result
    torch.float64: 1e-14,
    torch.float32: 1e-6,
    torch.float16: 5e-4,
    torch.bfloat16: 4e-3,
}
SLOPE = 0.2
PASSES = ("gate", "gate_backward", "halve", "halve_backward")
# Heights or widths of 1, odd and even ones; vectors of 16 and 4 bytes and single elements.
SHAPES = [
    (1, 1, 1, 1),
    (3, 3, 5, 6),
    (2, 12, 1, 7),
    (1, 16, 8, 9),
    (2, 31, 6, 1),
    (1, 96, 3, 4),
    (1, 256, 2, 3),
    (3, 8, 7, 11),
]
CASES = [
    (shape, dtype)
    for i, shape in enumerate(SHAPES)
    for dtype in (torch.float64, torch.float32, (torch.float16, torch.bfloat16)[i % 2])
]


def gated(x: Tensor, by: Tensor) -> Tensor:
    return torch.where(by > 0, x.double(), SLOPE * x.double())


def pad(x: Tensor) -> Tensor:
    return F.pad(x, (1, 1, 1, 1), mode="replicate")


def mean(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)


def level_gradient(h: Tensor, weights: Tensor, coarse: Tensor | None) -> Tensor:
    h = h.double()
    result = torch.einsum("bkyx,bkc->bcyx", h, weights.double().expand(len(h), -1, -1))
    if coarse is not None:
        size = h.shape[2:]
        result += gated(F.interpolate(coarse.double(), size, mode="bilinear"), h)
    return pad(result)


def expected(name: str, x: Tensor, by: Tensor) -> Tensor:
    """The passes by torch's own operators; adjoints by its automatic differentiation."""
    forward: Callable[[Tensor], Tensor] = (
        (lambda v: pad(gated(v, by))) if "gate" in name else (lambda v: pad(mean(gated(v, by))))
    )
    if not name.endswith("backward"):
        return forward(x)
    zeros = torch.zeros(by.shape, dtype=torch.float64)
    return torch.autograd.functional.vjp(forward, zeros, x.double())[1]


def last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def padded_size(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a padded result, or of its gradient."""
    batch, channels, height, width = shape
    cells = (-(-height // 2), -(-width // 2)) if "halve" in name else (height, width)
    return batch, channels, cells[0] + 2, cells[1] + 2


def arguments(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x, or the gradient of the padded result, and gates, of which some are zero."""
    backward = name.endswith("backward")
    x = torch.randn(padded_size(name, shape) if backward else shape).to(dtype)
    by = torch.randn(shape).to(dtype)
    by.view(-1)[1::5] = 0
    return last(x), last(by)


def run(kernels: Kernels, name: str, x: Tensor, by: Tensor) -> Tensor:
    size = by.shape[2:] if name.endswith("backward") else padded_size(name, by.shape)[2:]
    return kernels.between(name, x, by, tuple(size), SLOPE)


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize(("shape", "dtype"), CASES)
def test_passes(kernels: Kernels, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, by = arguments(name, shape, dtype)
    actual = run(kernels, name, x, by)
    assert relative_error(actual, expected(name, x, by)) < TOLERANCE[dtype]


def spaced(x: Tensor, row: int, batch: int) -> Tensor:
    """x with `row` elements of NaN after each row and `batch` more after each batch element."""
    elements, channels, height, width = x.shape
    row += width * channels
    batch += height * row
    memory = torch.full((elements * batch,), math.nan, dtype=x.dtype)
    return memory.as_strided(x.shape, (batch, 1, row, channels)).copy_(x)


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize(("channels", "dtype"), [(16, torch.bfloat16), (12, torch.float16)])
def test_passes_of_slices(
    library: ctypes.CDLL, kernels: Kernels, name: str, channels: int, dtype: torch.dtype
) -> None:
    """Rows and batch elements lie apart, by multiples of 16 bytes or not; arrays are shifted."""
    x, by = arguments(name, (3, channels, 5, 6), dtype)
    expected = run(kernels, name, x, by)
    for apart in ((16, 0), (0, 16), (1, 8 - x.shape[2]), (1, 8 - by.shape[2]), (8, 1)):
        assert torch.equal(run(kernels, name, spaced(x, *apart), by), expected)
        assert torch.equal(run(kernels, name, x, spaced(by, *apart)), expected)
    for misaligned in (0, 1, 2):  # x, by or the result
        shifted = Kernels(library, orders=ORDERS, misaligned=misaligned, offset=1)
        assert torch.equal(run(shifted, name, x, by), expected)


def test_gates_are_rounded_once(kernels: Kernels) -> None:
    x, by = arguments("gate", (1, 16, 9, 10), torch.bfloat16)
    assert torch.equal(run(kernels, "gate", x, by), pad(gated(x, by).bfloat16()))
    actual, exact = run(kernels, "halve", x, by), pad(mean(gated(x, by))).bfloat16()
    assert (actual == exact).double().mean() > 0.99  # float32 and float64 may straddle a tie


FEATURES = [*SHAPES[:-1], (1, 64, 9, 20), (2, 130, 7, 10)]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", FEATURES)
def test_level_gradient(kernels: Kernels, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Every second shape has one matrix for the whole batch, the others one per element."""
    batch, channels, height, width = shape
    h = torch.randn(shape).to(dtype)
    h.view(-1)[1::5] = 0
    matrices = 1 if FEATURES.index(shape) % 2 else batch
    weights = torch.randn(matrices, channels, channels).to(gram_dtype(h)) / channels**0.5
    coarse = torch.randn(batch, channels, -(-height // 2), -(-width // 2)).to(dtype)
    for added in (coarse, None):
        actual = kernels.level(h, weights, added, SLOPE)
        exact = level_gradient(h, weights, added)
        assert relative_error(actual, exact) < TOLERANCE[dtype]
        if dtype.itemsize == 2 and h.numel() > 100:  # rounded once
            assert (actual == exact.to(dtype)).double().mean() > 0.95


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", FEATURES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_cross_gram(
    library: ctypes.CDLL, shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool
) -> None:
    kernels = Kernels(library, channels_last=channels_last)
    h, g = torch.randn(2, *shape).to(dtype)
    expected = h.double().flatten(2) @ g.double().flatten(2).mT
    tolerance = 1e-13 if dtype == torch.float64 else 2e-6
    assert relative_error(kernels.cross_gram(h, g), expected) < tolerance
