"""gate, halve and their adjoints, against torch's own operators in float64."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.library import opcheck
from torch.nn import functional as F

from fastfcs import ops

SLOPE = 0.2
TOLERANCE = {
    torch.float64: 1e-13,
    torch.float32: 1e-6,
    torch.float16: 2e-3,
    torch.bfloat16: 2e-2,
}
SHAPES = [(1, 16, 7, 9), (2, 3, 1, 1), (1, 1, 5, 2), (1, 700, 3, 5), (3, 8, 4, 130), (2, 24, 1, 6)]
FORWARD = {ops.gate: ops.gate_backward, ops.halve: ops.halve_backward}
Operator = Callable[[Tensor, Tensor, float], Tensor]


def reference(operator: Operator, x: Tensor, by: Tensor) -> Tensor:
    gated = torch.where(by.double() > 0, x, SLOPE * x)
    if operator is ops.halve:
        gated = F.avg_pool2d(gated, 2, ceil_mode=True, count_include_pad=False)
    return F.pad(gated, (1, 1, 1, 1), mode="replicate")


def layouts(x: Tensor) -> dict[str, Tensor]:
    """The same features in every layout; `inside` is a slice whose rows lie apart."""
    padded = F.pad(x.double(), (1, 1, 1, 1), value=torch.nan).to(x.dtype)
    padded = padded.contiguous(memory_format=torch.channels_last)
    return {
        "contiguous": x.contiguous(),
        "channels_last": x.contiguous(memory_format=torch.channels_last),
        "inside": padded[:, :, 1:-1, 1:-1],
        "transposed": x.mT.contiguous().mT,
    }


def random(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("operator", FORWARD)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES)
def test_results_and_adjoints(
    operator: Operator, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    x, by = random(shape, dtype), random(shape, dtype)
    wide = x.double().requires_grad_()
    expected = reference(operator, wide, by)
    grad = random(tuple(expected.shape), dtype)
    (expected_grad,) = torch.autograd.grad(expected, wide, grad.double())
    close = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    for (name, x_in), by_in in zip(layouts(x).items(), layouts(by).values(), strict=True):
        result = operator(x_in, by_in, SLOPE)
        assert result.dtype == dtype
        assert result.is_contiguous(memory_format=torch.channels_last), name
        torch.testing.assert_close(result.double(), expected, **close)
        for of_grad in layouts(grad).values():
            backward = FORWARD[operator](of_grad, by_in, SLOPE)
            torch.testing.assert_close(backward.double(), expected_grad, **close)


def test_the_leaky_relu_gates_itself() -> None:
    x = random((1, 5, 6, 7), torch.bfloat16)
    expected = F.leaky_relu(x.double(), SLOPE).bfloat16()
    assert torch.equal(ops.gate(x, x)[:, :, 1:-1, 1:-1], expected)
    assert torch.equal(ops.gate(x, x, 1.0)[:, :, 1:-1, 1:-1], x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_zeros_and_nans_are_gated_as_by_torch(dtype: torch.dtype) -> None:
    by = torch.tensor([0.0, -0.0, torch.nan, -torch.nan, torch.inf, -torch.inf], dtype=dtype)
    x = torch.ones(1, 1, 1, 6, dtype=dtype)
    expected = torch.where(by > 0, x, (SLOPE * x.float()).to(dtype))
    assert torch.equal(ops.gate(x, by.view_as(x))[:, :, 1:-1, 1:-1], expected)
    assert ops.gate(by.view_as(x), x)[0, 0, 1, 3].isnan()


@pytest.mark.parametrize("operator", [*FORWARD, *FORWARD.values()])
def test_gradients_of_both_orders(operator: Operator) -> None:
    by = random((2, 3, 5, 4))
    shape = {
        ops.gate: (2, 3, 5, 4),
        ops.halve: (2, 3, 5, 4),
        ops.gate_backward: (2, 3, 7, 6),
        ops.halve_backward: (2, 3, 5, 4),
    }[operator]
    x = random(shape).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: operator(x, by, SLOPE), x)
    assert torch.autograd.gradgradcheck(lambda x: operator(x, by, SLOPE), x)


@pytest.mark.parametrize("name", ["gate", "halve", "gate_backward", "halve_backward"])
def test_operators_pass_opcheck(name: str) -> None:
    by = random((1, 3, 4, 6), torch.float32)
    shape = {"gate_backward": (1, 3, 6, 8), "halve_backward": (1, 3, 4, 5)}
    x = random(shape.get(name, (1, 3, 4, 6)), torch.float32).requires_grad_()
    opcheck(getattr(torch.ops.fastfcs, name).default, (x, by, SLOPE))


@pytest.mark.parametrize("operator", FORWARD)
def test_results_do_not_depend_on_the_number_of_threads(operator: Operator) -> None:
    x, by = random((1, 16, 61, 83), torch.bfloat16), random((1, 16, 61, 83), torch.bfloat16)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 3):
            torch.set_num_threads(count)
            result = operator(x, by, SLOPE)
            results += [(result, FORWARD[operator](result, by, SLOPE))]
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_an_empty_batch_has_an_empty_result() -> None:
    x = torch.empty(0, 4, 3, 5)
    assert ops.gate(x, x).shape == (0, 4, 5, 7)
    assert ops.halve(x, x).shape == (0, 4, 4, 5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: ops.gate(x, x[:, :1]), "by must have x's shape (1, 2, 4, 6), got (1, 1, 4, 6)"),
        (lambda x: ops.gate(x, x.half()), "by must have x's dtype float32, got float16"),
        (lambda x: ops.gate(x[0], x), "x must have shape (B, C, H, W) with C, H and W at least 1"),
        (lambda x: ops.halve(x, x, torch.inf), "slope must be finite, got inf"),
        (lambda x: ops.halve(x.int(), x.int()), "x must be float16, bfloat16, float32 or float64"),
        (
            lambda x: ops.gate_backward(x, x),
            "grad must have shape (1, 2, 6, 8) for by (1, 2, 4, 6), got (1, 2, 4, 6)",
        ),
        (
            lambda x: ops.halve_backward(x, x),
            "grad must have shape (1, 2, 4, 5) for by (1, 2, 4, 6), got (1, 2, 4, 6)",
        ),
    ],
)
def test_wrong_arguments_raise_one_sentence(call: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        call(torch.rand(1, 2, 4, 6))
