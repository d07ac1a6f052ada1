"""Large photographs: restyled small, the change applied at full size."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from pictures import noise
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from fastfcs import images
from fastfcs.constraints import SoftClip
from fastfcs.images import Picture, cicp, image_to_tensor
from fastfcs.large import apply_change, fit_change
from fastfcs.losses import gradient_ssim
from fastfcs.network import UnrolledSolver
from fastfcs.stylizer import Stylizer

SIDE = 96


@pytest.fixture(scope="module")
def solver() -> UnrolledSolver:
    torch.manual_seed(0)
    network = UnrolledSolver(updates=2, channels=(8, 8))
    network.initialise(noise(1, 3, 64, 64), noise(1, 3, 64, 64, seed=2) / 2)
    return network.requires_grad_(False)


@pytest.fixture
def stylizer(solver: UnrolledSolver) -> Stylizer:
    style = noise(3, 100, 100, seed=3) * torch.tensor([1.0, 0.6, 0.3]).view(3, 1, 1)
    return Stylizer(style, weights=solver, constraint="photoreal", solve_size=SIDE)


@pytest.fixture
def content(photo: Callable[[str, int], Tensor]) -> Tensor:
    return photo("coffee", 300)[0].float()


def small(image: Tensor) -> Tensor:
    return images.fit(image[None], SIDE)[0]


def test_the_result_reduced_is_the_small_result(stylizer: Stylizer, content: Tensor) -> None:
    large, want = stylizer(content), stylizer(small(content))
    assert large.shape == content.shape
    assert (want - small(content)).abs().mean() > 0.05
    assert (small(large) - want).abs().mean() < 0.006


def test_edges_and_grain_are_the_large_picture_s(stylizer: Stylizer, content: Tensor) -> None:
    """A result that is merely enlarged loses both."""
    kept = gradient_ssim(stylizer(content)[None].double(), content[None].double())
    enlarged = F.interpolate(stylizer(small(content))[None], content.shape[1:], mode="bicubic")
    blurred = gradient_ssim(enlarged.clamp(0, 1).double(), content[None].double())
    assert blurred < 0.8 < 0.9 < kept
    grain = content + 0.02 * (noise(*content.shape) - 0.5)
    grain = grain.clamp(0, 1)
    change = stylizer(grain) - grain
    assert change.std(dim=(1, 2)).max() < 0.15  # smooth: the grain itself has passed
    assert gradient_ssim(stylizer(grain)[None].double(), grain[None].double()) > 0.9


def test_every_kind_of_image_agrees(stylizer: Stylizer, content: Tensor) -> None:
    samples = images.to_samples(content, 8)
    want = stylizer(images.from_samples(samples))
    for kind in (samples, Image.fromarray(samples), Picture(torch.tensor(samples).movedim(-1, 0))):
        found = stylizer(kind)
        assert type(found) is type(kind)
        pixels = image_to_tensor("result", found).pixels[0]
        assert (pixels - want).abs().max() < 0.6 / 255
    deep = samples.astype(np.uint16) * 257
    found = stylizer(deep)
    assert found.dtype == np.uint16
    assert np.abs(found / 65535 - want.movedim(0, -1).numpy()).max() < 2e-5
    doubled = stylizer(torch.stack([images.from_samples(samples)] * 2))
    assert (doubled[1] - want).abs().max() < 1e-4
    half = stylizer(images.from_samples(samples).half())
    assert half.dtype == torch.half
    assert (half.float() - want).abs().max() < 2e-3


def test_samples_are_not_copied_as_floats(
    stylizer: Stylizer, content: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No tensor of floats is as large as the picture while it is read, restyled and written."""
    from fastfcs.images import convert, samples

    stream = BytesIO()
    large = content.repeat(1, 4, 4)
    images.write(Picture(large), stream, "JPEG")
    pixels, original = [], samples.to_floats

    def to_floats(planes: Tensor) -> Tensor:
        pixels.append(planes.shape[1] * planes.shape[2])
        return original(planes)

    for module in (convert, samples, images.picture):
        monkeypatch.setattr(module, "to_floats", to_floats)
    monkeypatch.setattr(convert, "_BAND", 1 << 14)
    stream.seek(0)
    picture = images.read(stream)
    result = stylizer(picture)
    images.write(result, BytesIO(), "JPEG")
    assert result.samples.dtype == picture.samples.dtype == torch.uint8
    assert pixels
    assert max(pixels) < large[0].numel() / 10


@pytest.mark.parametrize("depth", [8, 16])
def test_colour_profile_alpha_and_hidden_pixels(
    stylizer: Stylizer, content: Tensor, depth: int
) -> None:
    icc, _ = cicp.profile(primaries=12, transfer=13)  # Display P3
    samples = torch.tensor(images.to_samples(content, depth)).movedim(-1, 0)
    alpha = torch.ones(content.shape[1:])
    alpha[:, :60] = 0
    picture = Picture(samples, alpha, icc=icc, depth=depth)
    result = stylizer(picture)
    assert (result.icc, result.depth) == (icc, depth)
    assert torch.equal(result.alpha, alpha)
    assert torch.equal(result.samples[:, :, :60].int(), samples[:, :, :60].int())
    assert (result.pixels - picture.pixels)[:, :, 60:].abs().mean() > 0.03
    # In sRGB it is nearly what the same colours without a profile become.
    plain = stylizer(Picture(picture.srgb, alpha, depth=depth))
    assert (plain.pixels - result.srgb)[:, :, 60:].abs().mean() < 0.02


@pytest.mark.parametrize("depth", [8, 16])
def test_the_rim_of_a_cut_out_changes_like_its_middle(depth: int) -> None:
    """Hidden pixels, which do not change, must not hold back their neighbours."""
    grey = torch.full((3, 400, 400), 0.4)
    alpha = torch.ones(400, 400)
    alpha[:, :200] = 0
    samples = torch.tensor(images.to_samples(grey, depth)).movedim(-1, 0)
    large = image_to_tensor("content", Picture(samples, alpha, depth=depth))
    reduced = large.reduced(80)
    result = apply_change(large, fit_change(reduced, reduced.pixels + 0.2))[0, 0].int()
    assert (result[:, :200] == samples[0, 0, 0]).all()
    assert (result[:, 200:] - result[0, 399]).abs().max() <= 1
    assert result[0, 399] > 1.4 * int(samples[0, 0, 0])


def test_strength_regions_and_other_constraints(stylizer: Stylizer, content: Tensor) -> None:
    stylizer.strength = 0
    samples = images.to_samples(content, 8)
    np.testing.assert_array_equal(stylizer(samples), samples)
    stylizer.strength = 1
    full = stylizer(content)
    stylizer.strength = 0.5
    assert ((stylizer(content) - (content + full) / 2).abs().mean()) < 0.01
    stylizer.strength = 1
    stylizer.constraint = ["photoreal", "keep-luminance"]
    luma = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    difference = ((stylizer(content) - content) * luma).sum(0)
    assert difference.abs().mean() < 0.02 < (stylizer(content) - content).abs().mean()
    stylizer.constraint = "photoreal"
    tints = [1, 0.1, 0.1], [0.1, 0.1, 1]
    red, blue = (torch.tensor(tint).view(3, 1, 1) * noise(3, 80, 80) for tint in tints)
    stylizer.set_style([red, blue])
    masks = torch.zeros(2, *content.shape[1:])
    masks[0, :, :150], masks[1, :, 150:] = 1, 1
    warmth = (stylizer(content, masks) - content)[0] - (stylizer(content, masks) - content)[2]
    assert warmth[:, :140].mean() > warmth[:, 160:].mean() + 0.05


def test_an_edge_does_not_glow(solver: UnrolledSolver) -> None:
    """Along a step between dark and bright, neither side leaves its own colours."""
    content = torch.full((3, 256, 256), 0.15)
    content[:, :, 128:] = 0.85
    style = noise(3, 100, 100, seed=3) * torch.tensor([0.9, 0.5, 0.2]).view(3, 1, 1)
    result = Stylizer(style, weights=solver, constraint="photoreal", solve_size=64)(content)
    dark, bright = result[:, 32:-32, 32:128], result[:, 32:-32, 128:-32]
    for side, near in ((dark, dark[:, :, -6:]), (bright, bright[:, :, :6])):
        assert (near.mean((1, 2)) - side.mean((1, 2))).abs().max() < 0.06


def test_small_contents_and_none_are_restyled_at_their_own_size(
    stylizer: Stylizer, content: Tensor
) -> None:
    assert stylizer.solved_at(200, 300) == (64, 96)
    assert stylizer.solved_at(60, 90) == (60, 90)
    assert stylizer.solved_at(20, 3000) == (16, 2400)  # the shorter side keeps 16 pixels
    assert stylizer.solved_at(16, 3000) == (16, 3000)
    whole = stylizer(content)
    stylizer.solve_size = None
    assert stylizer.solved_at(200, 300) == (200, 300)
    assert (stylizer(content) - whole).abs().mean() > 1e-3
    stylizer.solve_size = SIDE
    stylizer.constraint = ["photoreal", lambda x: x]
    assert stylizer.solved_at(200, 300) == (200, 300)
    stylizer.constraint = None
    assert stylizer.solved_at(200, 300) == (200, 300)


def test_gradients_flow_to_the_content(stylizer: Stylizer, content: Tensor) -> None:
    content = content.clone().requires_grad_()
    stylizer(content).square().mean().backward()
    assert content.grad is not None
    assert content.grad.isfinite().all()
    assert (content.grad != 0).float().mean() > 0.9


@pytest.mark.parametrize("value", [0, 15])
def test_a_solve_size_that_is_too_small_raises(solver: UnrolledSolver, value: int) -> None:
    with pytest.raises(ValueError, match=f"^solve_size must be None or at least 16, got {value}$"):
        Stylizer(weights=solver, solve_size=value)


def test_soft_clipping_has_an_inverse() -> None:
    content, x = noise(1, 3, 20, 20).double(), 1.2 * noise(1, 3, 20, 20, seed=2).double() - 0.1
    soft_clip = SoftClip(content)
    bent = soft_clip(x)
    again = soft_clip(soft_clip.inverse(bent))
    assert (again - bent).abs().max() < 0.01
    known = (bent > 0.02 * content) & (1 - bent > 0.02 * (1 - content))
    assert (soft_clip.inverse(bent) - x)[known].abs().max() < 1e-9
    assert torch.equal(soft_clip.inverse(content), content)


def test_what_the_small_picture_cannot_show_is_bent_and_not_cut() -> None:
    """Three bright pixels in a grey field, brightened with it."""
    content = torch.full((1, 3, 240, 240), 0.6)
    content[..., 100:103, 100] = torch.tensor([0.85, 0.88, 0.91])
    large = image_to_tensor("content", content)
    reduced = large.reduced(60)
    result = apply_change(large, fit_change(reduced, (reduced.pixels + 0.1).clamp(0, 1)))
    bright = result[0, 0, 100:103, 100]
    assert bright.diff().gt(0).all()
    assert result.max() < 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_large_files_are_turned_upright_band_by_band(
    orientation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastfcs.images import samples

    monkeypatch.setattr(samples, "_BAND", 64)
    image = Image.fromarray(images.to_samples(noise(3, 20, 30), 8))
    image.getexif()[0x0112] = orientation
    stream = BytesIO()
    image.save(stream, "PNG", exif=image.getexif())
    stream.seek(0)
    from PIL import ImageOps

    want: Any = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(images.to_samples(images.read(stream).samples, 8), want)
