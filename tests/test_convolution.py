"""The convolution in tiles and by Winograd's algorithm, against torch's in float64."""

import re

import pytest
import torch
from torch import Tensor
from torch.library import opcheck
from torch.nn import functional as F

from fastfcs import _C, ops
from fastfcs.network import Convolution

ERROR = {False: 5e-7, True: 1e-5}  # root mean square, relative to that of the result
SIZES = [  # batch, inputs, outputs, height, width
    (1, 1, 1, 1, 1),
    (2, 3, 16, 5, 7),
    (1, 16, 3, 4, 17),
    (3, 5, 40, 2, 33),
    (1, 24, 31, 6, 48),
    (1, 96, 64, 70, 100),  # more rows than a piece
]


def operands(batch: int, inputs: int, outputs: int, height: int, width: int) -> list[Tensor]:
    torch.manual_seed(0)
    x = torch.randn(batch, inputs, height + 2, width + 2)
    return [x, torch.randn(outputs, inputs, 3, 3), torch.randn(outputs)]


def exact(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.conv2d(x.double(), weight.double(), None if bias is None else bias.double())


def relative_error(result: Tensor, expected: Tensor) -> float:
    return float((result - expected).norm() / expected.norm())


@pytest.mark.parametrize("tiles", ERROR)
@pytest.mark.parametrize("size", SIZES)
def test_results(size: tuple[int, ...], tiles: bool) -> None:
    x, weight, bias = operands(*size)
    result = ops.convolution(x, weight, bias, tiles)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert relative_error(result, exact(x, weight, bias)) < ERROR[tiles]
    without = ops.convolution(x, weight, None, tiles)
    assert relative_error(without, exact(x, weight, None)) < ERROR[tiles]


def test_tiles_serve_by_default_where_there_are_any() -> None:
    x, weight, bias = operands(1, 16, 24, 9, 11)
    tiles = _C.build_info()["cpu"] == "amx"
    faster = ops.convolution(x, weight, bias, None)
    assert torch.equal(faster, ops.convolution(x, weight, bias, tiles))
    assert not torch.equal(faster, ops.convolution(x, weight, bias, not tiles))


def test_errors_against_those_of_torch() -> None:
    x, weight, _ = operands(1, 96, 32, 20, 20)
    expected = exact(x, weight, None)
    winograd, tiles = (ops.convolution(x, weight, tiles=tiles) for tiles in ERROR)
    assert relative_error(winograd, expected) < 2 * relative_error(F.conv2d(x, weight), expected)
    half = F.conv2d(x.bfloat16(), weight.bfloat16())
    assert 100 * relative_error(tiles, expected) < relative_error(half, expected)


@pytest.mark.parametrize("tiles", [True, False])
def test_values_of_every_magnitude(tiles: bool) -> None:
    x, weight, _ = operands(1, 16, 16, 9, 9)
    for scale in (1e-30, 1e30):
        result = ops.convolution(scale * x, weight, tiles=tiles)
        assert relative_error(result / scale, exact(x, weight, None)) < ERROR[tiles]


@pytest.mark.parametrize("tiles", [True, False])
def test_layouts_and_strides_change_nothing(tiles: bool) -> None:
    x, weight, bias = operands(2, 17, 20, 6, 9)
    expected = ops.convolution(x, weight, bias, tiles=tiles)
    wide = F.pad(x, (1, 1, 1, 1), value=torch.nan).contiguous(memory_format=torch.channels_last)
    inputs = x.contiguous(memory_format=torch.channels_last), wide[:, :, 1:-1, 1:-1]
    mirrored = weight.transpose(0, 1).contiguous().transpose(0, 1)
    biases = torch.stack([bias, bias], 1)
    for other in inputs:
        assert torch.equal(ops.convolution(other, mirrored, biases[:, 0], tiles=tiles), expected)


@pytest.mark.parametrize("tiles", [True, False])
def test_nan_stays_near_the_pixels_that_see_it(tiles: bool) -> None:
    x, weight, _ = operands(1, 16, 16, 7, 40)
    x[0, 3, 4, 20] = torch.nan
    is_nan = ops.convolution(x, weight, tiles=tiles).isnan().all(1)[0]
    assert is_nan[2:5, 18:21].all()
    assert is_nan.sum() <= 16  # a tile reads one more pixel, and a cell spreads it to four


def test_gradients_are_those_of_float32() -> None:
    x, weight, bias = (t.requires_grad_() for t in operands(1, 4, 5, 6, 7))
    grad = torch.randn(1, 5, 6, 7)
    ours = torch.autograd.grad(ops.convolution(x, weight, bias), (x, weight, bias), grad)
    theirs = torch.autograd.grad(F.conv2d(x, weight, bias), (x, weight, bias), grad)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)
    (of_x,) = torch.autograd.grad(ops.convolution(x, weight.detach()), x, grad)
    torch.testing.assert_close(of_x, theirs[0])


def test_second_gradients_are_those_of_torch() -> None:
    results = []
    for convolve in (ops.convolution, F.conv2d):
        x, weight, bias = (t.requires_grad_() for t in operands(1, 4, 5, 6, 7))
        result = convolve(x, weight, bias)
        (of_x,) = torch.autograd.grad(result.square().sum(), x, create_graph=True)
        results.append(torch.autograd.grad(of_x.square().sum(), (x, weight, bias)))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-2)


def test_opcheck() -> None:
    x, weight, bias = operands(1, 4, 5, 6, 7)
    for arguments in ((x.requires_grad_(), weight, bias, True), (x, weight, None)):
        opcheck(torch.ops.fastfcs.convolution.default, arguments)


def test_torch_convolves_few_channels_and_other_dtypes() -> None:
    x, _, _ = operands(1, 16, 16, 6, 7)
    layer = Convolution(16, 16, bias=True).requires_grad_(False)
    direct = F.conv2d(x, layer.weight, layer.bias)
    assert torch.equal(layer(x), direct)
    assert not torch.equal(layer(x, exact=False), direct)
    layer, wide = layer.double(), x.double()
    assert torch.equal(layer(wide, exact=False), F.conv2d(wide, layer.weight, layer.bias))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"x": (1, 4, 2, 9)},
            "x must have shape (B, C, H + 2, W + 2) with C, H and W at least 1, ",
        ),
        (
            {"weight": (5, 3, 3, 3)},
            "weight must have shape (outputs, 4, 3, 3) for x (1, 4, 8, 9), ",
        ),
        ({"bias": (4,)}, "bias must have shape (5,), got (4,)"),
    ],
)
def test_wrong_arguments_raise(changes: dict[str, tuple[int, ...]], message: str) -> None:
    x, weight, bias = operands(1, 4, 5, 6, 7)
    arguments = {"x": x, "weight": weight, "bias": bias}
    arguments |= {name: torch.zeros(shape) for name, shape in changes.items()}
    with pytest.raises(ValueError, match=re.escape(message)):
        ops.convolution(**arguments)


def test_wrong_dtypes_raise() -> None:
    x, weight, _ = operands(1, 4, 5, 6, 7)
    with pytest.raises(ValueError, match=re.escape("x must be float32, got float64")):
        ops.convolution(x.double(), weight.double())
    message = "weight must have x's dtype float32, got bfloat16"
    with pytest.raises(ValueError, match=re.escape(message)):
        ops.convolution(x, weight.bfloat16())
