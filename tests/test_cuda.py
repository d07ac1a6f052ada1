"""The operators on a GPU against the float64 formulas.

The same kernels run on the CPU, emulated, in test_kernels.py. These tests cover what the emulation
cannot: tensor cores, streams, graphs, gradients through the dispatcher, the sizes of real pictures.
"""

from collections.abc import Callable

import pytest
import reference
import torch
from torch import Tensor

pytestmark = pytest.mark.gpu
ops = pytest.importorskip("fastfcs.ops", reason="fastfcs is not built")
MattingLaplacian = pytest.importorskip("fastfcs.laplacian").MattingLaplacian

EPS = 1e-7
DTYPES = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 2e-6, torch.bfloat16: 2e-6}
STORED = {**DTYPES, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def relative_error(actual: Tensor, expected: Tensor) -> float:
    assert actual.is_cuda
    assert actual.isfinite().all()
    return reference.relative_error(actual, expected)


@pytest.fixture
def large(photo: Callable[[str, int], Tensor]) -> Tensor:
    """Two different pictures, (2,3,H,W), odd in height and width."""
    one = photo("chelsea", 511)[..., :331, :509]
    return torch.cat([one, one.flip(-1)])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-9)])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_matvec(large: Tensor, channels: int, dtype: torch.dtype, tolerance: float) -> None:
    image = large.to(dtype)
    x = torch.rand(2, channels, *image.shape[-2:], dtype=dtype)
    factors = ops.matting_factors(image.cuda(), EPS)
    actual = ops.matting_matvec(image.cuda(), factors, x.cuda())
    assert relative_error(actual, reference.matting_matvec(image, x, EPS)) < tolerance


@pytest.mark.parametrize("size", [(3, 3), (5, 7), (17, 31), (33, 65), (6, 56), (3, 113)])
@pytest.mark.parametrize("order", [0, 1, 2, 3, 8])
def test_filter_small(size: tuple[int, int], order: int) -> None:
    image, x = torch.rand(2, 2, 3, *size)
    coefficients = torch.randn(order + 1, dtype=torch.float64)
    factors = ops.matting_factors(image.cuda(), EPS)
    actual = ops.matting_filter(image.cuda(), factors, x.cuda(), coefficients)
    assert relative_error(actual, reference.matting_filter(image, x, coefficients, EPS)) < 2e-5


def test_filter_large_is_the_cpu_operators(large: Tensor) -> None:
    coefficients = torch.randn(151, dtype=torch.float64) / 10
    x = torch.rand_like(large)
    factors = ops.matting_factors(large, EPS)
    expected = ops.matting_filter(large, factors, x, coefficients)
    for dtype, tolerance in [(torch.float64, 1e-10), (torch.float32, 3e-4)]:
        image = large.to("cuda", dtype)
        actual = ops.matting_filter(
            image, ops.matting_factors(image, EPS), x.to(image), coefficients
        )
        assert (actual.cpu().double() - expected).abs().max() < tolerance


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1, 1),
        (2, 3, 5, 7),
        (2, 33, 9, 11),
        (1, 16, 331, 509),
        (1, 32, 256, 512),
        (2, 64, 90, 202),
        (1, 96, 128, 130),
        (4, 128, 61, 47),
        (1, 256, 40, 42),  # all weights of half types held in shared memory
        (1, 300, 18, 20),  # and read again for every step
        (200, 17, 26, 50),
    ],
)
def test_gram(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    h, grad = (torch.randn(shape).to(dtype) for _ in range(2))
    accumulated = torch.float64 if dtype == torch.float64 else torch.float32
    target = torch.randn(1, shape[1], shape[1], dtype=accumulated)
    actual = ops.gram(h.cuda())
    assert actual.dtype == accumulated
    assert relative_error(actual, reference.gram(h)) < DTYPES[dtype]
    correction = ops.gram_correction(h.cuda(), target.cuda())
    assert correction.dtype == dtype
    assert relative_error(correction, reference.gram_correction(h, target)) < STORED[dtype]
    dh, dtarget = ops.gram_correction_backward(h.cuda(), target.cuda(), grad.cuda())
    expected_dh, expected_dtarget = reference.gram_correction_backward(h, target, grad)
    assert relative_error(dh, expected_dh) < STORED[dtype]
    assert relative_error(dtarget, expected_dtarget) < 2 * DTYPES[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(2, 3, 5, 7), (1, 16, 331, 509), (2, 96, 61, 47), (1, 256, 40, 42)]
)
def test_channels_last(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """The operators between convolutions, and Gram matrices of features as they leave them."""
    h, by = (
        torch.randn(shape).to(dtype).contiguous(memory_format=torch.channels_last) for _ in range(2)
    )
    weights = torch.randn(1, shape[1], shape[1], dtype=ops.gram(h[:, :, :1, :1]).dtype)
    coarse = h[:, :, ::2, ::2]
    assert relative_error(ops.gram(h.cuda()), reference.gram(h)) < DTYPES[dtype]
    assert relative_error(ops.cross_gram(h.cuda(), by.cuda()), reference.cross_gram(h, by)) < 2e-5
    correction = ops.gram_correction(h.cuda(), weights.cuda())
    assert correction.is_contiguous(memory_format=torch.channels_last)
    assert relative_error(correction, reference.gram_correction(h, weights)) < STORED[dtype]
    gradient = ops.level_gradient(h.cuda(), weights.cuda(), coarse.cuda())
    expected = reference.level_gradient(h, weights, coarse)
    assert relative_error(gradient, expected) < max(STORED[dtype], 1e-5)
    for forward, backward in (ops.gate, ops.gate_backward), (ops.halve, ops.halve_backward):
        result = forward(h.cuda(), by.cuda())
        assert relative_error(result, forward(h.double(), by.double())) < STORED[dtype]
        adjoint = backward(result, by.cuda())
        assert relative_error(adjoint, backward(result.cpu().double(), by.double())) < STORED[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_misaligned_views(dtype: torch.dtype) -> None:
    """Contiguous views that do not begin at a multiple of 16 bytes give the same bits."""

    def view_of(tensor: Tensor) -> Tensor:
        longer = torch.cat([torch.zeros_like(tensor[:1]), tensor])
        assert longer[1:].is_contiguous()
        return longer[1:]

    for shape in [(2, 17, 3, 5), (2, 33, 8, 8), (1, 3, 1, 7)]:
        one = torch.randn(1, dtype=dtype, device="cuda")
        h, grad = (torch.randn(shape, device="cuda").to(dtype) for _ in range(2))
        target = torch.randn(shape[0], shape[1], shape[1], device="cuda").to(ops.gram(h).dtype)
        expected = [
            ops.gram(h),
            ops.gram_correction(h, target),
            *ops.gram_correction_backward(h, target, grad),
        ]
        # Shifted by an odd number of features, and by a single one where rows are multiples of 16
        # bytes.
        moved_h = torch.cat([one, h.flatten()])[1:].view(shape)
        moved_grad = torch.cat([one, grad.flatten()])[1:].view(shape)
        assert moved_h.data_ptr() % 16 == one.element_size()
        for view, outer in [(view_of(h), grad), (moved_h, grad), (h, moved_grad)]:
            results = [
                ops.gram(view),
                ops.gram_correction(view, view_of(target)),
                *ops.gram_correction_backward(view, view_of(target), outer),
            ]
            assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))
    if dtype in (torch.float32, torch.float64):
        images = torch.rand(3, 3, 5, 7, dtype=dtype, device="cuda")
        factors = ops.matting_factors(images, EPS)
        assert torch.equal(ops.matting_factors(images[1:], EPS), factors[1:])
        product = ops.matting_matvec(images, factors, images)
        assert torch.equal(ops.matting_matvec(images[1:], factors[1:], images[1:]), product[1:])


def test_more_than_two_to_the_31_elements() -> None:
    """The offsets of the last element of this batch need 64 bits."""
    shape = (2**20 + 1, 16, 1, 136)
    free, _ = torch.cuda.mem_get_info()
    if free < (needed := 12 * 2**30):
        pytest.skip(f"{needed >> 30} GiB of GPU memory are needed, {free >> 30} are free")
    h = torch.zeros(shape, dtype=torch.float16, device="cuda")
    assert h.numel() > 2**31
    h[-1] = torch.randn(h[-1].shape)
    target = torch.randn(1, 16, 16)
    assert relative_error(ops.gram(h)[-1:], reference.gram(h[-1:].cpu())) < DTYPES[h.dtype]
    correction = ops.gram_correction(h, target.cuda())
    assert not correction[:-1].any()
    expected = reference.gram_correction(h[-1:].cpu(), target)
    assert relative_error(correction[-1:], expected) < STORED[h.dtype]


def test_tf32_only_if_allowed(allow_tf32: Callable[[], None]) -> None:
    h, grad = torch.randn(2, 2, 48, 40, 41)
    target = torch.randn(1, 48, 48)
    expected = [
        reference.gram(h),
        reference.gram_correction(h, target),
        *reference.gram_correction_backward(h, target, grad),
    ]

    def errors() -> list[float]:
        on = h.cuda().requires_grad_(), target.cuda().requires_grad_()
        correction = ops.gram_correction(*on)
        correction.backward(grad.cuda())
        results = [ops.gram(on[0]), correction, *(x.grad for x in on)]
        return [relative_error(a.detach(), b) for a, b in zip(results, expected, strict=True)]

    assert max(errors()) < DTYPES[torch.float32]
    allow_tf32()
    assert 1e-5 < min(errors()) < max(errors()) < 2**-10


def test_any_strides(large: Tensor) -> None:
    image = large.float().cuda()
    factors = ops.matting_factors(image, EPS)
    strided = image.to(memory_format=torch.channels_last)
    assert torch.equal(ops.matting_factors(strided, EPS), factors)
    assert torch.equal(
        ops.matting_matvec(strided, factors, strided), ops.matting_matvec(image, factors, image)
    )
    assert torch.equal(ops.gram(strided), ops.gram(image))


def test_cupy_linear_operator(large: Tensor) -> None:
    cupy = pytest.importorskip("cupy")
    linalg = pytest.importorskip("cupyx.scipy.sparse.linalg")
    image = large[:1]
    operator = MattingLaplacian(image.float().cuda(), EPS).to_linear_operator("cupy")
    shape = image.shape[-2:]

    def product(x: Tensor) -> Tensor:
        """L x in float64, x of shape (pixels, columns)."""
        signals = x.T.reshape(1, -1, *shape)
        return reference.matting_matvec(image, signals, EPS).reshape(-1, len(x)).T

    x = torch.rand(operator.shape[0], 3, dtype=torch.float64)
    on_gpu = cupy.asarray(x.numpy(), dtype=cupy.float32)
    assert relative_error(torch.from_dlpack(operator @ on_gpu), product(x)) < 2e-5
    one = torch.from_dlpack(operator @ on_gpu[::-1, 1])
    assert relative_error(one, product(x.flip(0)[:, 1:2])[:, 0]) < 2e-5

    plus_one = linalg.LinearOperator(
        operator.shape, matvec=lambda v: operator.matvec(v) + v, dtype=cupy.float32
    )
    solution, failed = linalg.cg(plus_one, on_gpu[:, 0], tol=1e-5)
    assert not failed
    y = torch.from_dlpack(solution).cpu().double()[:, None]
    assert (product(y) + y - x[:, :1]).norm() < 1e-4 * x[:, 0].norm()

    values, vectors = (torch.from_dlpack(a).cpu().double() for a in linalg.eigsh(operator, k=2))
    assert values.max() <= 9
    assert (product(vectors) - vectors * values).norm() < 1e-2


def test_gradients_on_the_gpu() -> None:
    image = torch.rand(1, 3, 5, 6, dtype=torch.float64, device="cuda")
    x = torch.rand_like(image).requires_grad_()
    factors = ops.matting_factors(image, EPS)
    coefficients = torch.randn(4, dtype=torch.float64)
    h = torch.rand(2, 4, 3, 5, dtype=torch.float64, device="cuda", requires_grad=True)
    target = torch.rand(1, 4, 4, dtype=torch.float64, device="cuda", requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda v: ops.matting_filter(image, factors, v, coefficients), x
    )
    assert torch.autograd.gradcheck(ops.gram_correction, (h, target))
    assert torch.autograd.gradcheck(ops.gram, h)


def test_same_bits_every_time_on_any_stream(large: Tensor) -> None:
    image = large.float().cuda()
    h = torch.randn(2, 64, 93, 71, device="cuda")
    coefficients = torch.randn(20, dtype=torch.float64)

    def everything() -> list[Tensor]:
        factors = ops.matting_factors(image, EPS)
        return [
            ops.matting_filter(image, factors, image, coefficients),
            ops.gram(h),
            ops.gram_correction(h, ops.gram(h)),
        ]

    expected = everything()
    copy = image.clone()
    image.zero_()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        # Kernels on another stream would not wait for this, and would read zeros.
        torch.cuda._sleep(100_000_000)
        image.copy_(copy)
        again = everything()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(expected, again, strict=True))


def test_cuda_graph(large: Tensor) -> None:
    image = large.float().cuda()
    coefficients = torch.randn(10, dtype=torch.float64)
    factors = ops.matting_factors(image, EPS)
    x = image.clone()
    ops.matting_filter(image, factors, x, coefficients)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = ops.matting_filter(image, factors, x, coefficients)
    x.copy_(image.flip(-1))
    graph.replay()
    assert torch.equal(captured, ops.matting_filter(image, factors, x, coefficients))


def test_cuda_graph_of_gram() -> None:
    h, grad = torch.randn(2, 2, 64, 40, 50, device="cuda")
    target = torch.randn(1, 64, 64, device="cuda")

    def both() -> tuple[Tensor, ...]:
        backward = ops.gram_correction_backward(h, target, grad)
        return ops.gram_correction(h, target), *backward

    both()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = both()
    h.copy_(torch.randn_like(h))
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(captured, both(), strict=True))
