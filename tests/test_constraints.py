"""Photoreal on rough updates of photographs; per-pixel constraints; combinations of constraints."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from reference import aggressive_update, relative_error
from skimage.restoration import denoise_tv_chambolle
from torch import Tensor

from fastfcs import LowPass, MattingLaplacian
from fastfcs.constraints import (
    Clip,
    GraphLowPass,
    KeepColour,
    KeepLuminance,
    KeepShadows,
    KeepSkin,
    KeepText,
    Masked,
    Photoreal,
    ProximalContent,
    ResidualProjection,
    SoftChroma,
    SoftClip,
    TotalVariation,
    compose,
)
from fastfcs.constraints.registry import BetweenUpdates
from fastfcs.losses import luma

Photo = Callable[[str, int], Tensor]


def test_photoreal_removes_non_photographic_structure(photo: Photo, any_photo: str) -> None:
    content = photo(any_photo, 160)
    x = aggressive_update(content)
    laplacian = MattingLaplacian(content)
    result = Photoreal(content).projection(x)
    assert result.dtype == torch.float64
    before, after = laplacian.energy(x).item(), laplacian.energy(result).item()
    assert after < 1e-3 * before
    # The projection keeps the update's mean colour.
    torch.testing.assert_close(result.mean((2, 3)), x.mean((2, 3)), atol=1e-4, rtol=0)
    # A lower cutoff is closer to the content's structure.
    projections = [Photoreal(content, cutoff).projection for cutoff in (1.0, 0.1)]
    energies = [laplacian.energy(projection(x)).item() for projection in projections]
    assert after < energies[1] < energies[0]


def test_photoreal_filters_the_change() -> None:
    content, x = torch.rand(2, 2, 3, 9, 12)
    change = LowPass(0.2, 20)(MattingLaplacian(content, 1e-3), x - content)
    photoreal = Photoreal(content, 0.2, 20, 1e-3)
    torch.testing.assert_close(photoreal.projection(x), content + change)
    pulled = ProximalContent(content, 0.05)(x)
    pulled = pulled + 0.1 * luma(content - pulled)
    steps = [KeepSkin(content), KeepShadows(content), KeepText(content), SoftClip(content)]
    bounded = compose(steps)(pulled)
    torch.testing.assert_close(photoreal(x), photoreal.project(bounded))
    torch.testing.assert_close(photoreal.finish(x), SoftClip(content)(KeepText(content).finish(x)))


def test_luma_may_pass_another_filter_than_chroma() -> None:
    content, x = torch.rand(2, 1, 3, 24, 31)
    narrow, wide = LowPass(0.01), LowPass(0.5)
    found = Photoreal(content, narrow, luma_lowpass=wide)
    plain = Photoreal(content, narrow)
    change, by_p = found.projection(x) - content, plain.projection(x) - content
    laplacian = MattingLaplacian(content, 1e-4)
    torch.testing.assert_close(luma(change), wide(laplacian, luma(x - content)))
    torch.testing.assert_close(change - luma(change), by_p - luma(by_p))
    torch.testing.assert_close(plain.project(x, narrow, wide), found.project(x))


def polynomial(content: Tensor, change: Tensor, weight: Tensor, ridge: float) -> Tensor:
    """The quadratic polynomial of the colours that NumPy finds by least squares with a ridge."""
    r, g, b = (2 * content.numpy() - 1).reshape(3, -1)
    monomials = np.stack([r**0, r, g, b, r * r, g * g, b * b, r * g, g * b, b * r], 1)
    w = np.sqrt(weight.numpy().reshape(-1, 1) / weight.sum().item())
    rows = np.concatenate([w * monomials, math.sqrt(ridge) * np.eye(10)])
    values = np.concatenate([w * change.numpy().reshape(3, -1).T, np.zeros((10, 3))])
    fitted = monomials @ np.linalg.lstsq(rows, values)[0]
    return torch.from_numpy(fitted.T.reshape(change.shape))


def test_a_function_of_the_colours_passes(photo: Photo) -> None:
    content = photo("coffee", 96).float()
    change = aggressive_update(content) - content
    photoreal, everywhere = Photoreal(content), torch.ones_like(content[:, :1])
    chroma = change - luma(change)
    function = polynomial(content.double(), chroma.double(), everywhere, 1e-4).float()
    expected = photoreal.projection(content + change - function) + function
    torch.testing.assert_close(photoreal.project(content + change), expected, atol=1e-4, rtol=0)
    # A step of L alone would damp it, most of all where the content is nearly even.
    passed, filtered = (
        relative_error(project(content + function) - content, function)
        for project in (photoreal.project, photoreal.projection)
    )
    assert passed < 0.05
    assert filtered > 3 * passed


def test_no_border_of_a_region_shows(photo: Photo) -> None:
    """What passes the filter is the same function of the colours in all regions."""
    content = photo("coffee", 96).float()
    masks = torch.zeros(2, *content.shape[-2:])
    masks[0, :, :40] = masks[1, :, 40:] = 1
    x = content + 0.3 * masks[1] * torch.tensor([0.7, -0.3, -0.3]).view(3, 1, 1)
    projected = Photoreal(content, regions=masks).project(x)
    torch.testing.assert_close(projected, Photoreal(content).project(x))


@pytest.mark.parametrize("grey", [0.0, 0.5, 1.0])
def test_few_colours_are_no_reason_for_large_changes(grey: float) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(1, 1, 700, 500, generator=generator).mul(4).round() / 255
    content = (grey + noise - 2 / 255).clamp(0, 1).expand(1, 3, 700, 500)
    change = 0.3 * torch.rand(1, 3, 700, 500, generator=generator)
    recoloured = Photoreal(content).project(content + change) - content
    mean = change.mean((2, 3), keepdim=True)
    assert (recoloured - mean).abs().max() < 1.5 / 255


def test_the_change_follows_no_blocks() -> None:
    """A black sky whose JPEG blocks differ by a few grey levels is made bright."""
    generator = torch.Generator().manual_seed(0)
    blocks = torch.rand(1, 1, 5, 6, generator=generator).mul(3).round() / 255
    sky = blocks.repeat_interleave(8, 2).repeat_interleave(8, 3).expand(1, 3, 40, 48)
    bright = (12 * sky + 0.3).clamp(0, 1)
    rough = []
    for options in ({}, {"cutoff": 0.0003, "eps": 1e-7}):
        change = Photoreal(sky, **options).projection(bright) - sky
        rough.append(float((change - change.mean((2, 3), keepdim=True)).std()))
    assert float((bright - sky).std()) > 10 / 255
    assert rough[0] < 1 / 255
    assert rough[0] < 0.6 * rough[1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_unchanged_content_comes_back(photo: Photo, dtype: torch.dtype) -> None:
    content = photo("chelsea", 64).to(dtype)
    assert torch.equal(Photoreal(content)(content), content)


def test_photoreal_is_differentiable() -> None:
    content = torch.rand(1, 3, 8, 8)
    x = torch.rand(1, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    Photoreal(content, 0.5)(x).square().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float64
    assert x.grad.abs().sum() > 0


def test_an_unchanged_content_has_the_gradient_of_the_identity() -> None:
    content = torch.rand(1, 3, 8, 8, requires_grad=True)
    weights = torch.rand(1, 3, 8, 8)
    (Photoreal(content)(content) * weights).sum().backward()
    torch.testing.assert_close(content.grad, weights)


def test_compose_applies_first_to_last() -> None:
    x = torch.tensor([2.0])
    assert compose([lambda y: y + 1, lambda y: y * 10])(x) == 30
    assert compose([])(x) is x


def test_change_projects_the_change_only() -> None:
    content, x = torch.rand(2, 1, 3, 5, 6, dtype=torch.float64)
    half = ResidualProjection(content, lambda y: y / 2)
    torch.testing.assert_close(half(x), (content + x) / 2)
    assert torch.equal(half(content), content)


def test_clip() -> None:
    x = torch.tensor([-0.5, 0.25, 1.5])
    assert Clip()(x).tolist() == [0, 0.25, 1]
    assert Clip(-1, 0)(x).tolist() == [-0.5, 0, 0]
    with pytest.raises(ValueError, match="low must be at most high, 0, got 1"):
        Clip(1, 0)


def test_soft_clip_compresses_where_clip_cuts() -> None:
    content = torch.full((1, 3, 1, 2), 0.5, dtype=torch.float64)
    soft = SoftClip(content)
    for x in (0.2, 0.5, 0.8):  # between 0.25 C and 1 - 0.25 (1 - C) nothing changes
        assert torch.equal(soft(content * 0 + x), content * 0 + x)
    for x in (-0.3, 0.0, 0.1):
        low = soft(content * 0 + x)
        torch.testing.assert_close(low, content * 0 + 0.125 * math.exp(x / 0.125 - 1))
        torch.testing.assert_close(soft(content * 0 + 1 - x), 1 - low)
    x = torch.randn(1, 3, 1, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(soft, (x,))
    assert soft(x.half()).dtype == torch.float16


def test_soft_clip_keeps_the_detail_of_shadows(photo: Photo) -> None:
    """Values driven far below 0 end up dark, but in proportion to the photograph."""
    content = photo("chelsea", 64).float()
    content[..., :2] = 0  # black must not cause a division by zero
    assert torch.equal(SoftClip(content)(content), content)
    result = SoftClip(content)(content * 0 - 0.1)
    assert 0 <= result.min() <= result.max() < 0.2
    correlation = torch.corrcoef(torch.stack([result.flatten(), content.flatten()]))[0, 1]
    assert correlation > 0.9
    for shift in (-9.0, 9.0):
        far = SoftClip(content)(content + shift)
        assert 0 <= far.min() <= far.max() <= 1


def chroma(image: Tensor) -> Tensor:
    return (image - luma(image)).norm(dim=1, keepdim=True)


def test_soft_chroma_bounds_chroma_alone(photo: Photo) -> None:
    content, style = photo("chelsea", 64), photo("rocket", 64)
    limit = torch.full((1, 1, 1, 1), 0.3, dtype=torch.float64)
    bound = SoftChroma(content, limit)
    assert torch.equal(bound(content), content)  # though some of it lies above the limit
    assert (chroma(content) > 0.3).any()
    x = (4 * style - 1.5 * content).requires_grad_()
    found = bound(x)
    torch.testing.assert_close(luma(found), luma(x))
    before, after, own = chroma(x), chroma(found), chroma(content)
    torch.testing.assert_close(found - luma(found), (x - luma(x)) * after / before)  # the hue
    assert (after <= torch.maximum(own, limit) + 1e-6).all()
    same = before <= torch.maximum(own, 0.6 * limit)
    assert same.any()
    assert not same.all()
    torch.testing.assert_close(after[same], before[same])
    assert (after[~same] < before[~same]).all()
    more = chroma(bound(luma(x) + 1.01 * (x - luma(x))))
    assert (more >= after - 1e-9).all()  # of two colours the stronger one stays the stronger
    small = SoftChroma(content[..., :4, :4], limit)
    assert torch.autograd.gradcheck(small, (x.detach()[..., :4, :4].requires_grad_(),))
    assert not bound(torch.full_like(content, 0.5)).sub(0.5).any()  # grey has none


def test_photographs_have_the_chroma_of_their_style(photo: Photo) -> None:
    """Of the styles of two regions, one is grey."""
    content = photo("chelsea", 64).float()
    masks = torch.zeros(2, *content.shape[-2:])
    masks[0, :, :30] = masks[1, :, 30:] = 1
    x = content + 0.6 * (content.roll(1, 1) - content.roll(2, 1))
    plain = Photoreal(content, regions=masks).finish(x)
    found = Photoreal(content, regions=masks, chroma=torch.tensor([0.0, 9.0])).finish(x)
    torch.testing.assert_close(found[..., 30:], plain[..., 30:])
    assert (chroma(found) <= chroma(content) + 0.01)[..., :30].all()
    assert (chroma(plain) > chroma(content) + 0.1)[..., :30].any()


def test_proximal_content_is_a_proximal_step() -> None:
    content, x = torch.rand(2, 1, 3, 4, 5, dtype=torch.float64)
    pull = ProximalContent(content, 0.25)
    y = pull(x).requires_grad_()
    (0.5 * (y - x).square().sum() + 0.125 * (y - content).square().sum()).backward()
    assert y.grad is not None
    assert y.grad.abs().max() < 1e-12
    assert torch.equal(ProximalContent(content, 0)(x), x)
    assert torch.equal(pull(content), content)
    assert pull(x.half()).dtype == torch.float16
    with pytest.raises(ValueError, match="weight must be at least 0, got -1"):
        ProximalContent(content, -1)


def yiq(x: Tensor) -> tuple[Tensor, Tensor]:
    """Y, (B,1,H,W), and I and Q, (B,2,H,W)."""
    matrix = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    return tuple(torch.einsum("cd,bdhw->bchw", matrix.double(), x).split([1, 2], 1))


def test_luminance_and_colour_of_the_content_are_kept() -> None:
    content, x = torch.rand(2, 2, 3, 4, 5, dtype=torch.float64)
    luminance, colour = KeepLuminance(content)(x), KeepColour(content)(x)
    for result, of_y, of_iq in ((luminance, content, x), (colour, x, content)):
        torch.testing.assert_close(yiq(result)[0], yiq(of_y)[0])
        torch.testing.assert_close(yiq(result)[1], yiq(of_iq)[1])
    for constraint in (KeepLuminance(content), KeepColour(content)):
        torch.testing.assert_close(constraint(constraint(x)), constraint(x))
        torch.testing.assert_close(constraint(content), content)
        assert constraint(x.half()).dtype == torch.float16


@pytest.mark.parametrize("weight", [0.05, 0.2])
def test_total_variation_is_the_minimiser(photo: Photo, weight: float) -> None:
    x = photo("chelsea", 48)
    x = x + 0.1 * torch.randn_like(x)
    result = TotalVariation(weight)(x)
    for channel, ours in zip(x[0], result[0], strict=True):
        reference = denoise_tv_chambolle(channel.numpy(), weight, eps=1e-12, max_num_iter=5000)
        assert (ours - torch.from_numpy(reference)).square().mean().sqrt() < 1e-3 * weight / 0.1
    # It commutes with adding a constant, and preserves the mean.
    torch.testing.assert_close(TotalVariation(weight)(x + 1), result + 1)
    torch.testing.assert_close(result.mean((2, 3)), x.mean((2, 3)))


def test_total_variation_checks_arguments_and_differentiates() -> None:
    with pytest.raises(ValueError, match="weight must be positive and finite, got 0"):
        TotalVariation(0)
    with pytest.raises(ValueError, match="iterations must be an integer of at least 1, got 0"):
        TotalVariation(0.1, 0)
    x = torch.rand(1, 1, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(TotalVariation(0.1, 5), (x,))
    assert TotalVariation(0.1)(x.half()).dtype == torch.float16


def test_masked_changes_nothing_outside_the_mask() -> None:
    x = torch.rand(2, 3, 4, 6)
    mask = torch.zeros(1, 1, 4, 6)
    mask[..., 2], mask[..., 3:] = 0.25, 1
    result = Masked(mask, lambda y: 1 - y)(x)
    assert torch.equal(result[..., :2], x[..., :2])
    torch.testing.assert_close(result[..., 2], 0.75 * x[..., 2] + 0.25 * (1 - x[..., 2]))
    torch.testing.assert_close(result[..., 3:], 1 - x[..., 3:])


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (torch.ones(4, 6), r"mask must be \(B, 1, H, W\), got \(4, 6\)"),
        (torch.full((1, 1, 4, 6), 255.0), r"mask must be .* \[0, 1\], got values from 255 to 255"),
        (torch.full((1, 1, 4, 6), torch.nan), "mask must be .* got values from nan"),
    ],
)
def test_masked_checks_the_mask(mask: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Masked(mask, Clip())


def test_masked_checks_the_size() -> None:
    with pytest.raises(ValueError, match="x must have the height and width of mask"):
        Masked(torch.ones(1, 1, 4, 1), Clip())(torch.rand(1, 3, 4, 6))


@pytest.mark.parametrize(
    "made",
    [
        Photoreal,
        SoftClip,
        lambda content: SoftChroma(content, content[:, :1]),
        KeepColour,
        KeepLuminance,
        lambda content: ProximalContent(content, 0.1),
        lambda content: GraphLowPass(content, LowPass(0.1)),
        lambda content: ResidualProjection(content, Clip()),
    ],
)
def test_contents_that_are_not_images_raise(made) -> None:
    content = torch.rand(1, 3, 8, 9)
    made(content)
    with pytest.raises(ValueError, match=r"content must be floating, .* got torch\.uint8"):
        made((255 * content).byte())
    for other, text in ((2 * content, "from .* to 1.9"), (content * torch.nan, "nan")):
        with pytest.raises(ValueError, match=rf"content must be finite and in \[0, 1\], .*{text}"):
            made(other)


def test_coarse_projection_resembles_the_projection(photo: Photo, any_photo: str) -> None:
    content = photo(any_photo, 161).float()
    x = aggressive_update(content)
    photoreal = Photoreal(content)
    coarse = photoreal.coarse_projection()
    expected, found = photoreal.project(x), coarse(x)
    assert (found - expected).norm() < 0.2 * (expected - content).norm()
    assert (found - expected).norm() < 0.5 * (x - expected).norm()
    torch.testing.assert_close(coarse(content), content, atol=1e-6, rtol=0)
    affine = content.flip(1) * 0.5 + 0.1  # of the content's colours, which passes
    assert (coarse(affine) - affine).norm() < 0.2 * (affine - content).norm()


def test_the_last_projection_is_at_full_size(photo: Photo) -> None:
    content = photo("coffee", 64).float()
    x = aggressive_update(content)
    photoreal = Photoreal(content)
    between = BetweenUpdates(("photoreal",), content, updates=3)
    early = photoreal.coarse_projection()(photoreal.bound(x))
    for expected in (early, early, photoreal(x)):
        torch.testing.assert_close(between(x), expected)
