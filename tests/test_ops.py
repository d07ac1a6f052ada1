"""The operators on the CPU against plain float64 formulas, and the errors that they raise."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import reference
import torch
import torch.nn.functional as F
from emulated import Protected
from reference import relative_error
from torch import Tensor
from torch.autograd import forward_ad
from torch.library import opcheck

from fastfcs import _C, ops

COEFFICIENTS = torch.tensor([0.5, -0.3, 0.2, 0.1, -0.05], dtype=torch.float64)
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-11}
HALF_TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 1e-2}


def rand(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(shape, dtype=torch.float64).to(dtype)


def features(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=torch.float64).to(dtype)


def test_factors_are_the_triangle_of_the_inverse() -> None:
    image = rand(2, 3, 6, 9)
    factors = ops.matting_factors(image, 1e-4).permute(0, 2, 3, 1)
    _, inverse = reference.matting_inverse(image, 1e-4)
    k = torch.zeros_like(inverse)
    rows, columns = torch.triu_indices(3, 3)
    k[..., rows, columns] = factors
    assert relative_error(k @ k.mT, inverse) < 1e-12


def test_factors_of_a_flat_image_are_those_of_eps() -> None:
    factors = ops.matting_factors(torch.full((1, 3, 4, 5), 0.3), 1e-7)
    k = (9 / 1e-7) ** 0.5
    expected = torch.tensor([k, 0, 0, k, 0, k]).view(1, 6, 1, 1).expand(1, 6, 2, 3)
    torch.testing.assert_close(factors, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("batch", "channels", "height", "width"),
    [(1, 3, 3, 3), (2, 1, 3, 17), (1, 2, 37, 4), (2, 5, 21, 33), (1, 3, 5, 2100), (1, 4, 130, 9)],
)
def test_matvec_and_filter(
    batch: int, channels: int, height: int, width: int, dtype: torch.dtype
) -> None:
    image = rand(batch, 3, height, width, dtype=dtype)
    x = rand(batch, channels, height, width, dtype=dtype)
    factors = ops.matting_factors(image)
    product = ops.matting_matvec(image, factors, x)
    filtered = ops.matting_filter(image, factors, x, COEFFICIENTS)
    assert product.dtype == filtered.dtype == dtype
    assert relative_error(product, reference.matting_matvec(image, x)) < TOLERANCE[dtype]
    assert (
        relative_error(filtered, reference.matting_filter(image, x, COEFFICIENTS))
        < TOLERANCE[dtype]
    )


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_filter_of_low_order(order: int) -> None:
    image, x = rand(1, 3, 8, 9), rand(1, 3, 8, 9)
    factors, coefficients = ops.matting_factors(image), COEFFICIENTS[: order + 1]
    before = x.clone()
    filtered = ops.matting_filter(image, factors, x, coefficients)
    assert relative_error(filtered, reference.matting_filter(image, x, coefficients)) < 1e-12
    assert torch.equal(x, before)


def test_any_strides_give_the_same() -> None:
    image, x = rand(2, 3, 12, 20), rand(2, 4, 12, 20)
    factors = ops.matting_factors(image)
    expected = ops.matting_filter(image, factors, x, COEFFICIENTS)
    strided = [t.to(memory_format=torch.channels_last) for t in (image, factors, x)]
    spread = COEFFICIENTS.repeat_interleave(2)[::2]
    assert torch.equal(ops.matting_factors(strided[0]), factors)
    assert torch.equal(ops.matting_filter(*strided, spread), expected)
    assert torch.equal(ops.matting_matvec(*strided), ops.matting_matvec(image, factors, x))
    sliced = rand(2, 4, 12, 40)[..., ::2]
    assert torch.equal(
        ops.matting_matvec(image, factors, sliced),
        ops.matting_matvec(image, factors, sliced.contiguous()),
    )


def every_result(dtype: torch.dtype) -> list[Tensor]:
    """Every operator, at sizes with remainders everywhere and enough work for several threads."""
    torch.manual_seed(1)
    matting = torch.float64 if dtype == torch.float64 else torch.float32
    image, x = rand(1, 3, 201, 403, dtype=matting), rand(1, 3, 201, 403, dtype=matting)
    factors = ops.matting_factors(image, 1e-3)
    h, grad = features(2, 17, 61, 83, dtype=dtype), features(2, 17, 61, 83, dtype=dtype)
    gram = ops.gram(h)
    target = features(1, 17, 17, dtype=gram.dtype)
    large = rand(1, 5, 999, 1001, dtype=torch.float32)  # beyond the caches
    pixels = [t.to(memory_format=torch.channels_last) for t in (h, grad)]
    coarse = features(2, 17, 31, 42, dtype=dtype)
    weight = torch.randn(40, 17, 3, 3)
    return [
        *(ops.convolution(h.float(), weight, tiles=tiles) for tiles in (False, True)),
        factors,
        ops.matting_matvec(image, factors, x),
        ops.matting_filter(image, factors, x, COEFFICIENTS),
        gram,
        ops.gram_correction(h, target),
        *ops.gram_correction_backward(h, target, grad),
        ops.gram_correction(large, torch.zeros(1, 5, 5)),
        ops.gram(pixels[0]),
        ops.gram_correction(pixels[0], target),
        *ops.gram_correction_backward(pixels[0], target, pixels[1]),
        ops.cross_gram(*pixels),
        ops.level_gradient(pixels[0], target, coarse),
        ops.level_gradient(pixels[0], target),
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_threads_change_nothing(dtype: torch.dtype) -> None:
    results = []
    for threads in (1, 3, 2):
        torch.set_num_threads(threads)
        results.append(every_result(dtype))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def run_with_isa(isa: str, script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parent,
        env=os.environ | {"FASTFCS_ISA": isa},
        capture_output=True,
        text=True,
    )


DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
ISAS = ["plain", "avx2", "avx512", "amx"]


@pytest.mark.parametrize("isa", ISAS[: ISAS.index(_C.build_info()["cpu"])])
def test_instruction_sets_agree(isa: str, tmp_path: Path) -> None:
    script = f"""
import torch, test_ops
torch.save([test_ops.every_result(dtype) for dtype in test_ops.DTYPES], {str(tmp_path / "r")!r})
print(test_ops._C.build_info()["cpu"])"""
    ran = run_with_isa(isa, script)
    assert ran.stdout.strip() == isa, ran.stderr
    for dtype, theirs in zip(DTYPES, torch.load(tmp_path / "r"), strict=True):
        for a, b in zip(theirs, every_result(dtype), strict=True):
            tolerance = HALF_TOLERANCE.get(a.dtype) or TOLERANCE[a.dtype]
            assert relative_error(a, b.double()) < tolerance


def test_wrong_instruction_set_raises() -> None:
    ran = run_with_isa("sse9", "from fastfcs import ops")
    assert ran.stderr.strip().splitlines()[-1] == (
        "ImportError: FASTFCS_ISA must be plain, avx2, avx512 or amx and no more than this CPU's "
        f"{_C.build_info()['cpu']}, got sse9"
    )


def test_empty_batch_and_no_channels() -> None:
    image = rand(2, 3, 5, 6)
    factors = ops.matting_factors(image)
    assert ops.matting_matvec(image, factors, rand(2, 0, 5, 6)).shape == (2, 0, 5, 6)
    none = ops.matting_factors(image[:0])
    assert ops.matting_filter(image[:0], none, rand(0, 3, 5, 6), COEFFICIENTS).shape == (0, 3, 5, 6)
    assert ops.gram(rand(0, 3, 5, 6)).shape == (0, 3, 3)


@pytest.mark.parametrize("targets", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_gram_and_correction(
    dtype: torch.dtype, targets: int, memory_format: torch.memory_format
) -> None:
    h = features(2, 5, 13, 7, dtype=dtype).to(memory_format=memory_format)
    grad = features(2, 5, 13, 7, dtype=dtype)
    gram = ops.gram(h)
    assert gram.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert relative_error(gram, reference.gram(h)) < TOLERANCE[gram.dtype]

    target = features(targets, 5, 5, dtype=gram.dtype)
    correction = ops.gram_correction(h, target)
    tolerance = HALF_TOLERANCE.get(dtype) or TOLERANCE[dtype]
    assert correction.dtype == dtype
    assert relative_error(correction, reference.gram_correction(h, target)) < tolerance

    dh, dtarget = ops.gram_correction_backward(h, target, grad)
    expected = reference.gram_correction_backward(h, target, grad)
    assert (dh.dtype, dtarget.dtype, dtarget.shape) == (dtype, gram.dtype, target.shape)
    assert relative_error(dh, expected[0]) < tolerance
    assert relative_error(dtarget, expected[1]) < TOLERANCE[gram.dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("batch", "channels", "height", "width"),
    [
        (1, 1, 1, 1),
        (3, 3, 1, 5),
        (1, 17, 3, 11),
        (2, 31, 7, 9),
        (1, 64, 1, 777),
        (1, 95, 8, 24),
        (1, 130, 37, 59),
        (1, 4, 173, 131),
        (3, 9, 64, 65),  # three elements for two threads, in two slices each
        (2, 16, 64, 65),  # one for each thread, whose copy stays in a cache
        (2, 12, 50, 84),  # slices of eleven chunks, though twelve would fit
        (2, 12, 50, 85),  # slices of eleven and twelve chunks
        (1, 5, 999, 1001),  # beyond the caches
        (1, 5, 1296, 1296),  # of whole lines, which may be written past them
    ],
)
def test_gram_of_odd_sizes(
    batch: int, channels: int, height: int, width: int, dtype: torch.dtype
) -> None:
    h = features(batch, channels, height, width, dtype=dtype)
    grad = features(batch, channels, height, width, dtype=dtype)
    target = features(batch, channels, channels, dtype=dtype)
    assert relative_error(ops.gram(h), reference.gram(h)) < TOLERANCE[dtype]
    correction = ops.gram_correction(h, target)
    assert relative_error(correction, reference.gram_correction(h, target)) < TOLERANCE[dtype]
    expected = reference.gram_correction_backward(h, target, grad)
    for a, b in zip(ops.gram_correction_backward(h, target, grad), expected, strict=True):
        assert relative_error(a, b) < TOLERANCE[dtype]


def spread(x: Tensor) -> Tensor:
    """The same in channels_last memory, in which the rows lie apart."""
    return F.pad(x, (1, 1, 1, 1)).to(memory_format=torch.channels_last)[:, :, 1:-1, 1:-1]


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "planes": torch.Tensor.contiguous,
    "channels last": lambda x: x.to(memory_format=torch.channels_last),
    "rows apart": spread,
    "transposed": lambda x: x.mT.to(memory_format=torch.channels_last).mT,
}


def is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("batch", "channels", "height", "width"),
    [
        (1, 2, 1, 1),
        (2, 3, 1, 9),
        (3, 5, 13, 1),
        (1, 16, 40, 33),  # several slices
        (2, 40, 19, 30),
        (1, 256, 9, 11),
        (1, 7, 3, 601),  # rows of several chunks
    ],
)
def test_features_in_any_layout(
    batch: int, channels: int, height: int, width: int, layout: str, dtype: torch.dtype
) -> None:
    shape = batch, channels, height, width
    h, g = (LAYOUTS[layout](features(*shape, dtype=dtype)) for _ in range(2))
    coarse = features(batch, channels, (height + 1) // 2, (width + 1) // 2, dtype=dtype)
    coarse = LAYOUTS[layout](coarse)
    gram, cross = ops.gram(h), ops.cross_gram(h, g)
    target = features(batch, channels, channels, dtype=gram.dtype)
    tolerance = HALF_TOLERANCE.get(dtype) or TOLERANCE[dtype]
    assert cross.dtype == gram.dtype
    assert relative_error(gram, reference.gram(h)) < TOLERANCE[gram.dtype]
    assert relative_error(cross, reference.cross_gram(h, g)) < TOLERANCE[gram.dtype]
    mixed = ops.cross_gram(h, g.contiguous()), ops.cross_gram(h.contiguous(), g)
    assert all(torch.equal(m, cross) for m in mixed)

    correction = ops.gram_correction(h, target)
    dh, dtarget = ops.gram_correction_backward(h, target, g)
    expected = reference.gram_correction_backward(h, target, g)
    assert relative_error(correction, reference.gram_correction(h, target)) < tolerance
    assert relative_error(dh, expected[0]) < tolerance
    assert relative_error(dtarget, expected[1]) < TOLERANCE[gram.dtype]
    other = ops.gram_correction_backward(h, target, g.contiguous())
    assert torch.equal(other[0], dh)
    assert torch.equal(other[1], dtarget)

    for below in (coarse, None):
        level = ops.level_gradient(h, target, below)
        assert level.dtype == dtype
        assert is_channels_last(level)
        assert relative_error(level, reference.level_gradient(h, target, below)) < tolerance
    if h.is_contiguous():
        assert correction.is_contiguous()
        assert dh.is_contiguous()
    else:
        assert is_channels_last(correction)
        assert is_channels_last(dh)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_number_of_channels(dtype: torch.dtype) -> None:
    for channels in range(1, 41):
        h, g = (spread(features(2, channels, 7, 11, dtype=dtype)) for _ in range(2))
        coarse = features(2, channels, 4, 6, dtype=dtype)
        gram = ops.gram(h)
        target = features(1, channels, channels, dtype=gram.dtype)
        tolerance = HALF_TOLERANCE.get(dtype) or TOLERANCE[dtype]
        level = ops.level_gradient(h, target, coarse)
        dh, dtarget = ops.gram_correction_backward(h, target, g)
        expected = reference.gram_correction_backward(h, target, g)
        assert relative_error(gram, reference.gram(h)) < TOLERANCE[gram.dtype]
        assert relative_error(level, reference.level_gradient(h, target, coarse)) < tolerance
        assert relative_error(dh, expected[0]) < tolerance
        assert relative_error(dtarget, expected[1]) < TOLERANCE[gram.dtype]
        assert torch.equal(ops.cross_gram(h, g).sum(0, keepdim=True), -dtarget)


def test_gram_is_symmetric() -> None:
    for channels in (1, 5, 16, 33, 100):
        gram = ops.gram(LAYOUTS["channels last"](features(2, channels, 9, 10)))
        assert torch.equal(gram, gram.mT)


@pytest.mark.parametrize("size", [*range(1, 12), 63, 125, 500])
def test_enlargement_is_that_of_torch(size: int) -> None:
    """Without weights and gates the result is torch's own, whatever the size."""
    coarse = features(1, 2, (size + 1) // 2, (size + 2) // 2, dtype=torch.float32)
    h = torch.ones(1, 2, size, size + 1)
    enlarged = F.interpolate(coarse, h.shape[2:], mode="bilinear", align_corners=False)
    result = ops.level_gradient(h, torch.zeros(1, 2, 2), coarse)
    expected = F.pad(enlarged, (1, 1, 1, 1), mode="replicate")
    rounding = 1e-6 + 1e-7 * size  # of positions in float32
    torch.testing.assert_close(result, expected, rtol=0, atol=rounding)


@pytest.mark.parametrize("slope", [-0.5, 0.0, 0.2, 1.0])
def test_slope_of_a_level(slope: float) -> None:
    h, coarse = features(1, 3, 6, 7), features(1, 3, 3, 4)
    h[:, :, ::2] = 0.0  # not positive
    result = ops.level_gradient(h, torch.zeros(1, 3, 3, dtype=h.dtype), coarse, slope)
    enlarged = F.interpolate(coarse, (6, 7), mode="bilinear")
    expected = torch.where(h > 0, enlarged, slope * enlarged)
    torch.testing.assert_close(result[:, :, 1:-1, 1:-1], expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_level_gradient_is_rounded_once(dtype: torch.dtype) -> None:
    h, coarse = spread(features(1, 5, 6, 7, dtype=dtype)), features(1, 5, 3, 4, dtype=dtype)
    weights = features(1, 5, 5, dtype=torch.float32)
    exact = reference.level_gradient(h, weights, coarse)
    result = ops.level_gradient(h, weights, coarse)
    half_a_unit = torch.finfo(dtype).eps / 2
    assert ((result - exact).abs() <= 1.001 * half_a_unit * exact.abs() + 1e-6).all()


def test_pixels_outside_a_slice_do_not_matter() -> None:
    whole = torch.full((2, 5, 8, 12), float("nan")).to(memory_format=torch.channels_last)
    h = whole[:, :, 1:-1, 2:-3]
    h.copy_(features(*h.shape))
    target = features(1, 5, 5, dtype=torch.float32)
    dense = LAYOUTS["channels last"](h.clone())
    for call in (
        ops.gram,
        lambda x: ops.cross_gram(x, x),
        lambda x: ops.gram_correction(x, target),
        lambda x: ops.level_gradient(x, target, x[:, :, ::2, ::2]),
    ):
        assert not call(h).isnan().any()
        torch.testing.assert_close(call(h), call(dense))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 5, 16, 40])
def test_nothing_beyond_the_features_is_read(channels: int, dtype: torch.dtype) -> None:
    height, width, c = 9, 67, channels
    target = features(1, c, c, dtype=ops.gram(torch.zeros(1, 1, 1, 1, dtype=dtype)).dtype)
    for pitch in (width * c, (width + 1) * c):  # of the rows
        plain = features((height - 1) * pitch + width * c, dtype=dtype)
        protected = Protected(plain, True, 0)  # a page without access follows
        h, expected = (
            x.as_strided((1, c, height, width), (0, 1, pitch, c)) for x in (protected.tensor, plain)
        )
        for call in (
            ops.gram,
            lambda x: ops.cross_gram(x, x),
            lambda x: ops.gram_correction(x, target),
            lambda x: ops.gram_correction_backward(x, target, x)[0],
            lambda x: ops.level_gradient(x, target, x[:, :, -5:, -34:]),
        ):
            assert torch.equal(call(h), call(expected))


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_stays_in_its_pixel(dtype: torch.dtype) -> None:
    h = torch.ones(1, 5, 6, 21, dtype=dtype).to(memory_format=torch.channels_last)
    h[0, 1, 2, 3] = float("nan")
    weights = torch.ones(1, 5, 5, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    result = ops.level_gradient(h, weights)
    expected = torch.zeros_like(result, dtype=torch.bool)
    expected[:, :, 3, 4] = True
    assert torch.equal(result.isnan(), expected)


def test_empty_batch_in_channels_last() -> None:
    h = torch.rand(0, 3, 5, 6)
    target = torch.zeros(1, 3, 3)
    assert ops.cross_gram(h, h).shape == (0, 3, 3)
    assert ops.level_gradient(h, target).shape == (0, 3, 7, 8)
    for x in (h, spread(h)):
        assert ops.gram(x).shape == (0, 3, 3)
        assert ops.gram_correction(x, target).shape == h.shape
        assert torch.equal(ops.gram_correction_backward(x, target, x)[1], target)


def test_tf32_does_not_affect_the_cpu(allow_tf32: Callable[[], None]) -> None:
    h, target = features(1, 5, 6, 7), features(1, 5, 5)
    exact = ops.gram(h), ops.gram_correction(h, target)
    compiled = torch.compile(lambda: ops._tf32_allowed(), backend="eager", fullgraph=True)
    assert not ops._tf32_allowed()
    assert not compiled()
    allow_tf32()
    assert ops._tf32_allowed()
    assert compiled()
    assert torch.equal(ops.gram(h), exact[0])
    assert torch.equal(torch.ops.fastfcs.gram_correction(h, target, True), exact[1])


def test_import_is_light() -> None:
    """Importing torch.compile's own modules would cost every command a second."""
    code = "import sys, fastfcs.stylizer; assert 'torch._dynamo' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_gram_of_strided_features() -> None:
    h, grad = features(2, 12, 9, 14)[:, ::2, :, 3:], features(2, 6, 11, 9).mT
    target = features(2, 6, 12)[..., ::2]
    dense = [t.contiguous() for t in (h, target, grad)]
    assert torch.equal(ops.gram(h), ops.gram(dense[0]))
    assert torch.equal(ops.gram_correction(h, target), ops.gram_correction(*dense[:2]))
    results = ops.gram_correction_backward(h, target, grad), ops.gram_correction_backward(*dense)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_keep_nan_and_infinity(dtype: torch.dtype) -> None:
    h = torch.ones(1, 4, 3, 11, dtype=dtype)
    h[0, 1, 0, 0] = float("nan")
    h[0, 3, 2, 10] = float("inf")
    correction = ops.gram_correction(h, torch.zeros(1, 4, 4))
    expected = reference.gram_correction(h, torch.zeros(1, 4, 4))
    assert torch.equal(correction.isnan(), expected.isnan())
    assert correction.isnan().any()


def test_autocast_does_not_lower_gram() -> None:
    h, target = features(1, 8, 20, 20, dtype=torch.float32), torch.zeros(1, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ops.gram(h), ops.gram(h.clone()))
        assert relative_error(ops.gram(h), reference.gram(h)) < 1e-6
        assert (
            relative_error(ops.gram_correction(h, target), reference.gram_correction(h, target))
            < 1e-6
        )


def samples(layout: str = "planes") -> dict[str, tuple]:
    image, x = rand(2, 3, 5, 6), rand(2, 2, 5, 6).requires_grad_()
    h, g = (LAYOUTS[layout](features(2, 3, 4, 5)).requires_grad_() for _ in range(2))
    coarse = LAYOUTS[layout](features(2, 3, 2, 3)).requires_grad_()
    target = features(2, 3, 3).requires_grad_()
    factors = ops.matting_factors(image, 1e-2)
    return {
        "matting_factors": (image, 1e-2),
        "matting_matvec": (image, factors, x),
        "matting_filter": (image, factors, x, COEFFICIENTS),
        "gram": (h,),
        "gram_correction": (h, target),
        "gram_correction_backward": (h.detach(), target.detach(), g.detach()),
        "cross_gram": (h, g),
        "level_gradient": (h, target, coarse, 0.2),
    }


OF_FEATURES = ["gram", "gram_correction", "cross_gram", "level_gradient"]
DIFFERENTIABLE = ["matting_matvec", "matting_filter", *OF_FEATURES]


def check_operator(name: str, inputs: tuple) -> None:
    tests = ["test_schema", "test_autograd_registration", "test_faketensor"]
    # torch cannot trace its own adjoint of the bilinear enlargement with symbolic sizes
    dynamic = name != "level_gradient"
    tests.append("test_aot_dispatch_dynamic" if dynamic else "test_aot_dispatch_static")
    opcheck(getattr(torch.ops.fastfcs, name).default, inputs, test_utils=tests)


@pytest.mark.parametrize("name", samples())
def test_opcheck(name: str) -> None:
    check_operator(name, samples()[name])


@pytest.mark.parametrize("layout", list(LAYOUTS)[1:])
@pytest.mark.parametrize("name", [*OF_FEATURES, "gram_correction_backward"])
def test_opcheck_in_any_layout(name: str, layout: str) -> None:
    check_operator(name, samples(layout)[name])


def test_opcheck_without_a_coarse_level() -> None:
    h, weights, _, slope = samples()["level_gradient"]
    opcheck(torch.ops.fastfcs.level_gradient.default, (h, weights, None, slope))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_opcheck_of_half_types_and_one_target(dtype: torch.dtype) -> None:
    h, grad = features(2, 3, 4, 5, dtype=dtype).requires_grad_(), features(2, 3, 4, 5, dtype=dtype)
    target = features(1, 3, 3, dtype=torch.float32).requires_grad_()
    opcheck(torch.ops.fastfcs.gram.default, (h,))
    opcheck(torch.ops.fastfcs.gram_correction.default, (h, target))
    constants = (h.detach(), target.detach(), grad)
    opcheck(torch.ops.fastfcs.gram_correction_backward.default, constants)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients(name: str) -> None:
    assert torch.autograd.gradcheck(getattr(ops, name), samples()[name])


@pytest.mark.parametrize("layout", list(LAYOUTS)[1:])
@pytest.mark.parametrize("name", OF_FEATURES)
def test_gradients_in_any_layout(name: str, layout: str) -> None:
    assert torch.autograd.gradcheck(getattr(ops, name), samples(layout)[name])
    assert torch.autograd.gradgradcheck(getattr(ops, name), samples(layout)[name])


def test_gradients_of_a_level_without_a_coarse_one_and_with_one_matrix() -> None:
    h, weights, _, _ = samples("channels last")["level_gradient"]
    weights = weights.detach()[:1].requires_grad_()
    assert torch.autograd.gradcheck(ops.level_gradient, (h, weights))
    assert torch.autograd.gradgradcheck(ops.level_gradient, (h, weights))


def test_gradient_of_one_target_for_the_batch() -> None:
    h = features(3, 2, 4, 3).requires_grad_()
    target = features(1, 2, 2).requires_grad_()
    assert torch.autograd.gradcheck(ops.gram_correction, (h, target))


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_operator_and_function_give_the_same_gradients(name: str) -> None:
    results = []
    for call in (getattr(torch.ops.fastfcs, name), getattr(ops, name)):
        torch.manual_seed(0)
        inputs = samples()[name]
        output = call(*inputs)
        differentiable = [t for t in inputs if isinstance(t, Tensor) and t.requires_grad]
        results.append((output, *torch.autograd.grad(output.square().sum(), differentiable)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def results_and_gradients() -> list[Tensor]:
    """The results of each differentiable operator, then the gradients of its inputs."""
    torch.manual_seed(0)
    results = []
    for name in DIFFERENTIABLE:
        inputs = samples()[name]
        output = getattr(ops, name)(*inputs)
        differentiable = [t for t in inputs if isinstance(t, Tensor) and t.requires_grad]
        results += [output, *torch.autograd.grad(output.square().sum(), differentiable)]
    return results


@pytest.mark.slow
def test_a_torch_without_the_private_names_gives_the_same(tmp_path: Path) -> None:
    script = f"""
import torch
from torch.autograd import forward_ad

private = {{
    torch._C: [
        "_AutoDispatchBelowAutograd", "_are_functorch_transforms_active", "_any_requires_grad"
    ],
    forward_ad: ["_current_level"],
}}
hidden = [(module, name, getattr(module, name)) for module in private for name in private[module]]
for module, name, _ in hidden:
    delattr(module, name)
import fastfcs.ops
for module, name, value in hidden:  # torch itself needs them
    setattr(module, name, value)

import test_ops
assert fastfcs.ops._gram.__name__ == "dispatched"
torch.save(test_ops.results_and_gradients(), {str(tmp_path / "r")!r})
test_ops.test_forward_mode_raises()
test_ops.test_no_gradient_is_recorded_where_none_is_needed()
test_ops.test_compiled_is_the_same()
"""
    subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parent, check=True)
    assert ops._gram.__name__ == "call"
    for theirs, ours in zip(torch.load(tmp_path / "r"), results_and_gradients(), strict=True):
        assert torch.equal(theirs, ours)


def test_tf32_without_the_private_getter(
    allow_tf32: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(torch._C, "_get_fp32_precision_getter")
    assert not ops._tf32_allowed()
    allow_tf32()
    assert ops._tf32_allowed()


def test_no_gradient_is_recorded_where_none_is_needed() -> None:
    h, target = samples()["gram_correction"]
    with torch.no_grad():
        assert not ops.gram_correction(h, target).requires_grad
    assert not ops.gram_correction(h.detach(), target.detach()).requires_grad
    assert ops.gram_correction(h.detach(), target).requires_grad


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_second_gradients(name: str) -> None:
    assert torch.autograd.gradgradcheck(getattr(ops, name), samples()[name])


def test_constants_carry_no_gradient() -> None:
    image = rand(1, 3, 5, 5).requires_grad_()
    assert not ops.matting_factors(image).requires_grad


def test_compiled_is_the_same() -> None:
    image, x = rand(1, 3, 6, 7), rand(1, 3, 6, 7)

    def projected(image: Tensor, x: Tensor) -> Tensor:
        return ops.matting_matvec(image, ops.matting_factors(image), 2 * x) + 1

    compiled = torch.compile(projected, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(image, x), projected(image, x))

    h, target = samples()["gram_correction"]
    compiled = torch.compile(ops.gram_correction, backend="aot_eager", fullgraph=True)
    gradients = [
        torch.autograd.grad(f(h, target).square().sum(), (h, target))
        for f in (compiled, ops.gram_correction)
    ]
    torch.testing.assert_close(*gradients)


IMAGE = torch.rand(1, 3, 5, 6)
FACTORS = ops.matting_factors(IMAGE)
H = torch.rand(2, 4, 5, 6)


def spoiled(tensor: Tensor, value: float) -> Tensor:
    tensor = tensor.clone()
    tensor[(-1,) * tensor.dim()] = value
    return tensor


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: ops.matting_factors(torch.rand(1, 3, 2, 6)),
            "image must have shape (B, 3, H, W) with H and W at least 3, got (1, 3, 2, 6)",
        ),
        (
            lambda: ops.matting_factors(torch.rand(3, 5, 6)),
            "image must have shape (B, 3, H, W) with H and W at least 3, got (3, 5, 6)",
        ),
        (
            lambda: ops.matting_factors(IMAGE.half()),
            "image must be float32 or float64, got float16",
        ),
        (
            lambda: ops.matting_factors((IMAGE * 255).to(torch.uint8)),
            "image must be float32 or float64, got uint8",
        ),
        (lambda: ops.matting_factors(IMAGE, 0.0), "eps must be a positive number, got 0"),
        (
            lambda: ops.matting_factors(spoiled(IMAGE, float("nan"))),
            "image must be finite, got at least one NaN or infinity",
        ),
        (
            lambda: ops.matting_matvec(IMAGE, FACTORS, spoiled(IMAGE, float("inf"))),
            "x must be finite, got at least one NaN or infinity",
        ),
        (
            lambda: ops.matting_matvec(IMAGE, FACTORS[..., :-1], IMAGE),
            "factors must have shape (1, 6, 3, 4), those of image (1, 3, 5, 6), got (1, 6, 3, 3)",
        ),
        (
            lambda: ops.matting_matvec(IMAGE, FACTORS, H),
            "x must have shape (1, C, 5, 6), like image (1, 3, 5, 6), got (2, 4, 5, 6)",
        ),
        (
            lambda: ops.matting_matvec(IMAGE, FACTORS, IMAGE.double()),
            "x must have image's dtype float32, got float64",
        ),
        (
            lambda: ops.matting_filter(IMAGE, FACTORS, IMAGE, torch.ones(3)),
            "coefficients must be a float64 tensor on the CPU of shape (order + 1,) with order at "
            "least 0, got float32 on cpu of shape (3,)",
        ),
        (
            lambda: ops.matting_filter(IMAGE, FACTORS, IMAGE, spoiled(COEFFICIENTS, float("nan"))),
            "coefficients must be finite, got at least one NaN or infinity",
        ),
        (
            lambda: ops.gram(torch.rand(4, 5)),
            "h must have shape (B, C, H, W) with C, H and W at least 1, got (4, 5)",
        ),
        (
            lambda: ops.gram_correction(torch.rand(2, 0, 4, 5), torch.rand(1, 0, 0)),
            "h must have shape (B, C, H, W) with C, H and W at least 1, got (2, 0, 4, 5)",
        ),
        (
            lambda: ops.gram(torch.ones(1, 1, 1, 1, dtype=torch.int32)),
            "h must be float16, bfloat16, float32 or float64, got Int",
        ),
        (
            lambda: ops.gram_correction(H, torch.rand(3, 4, 4)),
            "target must have shape (2, 4, 4) or (1, 4, 4) for h (2, 4, 5, 6), got (3, 4, 4)",
        ),
        (
            lambda: ops.gram_correction(H.half(), torch.rand(1, 4, 4).half()),
            "target must be float32 for h in float16, got float16",
        ),
        (
            lambda: ops.gram_correction_backward(H, torch.rand(1, 4, 4), H[:1]),
            "grad must have h's shape (2, 4, 5, 6), got (1, 4, 5, 6)",
        ),
        (
            lambda: ops.cross_gram(H, H[:, :3]),
            "g must have h's shape (2, 4, 5, 6), got (2, 3, 5, 6)",
        ),
        (lambda: ops.cross_gram(H, H.half()), "g must have h's dtype float32, got float16"),
        (
            lambda: ops.level_gradient(H[0], torch.rand(1, 4, 4)),
            "h must have shape (B, C, H, W) with C, H and W at least 1, got (4, 5, 6)",
        ),
        (
            lambda: ops.level_gradient(H, torch.rand(4, 4)),
            "weights must have shape (2, 4, 4) or (1, 4, 4) for h (2, 4, 5, 6), got (4, 4)",
        ),
        (
            lambda: ops.level_gradient(H.bfloat16(), torch.rand(1, 4, 4).bfloat16()),
            "weights must be float32 for h in bfloat16, got bfloat16",
        ),
        (
            lambda: ops.level_gradient(H, torch.rand(1, 4, 4), H[:, :, :2, :3]),
            "coarse must have shape (2, 4, 3, 3) for h (2, 4, 5, 6), got (2, 4, 2, 3)",
        ),
        (
            lambda: ops.level_gradient(H, torch.rand(1, 4, 4), H[:, :, :3, :3].half()),
            "coarse must have h's dtype float32, got float16",
        ),
        (
            lambda: ops.level_gradient(H, torch.rand(1, 4, 4), None, float("nan")),
            "slope must be finite, got nan",
        ),
    ],
)
def test_errors(call, sentence: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011  the sentence is compared whole
        call()
    assert str(error.value) == sentence


def test_forward_mode_raises() -> None:
    x, target = torch.rand(1, 4, 5, 6), torch.rand(1, 4, 4)
    image = x[:, :3]
    factors = ops.matting_factors(image)
    for name, call in (
        ("gram", ops.gram),
        ("gram_correction", lambda h: ops.gram_correction(h, target)),
        ("cross_gram", lambda h: ops.cross_gram(h, h)),
        ("level_gradient", lambda h: ops.level_gradient(h, target)),
        ("matting_matvec", lambda v: ops.matting_matvec(image, factors, v)),
    ):
        with pytest.raises(NotImplementedError, match=f"fastfcs.{name} has no forward-mode"):
            torch.func.jvp(call, (x,), (x,))
        with forward_ad.dual_level():
            call(x)
            with pytest.raises(NotImplementedError, match=f"fastfcs.{name} has no forward-mode"):
                call(forward_ad.make_dual(x, x))
