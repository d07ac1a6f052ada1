"""The convolution, by all of its algorithms, against torch's in float64."""

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
    (2, 40, 35, 7, 9),
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


@pytest.mark.parametrize("inputs", [15, 16])
def test_tiles_serve_by_default_where_they_are_faster(inputs: int) -> None:
    x, weight, bias = operands(1, inputs, 24, 9, 11)
    tiles = _C.build_info()["cpu"] == "amx" and inputs >= 16
    faster = ops.convolution(x, weight, bias, None)
    assert torch.equal(faster, ops.convolution(x, weight, bias, tiles))
    assert not torch.equal(faster, ops.convolution(x, weight, bias, not tiles))


@pytest.mark.parametrize("tiles", ERROR)
@pytest.mark.parametrize("size", SIZES)
def test_gates(size: tuple[int, ...], tiles: bool) -> None:
    x, weight, bias = operands(*size)
    convolved = ops.convolution(x, weight, bias, tiles)
    relu = ops.gated_convolution(x, weight, bias, slope=0.1, tiles=tiles)
    assert torch.equal(relu, ops.gate(convolved, convolved, 0.1))
    assert relu.is_contiguous(memory_format=torch.channels_last)
    # Gates of any layout, an inner part of a padded array among them.
    by = torch.randn_like(convolved)
    expected = ops.gate(convolved, by, 0.1)
    inner = ops.gate(by, by, 1.0)[:, :, 1:-1, 1:-1]
    for gates in (by.contiguous(), inner):
        result = ops.gated_convolution(x, weight, bias, gates, 0.1, tiles)
        assert torch.equal(result, expected)


@pytest.mark.parametrize("size", SIZES)
def test_bfloat16_is_rounded_once(size: tuple[int, ...]) -> None:
    x, weight, bias = (t.bfloat16() for t in operands(*size))
    expected = exact(x, weight, bias)
    by = torch.randn_like(expected)
    for result, reference in (
        (ops.convolution(x, weight, bias), expected),
        (ops.gated_convolution(x, weight, bias), ops.gate(expected, expected)),
        (ops.gated_convolution(x, weight, bias, by.bfloat16()), ops.gate(expected, by)),
    ):
        assert result.dtype == torch.bfloat16
        torch.testing.assert_close(result.double(), reference, rtol=2**-8, atol=1e-5)


def test_every_number_of_threads_gives_the_same() -> None:
    threads = torch.get_num_threads()
    for inputs in (3, 32):
        for tiles in ERROR:
            x, weight, bias = operands(2, inputs, 33, 61, 83)
            results = []
            for count in (1, 2, 5):
                torch.set_num_threads(count)
                results.append(ops.gated_convolution(x, weight, bias, tiles=tiles))
            torch.set_num_threads(threads)
            assert torch.equal(results[0], results[1])
            assert torch.equal(results[0], results[2])


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


@pytest.mark.parametrize("has_gate", [False, True])
def test_second_gradients_are_those_of_torch(has_gate: bool) -> None:
    def gated(*tensors: Tensor) -> Tensor:
        return ops.gated_convolution(*tensors)

    def leaky(*tensors: Tensor) -> Tensor:
        return F.pad(F.leaky_relu(F.conv2d(*tensors), 0.2), (1, 1, 1, 1), mode="replicate")

    ours, theirs = (gated, leaky) if has_gate else (ops.convolution, F.conv2d)
    results = []
    for convolve in (ours, theirs):
        x, weight, bias = (t.requires_grad_() for t in operands(1, 4, 5, 6, 7))
        result = convolve(x, weight, bias)
        (of_x,) = torch.autograd.grad(result.square().sum(), x, create_graph=True)
        results.append(torch.autograd.grad(of_x.square().sum(), (x, weight, bias)))
    for a, b in zip(*results, strict=True):
        assert relative_error(a, b) < 1e-6


def test_gradients_of_gates_are_those_of_the_steps() -> None:
    by = torch.randn(1, 5, 6, 7)
    grad = torch.randn(1, 5, 8, 9)
    for gates in (None, by):
        x, weight, bias = inputs = [t.requires_grad_() for t in operands(1, 4, 5, 6, 7)]
        ours = torch.autograd.grad(ops.gated_convolution(x, weight, bias, gates), inputs, grad)
        convolved = ops.convolution(x, weight, bias)
        steps = ops.gate(convolved, convolved.detach() if gates is None else gates)
        for a, b in zip(ours, torch.autograd.grad(steps, inputs, grad), strict=True):
            torch.testing.assert_close(a, b)


def test_opcheck() -> None:
    x, weight, bias = operands(1, 4, 5, 6, 7)
    by = torch.randn(1, 5, 6, 7)
    x.requires_grad_()
    for arguments in ((x, weight, bias, True), (x.detach(), weight, None)):
        opcheck(torch.ops.fastfcs.convolution.default, arguments)
    for more in ((bias, None, 0.2, True), (None, by, 0.2)):
        opcheck(torch.ops.fastfcs.gated_convolution.default, (x, weight, *more))


def test_torch_convolves_other_dtypes() -> None:
    x, _, _ = operands(1, 16, 16, 6, 7)
    layer = Convolution(16, 16, bias=True).requires_grad_(False)
    direct = F.conv2d(x, layer.weight, layer.bias)
    assert not torch.equal(layer(x), direct)
    torch.testing.assert_close(layer(x), direct)
    layer, wide = layer.double(), x.double()
    expected = F.conv2d(wide, layer.weight, layer.bias)
    assert torch.equal(layer(wide, exact=False), expected)
    assert torch.equal(layer.gated(wide), ops.gate(expected, expected))


def test_hooks_of_a_layer_see_the_convolution_without_the_gate() -> None:
    x, _, _ = operands(1, 16, 16, 6, 7)
    layer = Convolution(16, 16, bias=True).requires_grad_(False)
    expected = layer.gated(x)
    seen: list[Tensor] = []
    layer.register_forward_hook(lambda _, __, result: seen.append(result))
    assert torch.equal(layer.gated(x), expected)
    assert torch.equal(seen[0], layer(x))


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


def test_wrong_gates_raise() -> None:
    x, weight, _ = operands(1, 4, 5, 6, 7)
    message = "by must have shape (1, 5, 6, 7), that of the convolution of x (1, 4, 8, 9), got "
    with pytest.raises(ValueError, match=re.escape(message + "(1, 5, 8, 9)")):
        ops.gated_convolution(x, weight, by=torch.zeros(1, 5, 8, 9))
    with pytest.raises(ValueError, match="by must have x's dtype float32, got float64"):
        ops.gated_convolution(x, weight, by=torch.zeros(1, 5, 6, 7).double())
    with pytest.raises(ValueError, match="slope must be finite, got nan"):
        ops.gated_convolution(x, weight, slope=torch.nan)


def test_wrong_dtypes_raise() -> None:
    x, weight, _ = operands(1, 4, 5, 6, 7)
    with pytest.raises(ValueError, match="x must be float32 or bfloat16, got float64"):
        ops.convolution(x.double(), weight.double())
    message = "weight must have x's dtype float32, got bfloat16"
    with pytest.raises(ValueError, match=re.escape(message)):
        ops.convolution(x, weight.bfloat16())
