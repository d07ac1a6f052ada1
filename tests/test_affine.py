"""Local affine models: the operators on the CPU and, emulated, on CUDA."""

import math
import os
import subprocess
import sys

import pytest
import reference
import torch
from emulated import Kernels, needs_compiler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastfcs import ops
from fastfcs.constraints import SoftClip

TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-12}
SIZES = [(30, 41), (5, 3), (17, 64), (1, 1)]
# Sizes of an image and of its models: enlarged, hardly enlarged, reduced, one model for all.
PAIRS = [((50, 131), (8, 17)), ((40, 50), (39, 49)), ((20, 30), (31, 40)), ((7, 5), (1, 1))]
LAYOUTS = [torch.contiguous_format, torch.channels_last]
MOST = {torch.uint8: 255, torch.uint16: 65535}


def models_near_identity(batch: int, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    models = 0.2 * torch.randn(batch, 12, *size, dtype=dtype)
    models[:, [0, 5, 10]] += 1
    return models


def samples_of(image: Tensor, dtype: torch.dtype, layout: torch.memory_format) -> Tensor:
    return (image * MOST[dtype]).round().to(dtype).contiguous(memory_format=layout)


def bent(samples: Tensor, models: Tensor) -> Tensor:
    """The exact result for integer samples, before it is rounded."""
    content = samples.double() / MOST[samples.dtype]
    return SoftClip(content)(reference.affine_apply(content, models)) * MOST[samples.dtype]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("radius", [1, 4])
def test_fit(size: tuple[int, int], radius: int, dtype: torch.dtype) -> None:
    guide, signal = torch.rand(2, 2, 3, *size, dtype=dtype)
    expected = reference.affine_fit(guide, signal, radius, 1e-3)
    actual = ops.affine_fit(guide, signal, radius, 1e-3)
    assert (actual - expected).abs().max() < 20 * TOLERANCE[dtype]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("size", "small"), PAIRS)
def test_apply_to_floats(
    size: tuple[int, int], small: tuple[int, int], dtype: torch.dtype, layout: torch.memory_format
) -> None:
    image = torch.rand(2, 3, *size, dtype=dtype).contiguous(memory_format=layout)
    models = models_near_identity(2, small, dtype)
    actual = ops.affine_apply(image, models)
    assert actual.stride() == image.stride()
    assert (actual - reference.affine_apply(image, models)).abs().max() < TOLERANCE[dtype]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", MOST)
@pytest.mark.parametrize(("size", "small"), PAIRS)
def test_apply_to_samples(
    size: tuple[int, int], small: tuple[int, int], dtype: torch.dtype, layout: torch.memory_format
) -> None:
    image = samples_of(torch.rand(2, 3, *size), dtype, layout)
    models = models_near_identity(2, small, torch.float32)
    actual = ops.affine_apply(image, models)
    assert (actual.dtype, actual.stride()) == (dtype, image.stride())
    # Half a level of rounding, and that of the arithmetic in float32.
    assert (actual.double() - bent(image, models)).abs().max() < 0.5 + 4e-6 * MOST[dtype]


@given(st.integers(1, 40), st.integers(1, 70), st.integers(1, 12), st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_apply_at_any_size(height: int, width: int, rows: int, columns: int) -> None:
    image = torch.rand(1, 3, height, width, dtype=torch.float64)
    models = models_near_identity(1, (rows, columns), torch.float64)
    expected = reference.affine_apply(image, models)
    assert (ops.affine_apply(image, models) - expected).abs().max() < 1e-12
    samples = samples_of(image, torch.uint8, torch.channels_last)
    error = ops.affine_apply(samples, models.float()).double() - bent(samples, models)
    assert error.abs().max() < 0.502


@pytest.mark.parametrize("isa", ["plain", "avx2"])
def test_other_instruction_sets(isa: str) -> None:
    """The tests above, in a process of a lower instruction set."""
    names = ["test_fit", "test_apply_to_floats", "test_apply_to_samples"]
    tests = [f"{__file__}::{name}" for name in names]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        env={**os.environ, "FASTFCS_ISA": isa, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if "FASTFCS_ISA must be" in result.stdout + result.stderr:
        pytest.skip(f"this CPU has no {isa}")
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("dtype", MOST)
def test_an_unchanged_image_comes_back_bit_for_bit(dtype: torch.dtype) -> None:
    image = torch.linspace(0, MOST[dtype], 255).round().view(1, 3, 5, 17).to(dtype)
    assert image.flatten()[-1].item() == MOST[dtype]
    models = torch.zeros(1, 12, 2, 2)
    models[:, [0, 5, 10]] = 1
    assert torch.equal(ops.affine_apply(image, models), image)


@pytest.mark.parametrize("dtype", MOST)
def test_highlights_and_shadows_are_bent_and_not_cut(dtype: torch.dtype) -> None:
    """Brighter by 0.1, and then darker: more samples stay different than if they were cut."""
    levels = torch.linspace(0.6, 1, 100, dtype=torch.float64)
    for content, shift in ((levels, 0.1), (1 - levels, -0.1)):
        image = samples_of(content.expand(1, 3, 1, 100), dtype, torch.contiguous_format)
        models = torch.zeros(1, 12, 1, 1)
        models[:, [0, 5, 10]] = 1
        models[:, [3, 7, 11]] = shift
        result = ops.affine_apply(image, models)[0, 0, 0].long()
        before = image[0, 0, 0].long()
        cut = (before + shift * MOST[dtype]).clamp(0, MOST[dtype])
        assert (result.diff() * before.diff() >= 0).all()
        assert len(result.unique()) > 1.05 * len(cut.round().unique())


def test_the_guide_s_edges_stay() -> None:
    """A step of the guide that the signal follows is not blurred: enlarging would miss by 0.23."""
    guide = torch.zeros(1, 3, 24, 24)
    guide[..., 12:] = 1
    models = ops.affine_fit(guide, 0.5 * guide + 0.1, eps=1e-6)
    large = guide.repeat_interleave(8, 2).repeat_interleave(8, 3)
    assert (ops.affine_apply(large, models) - (0.5 * large + 0.1)).abs().max() < 0.03


def differentiable() -> dict[str, tuple]:
    guide, signal = torch.rand(2, 2, 3, 6, 7, dtype=torch.float64)
    image = torch.rand(2, 3, 9, 8, dtype=torch.float64)
    models = models_near_identity(2, (3, 4), torch.float64)
    return {
        "affine_fit": (guide, signal.requires_grad_(), 2, 1e-2),
        "affine_apply": (image.requires_grad_(), models.requires_grad_()),
    }


@pytest.mark.parametrize("name", differentiable())
def test_gradients(name: str) -> None:
    assert torch.autograd.gradcheck(getattr(ops, name), differentiable()[name])
    assert torch.autograd.gradgradcheck(getattr(ops, name), differentiable()[name])


@pytest.mark.parametrize("name", differentiable())
def test_opcheck(name: str) -> None:
    tests = ["test_schema", "test_autograd_registration", "test_faketensor"]
    # torch cannot trace its own adjoint of the bilinear enlargement with symbolic sizes
    tests.append(f"test_aot_dispatch_{'static' if name == 'affine_apply' else 'dynamic'}")
    operator = getattr(torch.ops.fastfcs, name).default
    torch.library.opcheck(operator, differentiable()[name], test_utils=tests)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", MOST)
def test_opcheck_of_samples(dtype: torch.dtype, layout: torch.memory_format) -> None:
    image = samples_of(torch.rand(1, 3, 9, 8), dtype, layout)
    tests = ["test_schema", "test_faketensor"]
    inputs = image, models_near_identity(1, (3, 4), torch.float32)
    torch.library.opcheck(torch.ops.fastfcs.affine_apply.default, inputs, test_utils=tests)


GUIDE = torch.rand(1, 3, 6, 7)
MODELS = torch.rand(1, 12, 3, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.affine_fit(GUIDE[0], GUIDE), r"guide must have shape \(B, 3, H, W\)"),
        (lambda: ops.affine_fit(GUIDE.half(), GUIDE), "guide must be float32 or float64, got floa"),
        (lambda: ops.affine_fit(GUIDE, GUIDE[..., 1:]), r"signal must have guide's shape \(1, 3,"),
        (lambda: ops.affine_fit(GUIDE, GUIDE.double()), "signal must have guide's dtype float32"),
        (lambda: ops.affine_fit(GUIDE, GUIDE, radius=0), "radius must be at least 1, got 0"),
        (lambda: ops.affine_fit(GUIDE, GUIDE, eps=0), "eps must be a positive number, got 0"),
        (lambda: ops.affine_apply(GUIDE[:, :2], MODELS), r"image must have shape \(B, 3, H, W\)"),
        (lambda: ops.affine_apply(GUIDE.half(), MODELS), "image must be uint8, uint16, float32 or"),
        (lambda: ops.affine_apply(GUIDE, MODELS[:, :9]), r"models must have shape \(1, 12, h, w\)"),
        (lambda: ops.affine_apply(GUIDE, MODELS.double()), "models must be float32 for image in f"),
    ],
)
def test_errors(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        call()


@needs_compiler
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", SIZES)
def test_fit_on_cuda(kernels: Kernels, size: tuple[int, int], dtype: torch.dtype) -> None:
    guide, signal = torch.rand(2, 2, 3, *size, dtype=dtype)
    for radius in (1, 4):
        expected = reference.affine_fit(guide, signal, radius, 1e-3)
        actual = kernels.fit(guide, signal, radius, 1e-3)
        assert (actual - expected).abs().max() < 20 * TOLERANCE[dtype]


@needs_compiler
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [*TOLERANCE, *MOST])
@pytest.mark.parametrize(("size", "small"), [*PAIRS, ((10, 300), (3, 40))])
def test_apply_on_cuda(
    kernels: Kernels,
    size: tuple[int, int],
    small: tuple[int, int],
    dtype: torch.dtype,
    layout: torch.memory_format,
) -> None:
    image = torch.rand(2, 3, *size, dtype=torch.float64)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    models = models_near_identity(2, small, wide)
    if dtype in MOST:
        image = samples_of(image, dtype, layout)
        error = kernels.apply(image, models).double() - bent(image, models)
        assert error.abs().max() < 0.5 + 4e-6 * MOST[dtype]
    else:
        image = image.to(dtype).contiguous(memory_format=layout)
        error = kernels.apply(image, models) - reference.affine_apply(image, models)
        assert error.abs().max() < TOLERANCE[dtype]


def test_a_signal_of_nan_stays_in_its_windows() -> None:
    signal = torch.rand(1, 3, 30, 30)
    signal[0, 0, 0, 0] = math.nan
    models = ops.affine_fit(torch.rand(1, 3, 30, 30), signal)
    assert models[..., :9, :9].isnan().any()
    assert not models[..., 9:, 9:].isnan().any()
