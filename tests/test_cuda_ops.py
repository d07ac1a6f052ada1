"""csrc/cuda/ops.cu without a GPU: on CPU tensors, with emulated kernels and stand-ins for CUDA.

tests/emulation/ops.cpp registers its operators a second time, in a namespace of their own.
"""

import ctypes
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from emulated import EPS, Kernels, gram_dtype, needs_compiler
from torch import Tensor

cpu = pytest.importorskip("fastfcs.ops", reason="fastfcs is not built")
pytestmark = needs_compiler

STREAM = 4242  # tests/emulation/stream.cpp
NO_DEVICE = -1  # the device index of a CPU tensor, the only one available without a GPU
TOLERANCE = {
    torch.float64: 1e-10,
    torch.float32: 5e-5,
    torch.float16: 2e-3,
    torch.bfloat16: 1.6e-2,
}


@pytest.fixture(scope="module")
def ops(library: ctypes.CDLL) -> object:
    library.register_operators(b"emulated")
    return torch.ops.emulated


@pytest.fixture
def events(library: ctypes.CDLL) -> Callable[[], list[str]]:
    """events() returns the guards, streams and launches since the last call."""
    library.take_events.restype = ctypes.c_char_p

    def take() -> list[str]:
        return library.take_events().decode().splitlines()

    take()
    library.set_order(ctypes.c_long(0))
    return take


def arguments(dtype: torch.dtype, shape: tuple[int, ...] = (2, 20, 7, 9)) -> dict[str, tuple]:
    """Arguments of every operator for a dtype; images are float32 if it is a half type."""
    h, grad = torch.randn(2, *shape).to(dtype)
    target = torch.randn(shape[0], shape[1], shape[1]).to(gram_dtype(h))
    matting = dtype if dtype in (torch.float32, torch.float64) else torch.float32
    image, x = torch.rand(2, 2, 3, 9, 11).to(matting)
    factors = cpu.matting_factors(image, EPS)
    coefficients = torch.randn(4, dtype=torch.float64)
    coarse, padded, halved = (
        torch.randn(*shape[:2], *size).to(dtype) for size in ((4, 5), (9, 11), (6, 7))
    )
    return {
        "matting_factors": (image, EPS),
        "matting_matvec": (image, factors, x),
        "matting_filter": (image, factors, x, coefficients),
        "affine_fit": (image, x, 2, EPS),
        "affine_apply": (image, torch.rand(2, 12, 4, 5).to(matting)),
        "gram": (h,),
        "gram_correction": (h, target),
        "gram_correction_backward": (h, target, grad),
        "cross_gram": (h, grad),
        "level_gradient": (h, target, coarse, 0.2),
        "gate": (h, grad, 0.2),
        "gate_backward": (padded, h, 0.2),
        "halve": (h, grad, 0.2),
        "halve_backward": (halved, h, 0.2),
    }


OPERATORS = list(arguments(torch.float32))
PRODUCTS = OPERATORS[5:10]  # may use tensor cores
PASSES = OPERATORS[9:]  # in channels_last memory


def channels_last(value: object) -> object:
    """Images and features in that layout; matrices and numbers as they are."""
    if isinstance(value, Tensor) and value.dim() == 4:
        return value.contiguous(memory_format=torch.channels_last)
    return value


def results(operator: object, inputs: tuple) -> list[Tensor]:
    outputs = operator(*inputs)
    return list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", OPERATORS)
def test_equals_the_cpu_operator(ops: object, name: str, dtype: torch.dtype) -> None:
    inputs = arguments(dtype)[name]
    outputs = results(getattr(ops, name), inputs)
    expected = results(getattr(cpu, name), inputs)
    assert [tensor.dtype for tensor in outputs] == [tensor.dtype for tensor in expected]
    assert [tensor.shape for tensor in outputs] == [tensor.shape for tensor in expected]
    for actual, reference in zip(outputs, expected, strict=True):
        error = (actual.double() - reference.double()).norm() / reference.double().norm()
        assert error < TOLERANCE[dtype]


@pytest.mark.parametrize("name", OPERATORS)
def test_any_strides(ops: object, name: str) -> None:
    inputs = arguments(torch.float32)[name]
    strided = [
        value.mT.contiguous().mT if isinstance(value, Tensor) and value.dim() > 1 else value
        for value in inputs
    ]
    assert not strided[0].is_contiguous()
    for actual, reference in zip(
        results(getattr(ops, name), tuple(strided)),
        results(getattr(ops, name), inputs),
        strict=True,
    ):
        assert actual.is_contiguous() or name in PASSES
        assert actual.stride() == reference.stride()
        assert torch.equal(actual, reference)


@pytest.mark.parametrize("name", OPERATORS[5:])
def test_features_in_channels_last_memory(ops: object, name: str) -> None:
    """Results of the same layout, also of slices whose rows lie apart."""
    inputs = arguments(torch.float32)[name]
    expected = results(getattr(ops, name), inputs)
    last = tuple(map(channels_last, inputs))
    apart = tuple(
        channels_last(F.pad(value, (0, 1, 0, 2), value=math.nan))[..., :-2, :-1]
        if isinstance(value, Tensor) and value.dim() == 4
        else value
        for value in inputs
    )
    thinned = tuple(  # every second pixel
        channels_last(value.repeat_interleave(2, -1))[..., ::2]
        if isinstance(value, Tensor) and value.dim() == 4
        else value
        for value in inputs
    )
    for stored in (last, apart, thinned):
        outputs = results(getattr(ops, name), stored)
        strides = [tensor.stride() for tensor in results(getattr(cpu, name), stored)]
        assert [tensor.stride() for tensor in outputs] == strides
        for actual, reference in zip(outputs, expected, strict=True):
            assert actual.dim() < 4 or actual.is_contiguous(memory_format=torch.channels_last)
            torch.testing.assert_close(actual, reference, rtol=1e-5, atol=1e-4)


def test_the_layout_chooses_the_kernel(ops: object, library: ctypes.CDLL) -> None:
    """Nothing is copied: the bits are those of the kernels of the layout, and not of the other."""
    h, _ = arguments(torch.float32, (1, 20, 60, 70))["cross_gram"]
    first, last = (Kernels(library, channels_last=layout).gram(h) for layout in (False, True))
    assert not torch.equal(first, last)
    assert torch.equal(ops.gram(h), first)
    assert torch.equal(ops.gram(channels_last(h)), last)


def test_strides_of_single_rows_and_batches_are_ignored(ops: object) -> None:
    x = channels_last(torch.randn(3, 16, 4, 5))[1:2, :, 2:3]
    expected = ops.gate(x.clone(), x.clone(), 0.2)
    odd = x.as_strided(x.shape, (7, 1, 3, 16), x.storage_offset())
    assert torch.equal(ops.gate(odd, odd, 0.2), expected)


def test_strided_coefficients(ops: object) -> None:
    *inputs, coefficients = arguments(torch.float32)["matting_filter"]
    every_second = torch.stack([coefficients, coefficients + 1], -1)[:, 0]
    assert not every_second.is_contiguous()
    actual = ops.matting_filter(*inputs, every_second)
    assert torch.equal(actual, ops.matting_filter(*inputs, coefficients))


def test_one_target_for_all(ops: object) -> None:
    h, target, grad = arguments(torch.float64)["gram_correction_backward"]
    for name, inputs in (
        ("gram_correction", (h, target[:1])),
        ("gram_correction_backward", (h, target[:1], grad)),
        ("level_gradient", (h, target[:1], None, 0.2)),
    ):
        outputs, expected = (results(getattr(module, name), inputs) for module in (ops, cpu))
        for actual, reference in zip(outputs, expected, strict=True):
            assert actual.shape == reference.shape
            assert (actual - reference).norm() < 1e-10 * reference.norm()


LAUNCHES = {
    "matting_factors": ["factors_kernel"],
    "matting_matvec": ["step_kernel"],
    "matting_filter": ["step_kernel"] * 3,
    "affine_fit": ["window_kernel", "model_kernel"],
    "affine_apply": ["affine_kernel"],
    "gram": ["product_kernel", "reduce_kernel"],
    "gram_correction": ["product_kernel", "reduce_kernel", "apply_kernel"],
    "gram_correction_backward": [
        "product_kernel",
        "reduce_kernel",
        "backward_weights_kernel",
        "apply_kernel",
    ],
    "cross_gram": ["product_kernel", "reduce_kernel"],
    "level_gradient": ["apply_tiles_kernel"],
    **{name: [f"{name}_kernel"] for name in ("gate", "gate_backward", "halve", "halve_backward")},
}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", OPERATORS)
def test_launches_on_the_current_stream_within_the_guard(
    ops: object, events: Callable[[], list[str]], name: str, dtype: torch.dtype
) -> None:
    getattr(ops, name)(*arguments(dtype)[name])
    half = dtype in (torch.float16, torch.bfloat16)
    launches = [
        "apply_tiles_kernel" if half and kernel == "apply_kernel" else kernel
        for kernel in LAUNCHES[name]
    ]
    assert events() == [
        f"guard of {NO_DEVICE}",
        f"stream of {NO_DEVICE}",
        *(f"{kernel} on {STREAM}" for kernel in launches),
        "end of guard",
    ]


@pytest.mark.parametrize("name", PRODUCTS)
def test_the_caller_chooses_tf32(ops: object, library: ctypes.CDLL, name: str) -> None:
    inputs = arguments(torch.float32)[name]
    rounded = Kernels(library, tf32=True)
    kernel = getattr(
        rounded,
        name.removeprefix("gram_").removeprefix("correction_").removesuffix("_gradient"),
    )
    expected = results(kernel, inputs)
    outputs = results(lambda *inputs: getattr(ops, name)(*inputs, tf32=True), inputs)
    exact = results(getattr(ops, name), inputs)
    assert all(torch.equal(a, b) for a, b in zip(outputs, expected, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(outputs, exact, strict=True))
    half = arguments(torch.float16)[name]  # float32 alone is rounded to TF32
    outputs = results(lambda *inputs: getattr(ops, name)(*inputs, tf32=True), half)
    assert all(
        torch.equal(a, b) for a, b in zip(outputs, results(getattr(ops, name), half), strict=True)
    )


@pytest.mark.parametrize("name", OPERATORS)
def test_empty_batches(ops: object, events: Callable[[], list[str]], name: str) -> None:
    """Nothing is launched. The gradient of a shared target is an empty sum, zero."""
    inputs = [
        value[:0] if isinstance(value, Tensor) and value.dim() > 1 else value
        for value in arguments(torch.float32)[name]
    ]
    if name == "gram_correction_backward":
        inputs[1] = torch.randn(1, 20, 20)
    outputs = results(getattr(ops, name), tuple(inputs))
    expected = results(getattr(cpu, name), tuple(inputs))
    assert all(torch.equal(a, b) for a, b in zip(outputs, expected, strict=True))
    assert not any("kernel" in event for event in events())


@pytest.mark.parametrize("name", OPERATORS)
def test_wrong_arguments_raise_before_anything_else(
    ops: object, events: Callable[[], list[str]], name: str
) -> None:
    first, *others = arguments(torch.float32)[name]
    with pytest.raises(ValueError, match=r"(image|guide|h|x|grad) must have shape"):
        getattr(ops, name)(first[0], *others)
    assert events() == []


def test_mismatched_arguments_raise(ops: object, events: Callable) -> None:
    h, target, grad = arguments(torch.float32)["gram_correction_backward"]
    with pytest.raises(ValueError, match="target must have shape"):
        ops.gram_correction(h, target[:, :3])
    with pytest.raises(ValueError, match="grad must have h's shape"):
        ops.gram_correction_backward(h, target, grad[:1])
    with pytest.raises(ValueError, match="g must have h's shape"):
        ops.cross_gram(h, grad[:1])
    with pytest.raises(ValueError, match="coarse must have shape"):
        ops.level_gradient(h, target, grad, 0.2)
    for name in ("gate", "halve"):
        with pytest.raises(ValueError, match="by must have x's shape"):
            getattr(ops, name)(h, grad[:1], 0.2)
        with pytest.raises(ValueError, match="grad must have shape"):
            getattr(ops, f"{name}_backward")(grad, h, 0.2)
    for name in ("level_gradient", "gate", "gate_backward", "halve", "halve_backward"):
        *inputs, _ = arguments(torch.float32)[name]
        with pytest.raises(ValueError, match="slope must be finite"):
            getattr(ops, name)(*inputs, math.nan)
    image, factors, x, coefficients = arguments(torch.float32)["matting_filter"]
    with pytest.raises(ValueError, match="eps must be a positive number"):
        ops.matting_factors(image, -1.0)
    with pytest.raises(ValueError, match="factors must have shape"):
        ops.matting_matvec(image, factors[..., 1:], x)
    with pytest.raises(ValueError, match="coefficients must be finite"):
        ops.matting_filter(image, factors, x, coefficients / 0)
    assert events() == []


def test_torch_without_cuda(emulation: Path) -> None:
    """The error if the weak symbol aoti_torch_get_current_cuda_stream is undefined."""
    without = ctypes.CDLL(str(emulation / "without_stream.so"))
    without.register_operators(b"without_stream")
    message = re.escape("fastfcs: torch is built without CUDA, so it has no current CUDA stream")
    with pytest.raises(RuntimeError, match=message):
        torch.ops.without_stream.gram(torch.rand(1, 3, 4, 4))
