"""The operators on the CPU against plain float64 formulas, and what they refuse."""

import pytest
import reference
import torch
from torch import Tensor
from torch.library import opcheck

from fastfcs import ops

COEFFICIENTS = torch.tensor([0.5, -0.3, 0.2, 0.1, -0.05], dtype=torch.float64)
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-11}
HALF_TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 1e-2}


def relative(actual: Tensor, expected: Tensor) -> float:
    return ((actual.double() - expected).norm() / expected.norm()).item()


def rand(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(shape, dtype=torch.float64).to(dtype)


def features(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=torch.float64).to(dtype)


def test_factors_are_the_triangle_of_the_inverse() -> None:
    image = rand(2, 3, 6, 9)
    factors = ops.matting_factors(image, 1e-4).permute(0, 2, 3, 1)
    mean, inverse = reference.matting_inverse(image, 1e-4)
    k = torch.zeros_like(inverse)
    rows, columns = torch.triu_indices(3, 3)
    k[..., rows, columns] = factors[..., 3:]
    torch.testing.assert_close(factors[..., :3], mean, rtol=0, atol=1e-15)
    assert relative(k @ k.mT, inverse) < 1e-12


def test_factors_of_a_flat_image_are_those_of_eps() -> None:
    factors = ops.matting_factors(torch.full((1, 3, 4, 5), 0.3), 1e-7)
    k = (9 / 1e-7) ** 0.5
    expected = torch.tensor([k, 0, 0, k, 0, k]).view(1, 6, 1, 1).expand(1, 6, 2, 3)
    torch.testing.assert_close(factors[:, 3:], expected)


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
    assert relative(product, reference.matting_matvec(image, x)) < TOLERANCE[dtype]
    assert relative(filtered, reference.matting_filter(image, x, COEFFICIENTS)) < TOLERANCE[dtype]


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_filter_of_low_order(order: int) -> None:
    image, x = rand(1, 3, 8, 9), rand(1, 3, 8, 9)
    factors, coefficients = ops.matting_factors(image), COEFFICIENTS[: order + 1]
    before = x.clone()
    filtered = ops.matting_filter(image, factors, x, coefficients)
    assert relative(filtered, reference.matting_filter(image, x, coefficients)) < 1e-12
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


def test_threads_change_nothing() -> None:
    image, x = rand(1, 3, 301, 403), rand(1, 3, 301, 403)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        factors = ops.matting_factors(image)
        results.append((factors, ops.matting_filter(image, factors, x, COEFFICIENTS)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


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
    assert relative(gram, reference.gram(h)) < TOLERANCE[gram.dtype]

    target = features(targets, 5, 5, dtype=gram.dtype)
    correction = ops.gram_correction(h, target)
    tolerance = HALF_TOLERANCE.get(dtype) or TOLERANCE[dtype]
    assert correction.dtype == dtype
    assert relative(correction, reference.gram_correction(h, target)) < tolerance

    dh, dtarget = ops.gram_correction_backward(h, target, grad)
    expected = reference.gram_correction_backward(h, target, grad)
    assert (dh.dtype, dtarget.dtype, dtarget.shape) == (dtype, gram.dtype, target.shape)
    assert relative(dh, expected[0]) < tolerance
    assert relative(dtarget, expected[1]) < TOLERANCE[gram.dtype]


def test_autocast_does_not_lower_gram() -> None:
    h, target = features(1, 8, 20, 20, dtype=torch.float32), torch.zeros(1, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ops.gram(h), ops.gram(h.clone()))
        assert relative(ops.gram(h), reference.gram(h)) < 1e-6
        assert relative(ops.gram_correction(h, target), reference.gram_correction(h, target)) < 1e-6


def samples() -> dict[str, tuple]:
    image, x = rand(2, 3, 5, 6), rand(2, 2, 5, 6).requires_grad_()
    h, target = features(2, 3, 4, 5).requires_grad_(), features(2, 3, 3).requires_grad_()
    factors = ops.matting_factors(image, 1e-2)
    return {
        "matting_factors": (image, 1e-2),
        "matting_matvec": (image, factors, x),
        "matting_filter": (image, factors, x, COEFFICIENTS),
        "gram": (h,),
        "gram_correction": (h, target),
        "gram_correction_backward": (h.detach(), target.detach(), features(2, 3, 4, 5)),
    }


@pytest.mark.parametrize("name", samples())
def test_opcheck(name: str) -> None:
    opcheck(getattr(torch.ops.fastfcs, name).default, samples()[name])


@pytest.mark.parametrize("name", ["matting_matvec", "matting_filter", "gram", "gram_correction"])
def test_gradients(name: str) -> None:
    assert torch.autograd.gradcheck(getattr(ops, name), samples()[name])


def test_gradient_of_one_target_for_the_batch() -> None:
    h = features(3, 2, 4, 3).requires_grad_()
    target = features(1, 2, 2).requires_grad_()
    assert torch.autograd.gradcheck(ops.gram_correction, (h, target))


@pytest.mark.parametrize("name", ["matting_matvec", "matting_filter", "gram"])
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
            "image must be float32 or float64, got Byte",
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
            "factors must have shape (1, 9, 3, 4), those of image (1, 3, 5, 6), got (1, 9, 3, 3)",
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
            "h must have shape (B, C, H, W) with H and W at least 1, got (4, 5)",
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
    ],
)
def test_refusals(call, sentence: str) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011  the sentence is compared whole
        call()
    assert str(refusal.value) == sentence
