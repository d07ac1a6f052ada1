"""Pictures that style transfer spoils easily: text, product shots, portraits and night.

The contents are drawn here or come from scikit-image, and so do the styles.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import skimage.color
import skimage.data
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import uniform_filter
from torch import Tensor

from fastfcs import Stylizer
from fastfcs.constraints import EvenGround, KeepShadows, KeepSkin, KeepText, ground, windows

STYLES = ["coffee", "rocket", "leaves", "water"]


def as_tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)[None] / 255


def resized(array: NDArray[Any], side: int) -> Image.Image:
    picture = Image.fromarray(array)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return picture


@cache
def style(name: str) -> Tensor:
    if name in ("coffee", "rocket"):
        return as_tensor(resized(getattr(skimage.data, name)(), 200))
    # Grass tinted green, and gravel tinted blue: nothing in them is skin.
    texture, tint = {
        "leaves": (skimage.data.grass(), (0.45, 0.9, 0.25)),
        "water": (skimage.data.gravel(), (0.5, 0.75, 1.0)),
    }[name]
    return as_tensor(resized(texture, 200)) * torch.tensor(tint).view(3, 1, 1)


@cache
def restyled(scene: str, style_name: str, constraint: str | None = "photoreal") -> Tensor:
    return Stylizer(style(style_name), constraint=constraint)(content(scene))


@cache
def content(scene: str) -> Tensor:
    picture = Image.new("RGB", (224, 160), "white")
    draw = ImageDraw.Draw(picture)
    if scene == "screen":
        for y in range(6, 150, 18):
            draw.text((8, y), "The quick brown fox 0123", (25, 25, 25), ImageFont.load_default(11))
        draw.rectangle((168, 110, 210, 145), (30, 100, 225))
    elif scene == "product":
        draw.ellipse((70, 30, 150, 130), (200, 40, 40))
        draw.ellipse((90, 50, 110, 70), (230, 125, 115))
    elif scene == "studio":
        picture.paste((128, 128, 128), (0, 0, 224, 160))
        draw.ellipse((70, 30, 150, 130), (40, 60, 160))
    elif scene == "signs":  # light on dark
        picture.paste("black", (0, 0, 224, 160))
        for y in range(6, 150, 18):
            draw.text((8, y), "OPEN 24 HOURS A DAY", (235, 235, 235), ImageFont.load_default(11))
    elif scene == "page":
        picture = resized(skimage.data.page(), 300)
    elif scene == "night":
        noise = np.random.default_rng(0).normal(0, 2, (200, 200, 1))
        day = np.asarray(resized(skimage.data.stereo_motorcycle()[0], 200), float)
        dark = day * 0.15 + noise[: day.shape[0], : day.shape[1]]
        picture = Image.fromarray(dark.clip(0, 255).astype(np.uint8))
    elif scene == "portrait":
        picture = Image.fromarray(skimage.data.astronaut()[:340, 60:400]).resize((200, 200))
    return as_tensor(picture)


def luma(image: Tensor) -> NDArray[np.float64]:
    return np.tensordot([0.299, 0.587, 0.114], image[0].double().numpy(), 1)


def lab(image: Tensor) -> NDArray[np.float64]:
    result: NDArray[np.float64] = skimage.color.rgb2lab(image[0].permute(1, 2, 0).double().numpy())
    return result


def contrast(scene: Tensor, image: Tensor, sign: int) -> float:
    """The mean luminance of the ground near strokes, minus that of the strokes of a scene."""
    y, z = luma(scene), luma(image)
    local = uniform_filter(y, 25)
    strokes = (y - local) * sign > 0.1
    ground = ((y - local) * sign < 0.02).astype(float)
    around = uniform_filter(z * ground, 25) / uniform_filter(ground, 25).clip(1e-6)
    assert strokes.mean() > 0.02
    return float((sign * (z - around))[strokes].mean())


@pytest.mark.parametrize("style_name", STYLES)
@pytest.mark.parametrize(("scene", "sign"), [("screen", -1), ("page", -1), ("signs", 1)])
def test_text_stays_legible(scene: str, sign: int, style_name: str) -> None:
    before = contrast(content(scene), content(scene), sign)
    assert contrast(content(scene), restyled(scene, style_name), sign) > 0.7 * before


@pytest.mark.parametrize("constraint", ["photoreal", None])
@pytest.mark.parametrize("style_name", STYLES)
@pytest.mark.parametrize("scene", ["product", "studio", "screen"])
def test_an_even_ground_stays_even(scene: str, style_name: str, constraint: str | None) -> None:
    before, after = content(scene), restyled(scene, style_name, constraint)
    ground = (before == before[..., :1, :1]).all(1)[0].numpy()
    assert ground.mean() > 0.5
    lightness = lab(after)[..., 0][ground]
    assert np.ptp(lightness) < 2
    if scene == "product" and constraint:  # white stays the lightest
        assert lightness.min() >= lab(after)[..., 0][~ground].max() - 1
    assert (after - before).abs()[..., torch.from_numpy(ground)].mean() > 0.02  # it is restyled


@pytest.mark.parametrize("constraint", ["photoreal", None])
def test_constants_stay_constant_and_in_order(constraint: str | None) -> None:
    stylizer = Stylizer(style("coffee"), constraint=constraint)
    lightness = []
    for value in (0.0, 0.5, 1.0):
        result = stylizer(torch.full((1, 3, 40, 48), value))
        assert (result.amax((2, 3)) - result.amin((2, 3))).max() < 1e-3
        lightness.append(luma(result).mean())
    assert lightness == sorted(lightness)


@pytest.mark.parametrize("style_name", STYLES)
def test_skin_stays_human(style_name: str) -> None:
    before, after = lab(content("portrait")), lab(restyled("portrait", style_name))
    face = np.s_[30:110, 65:135]
    skin = (before[face][..., 1] > 5) & (before[face][..., 0] > 30)
    assert skin.mean() > 0.4
    assert after[face][skin][:, 1].mean() > 1
    assert (after[face][skin][:, 1] > 0).mean() > 0.8
    assert after[face][skin][:, 2].mean() > 0  # nor blue


@pytest.mark.parametrize("style_name", STYLES)
def test_night_stays_dark(style_name: str) -> None:
    before, after = lab(content("night")), lab(restyled("night", style_name))
    dark = before[..., 0] < 12
    assert dark.mean() > 0.4
    assert after[dark][:, 0].mean() < 20
    assert np.hypot(after[dark][:, 1], after[dark][:, 2]).mean() < 30
    # Noise does not become structure.
    assert after[dark][:, 0].std() < 2.5 * before[dark][:, 0].std()


@pytest.mark.parametrize("kind", [EvenGround, KeepShadows, KeepSkin, KeepText])
@pytest.mark.parametrize("scene", ["screen", "portrait", "night", "product"])
def test_an_unchanged_content_comes_back(kind: type, scene: str) -> None:
    assert torch.equal(kind(content(scene))(content(scene)), content(scene))


@pytest.mark.parametrize("kind", [EvenGround, KeepShadows, KeepSkin, KeepText])
def test_gradients_are_right(kind: type) -> None:
    scene = content("screen")[..., :24, :24].double()
    constraint = kind(scene)
    x = (scene * 0.6 + 0.3 * torch.rand_like(scene)).requires_grad_()
    assert torch.autograd.gradcheck(constraint, (x,), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_text_is_kept_in_every_dtype(dtype: torch.dtype) -> None:
    keep = KeepText(content("screen"))
    x = content("screen") * 0.7 + 0.2
    found = keep.finish(x.to(dtype))
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), keep.finish(x), atol=0.02, rtol=0)


def test_a_photograph_has_no_even_ground() -> None:
    for name in ("coffee", "chelsea"):
        photo = as_tensor(resized(getattr(skimage.data, name)(), 300))
        assert EvenGround(photo).weight.max() == 0
        x = torch.rand_like(photo)
        assert torch.equal(EvenGround(photo)(x), x)


def test_a_ground_that_continues_as_a_gradient_is_not_even() -> None:
    ramp = torch.linspace(1, 0.6, 100).repeat_interleave(2)
    sky = torch.cat([torch.ones(100), ramp]).expand(1, 3, 120, 300)
    weight = EvenGround(sky).weight[0, 0, 60]
    assert weight[:50].min() > 0.99
    assert weight[130:].max() < 0.05
    assert weight.diff().abs().max() < 0.5  # it fades out
    wall = torch.cat([torch.ones(150), 0.3 * torch.ones(150)]).expand(1, 3, 120, 300)
    assert EvenGround(wall).weight.min() > 0.99


def test_the_fit_of_an_even_ground_is_least_squares() -> None:
    """Against NumPy: the mean change of each colour, with fewer colours than monomials."""
    scene = content("product")
    x = torch.rand_like(scene)
    found = EvenGround(scene)(x)
    ground = (scene == 1).all(1)[0]
    expected = x[0][:, ground].double().mean(1)
    stride = max(1, max(scene.shape[-2:]) // 256)
    assert stride == 1  # every pixel is part of the fit
    torch.testing.assert_close(found[0][:, ground].double().mean(1), expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize("kind", [EvenGround, KeepShadows, KeepSkin, KeepText])
@pytest.mark.parametrize("scene", ["screen", "portrait", "product", "studio"])
def test_shortcuts_change_nothing(kind: Any, scene: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the path of CUDA and of traced programs, which looks at no values."""
    x = content(scene) * 0.7 + 0.2
    short = kind(content(scene))
    for module in (windows, ground):
        monkeypatch.setattr(module, "is_known", lambda x: False)
    full = kind(content(scene))
    torch.testing.assert_close(short(x), full(x), atol=1e-4, rtol=0)
    if isinstance(short, (EvenGround, KeepText)):
        torch.testing.assert_close(short.finish(x), full.finish(x), atol=1e-4, rtol=0)


def test_an_even_window_contains_an_even_cell() -> None:
    for position in range(30):
        photo = torch.rand(1, 3, 31, 45)
        photo[..., 9:16, position : position + 7] = 0.5  # one window of radius 3
        assert EvenGround(photo).weight.max() > 0
