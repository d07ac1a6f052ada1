"""Scales from coarse to fine: their sizes, their starts, and all controls at every scale."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pictures import LUMA, load_photo, noise
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from fastfcs import Stylizer, pyramid
from fastfcs.constraints import EvenGround
from fastfcs.constraints.registry import BetweenUpdates
from fastfcs.images import Picture
from fastfcs.losses import gram_distance
from fastfcs.network import UnrolledSolver
from fastfcs.ops import gram
from fastfcs.vgg import STYLE_LAYERS, load_vgg19

CONTENT, STYLE = noise(3, 150, 200, seed=2), noise(3, 300, 400, seed=3)
COARSE = (96, 128)


@pytest.fixture(scope="module")
def solver() -> UnrolledSolver:
    torch.manual_seed(0)
    return UnrolledSolver(updates=2, channels=(8, 12)).eval().requires_grad_(False)


def resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(image, size, mode="bicubic", antialias=True)


def rough(image: Tensor, axis: int) -> Tensor:
    """I - B, by SciPy."""
    binomial = ndimage.correlate1d(image.numpy(), [0.25, 0.5, 0.25], axis, mode="nearest")
    return image - torch.from_numpy(binomial)


def even(x: Tensor, content: Tensor) -> Tensor:
    """The end of a scale: its change by Q, without what alternates in both directions."""
    change = x - content
    return content + change - rough(rough(change, -1), -2)


def smooth(change: Tensor) -> Tensor:
    """S, which is applied before a change is enlarged."""
    for axis in (-1, -2):
        change = change - rough(rough(change, axis), axis)
    return change


# Sizes


@given(st.integers(16, 5000), st.integers(16, 5000), st.one_of(st.none(), st.integers(1, 9)))
def test_sizes_grow_to_the_picture_itself(height: int, width: int, levels: int | None) -> None:
    sizes = pyramid.sizes(height, width, levels)
    assert sizes[-1] == (height, width)
    assert len(sizes) <= (levels or 9)
    assert all(min(size) >= 16 for size in sizes)
    longer = [max(size) for size in sizes]
    assert all(side in (128, 256, 512, 1024, 2048) for side in longer[:-1])
    ratios = [b / a for a, b in pairwise(longer)]
    assert all(2**0.5 <= ratio <= 2 * 2**0.5 for ratio in ratios)
    assert all(ratio == 2 for ratio in ratios[:-1])
    for size in sizes:
        assert abs(size[0] / max(size) - height / max(height, width)) <= 0.5 / max(size)
    if levels is None and 8 * min(height, width) >= max(height, width):
        assert longer[0] <= 181


def test_a_style_is_reduced_to_the_scales_and_never_enlarged() -> None:
    def sides(longer: int, brush: float) -> list[int]:
        reduced = pyramid.reductions(torch.rand(1, 3, longer * 3 // 4, longer), brush)
        return [max(image.shape[-2:]) for image in reduced]

    assert sides(768, 1) == [128, 256, 512, 768]
    assert sides(700, 1) == [128, 256, 700]
    assert sides(768, 0.25) == [32, 64, 128, 256, 512, 768]
    assert sides(768, 4) == [512, 768]
    assert sides(100, 1) == [100]
    assert sides(100, 2) == [200]  # by the brush alone
    assert sides(100, 0.25) == [25, 50, 100]
    style = torch.rand(1, 3, 300, 400)
    assert pyramid.reductions(style)[-1] is style


# Scales


def test_each_scale_starts_from_the_one_before(solver: UnrolledSolver) -> None:
    """Written out: X0 = C + w up(S (X' - C')), with the style reduced alike, clipped in between."""
    content, style = CONTENT[None], STYLE[None]
    small = resized(content, COARSE).clamp(0, 1)
    first = solver(small, solver.statistics(resized(style, COARSE).clamp(0, 1)))
    change = smooth(even(first, small).clamp(0, 1) - small)
    start = content + 0.6 * resized(change, (150, 200))
    fine = solver.statistics(resized(style, (192, 256)).clamp(0, 1))
    want = even(solver(content, fine, start=start), content).clamp(0, 1)[0]
    found = Stylizer(STYLE, weights=solver, structure=0.4)(CONTENT)
    torch.testing.assert_close(found, want, rtol=0, atol=1e-5)
    assert (found - Stylizer(STYLE, weights=solver, levels=1)(CONTENT)).abs().max() > 0.01


def test_smoothing_removes_what_alternates() -> None:
    rows = torch.tensor([1.0, -1.0]).repeat(10)[:, None].expand(1, 1, 20, 30)
    columns = torch.tensor([1.0, -1.0]).repeat(15).expand(1, 1, 20, 30)
    inside = (..., slice(2, -2), slice(2, -2))
    for picture, by_q in ((rows, rows), (columns, columns), (rows * columns, 0 * rows)):
        torch.testing.assert_close(pyramid.smooth(picture, (-1, -2))[inside], by_q[inside])
        assert not pyramid.smooth(picture, (-1, -1), (-2, -2))[inside].any()
    image = noise(2, 3, 20, 30, seed=7)
    for axes in ([(-1, -2)], [(-1, -1), (-2, -2)]):
        found = pyramid.smooth(image, *axes)
        torch.testing.assert_close(found.mean((2, 3)), image.mean((2, 3)))


def seen(solver: UnrolledSolver, stylizer: Stylizer, content: Tensor) -> list[Tensor]:
    """The images that the forward maps see."""
    images: list[Tensor] = []
    hook = solver.forward_maps.register_forward_pre_hook(lambda _, args: images.append(args[0]))
    stylizer(content)
    hook.remove()
    return images


def test_a_picture_and_its_enlargement_are_painted_alike(solver: UnrolledSolver) -> None:
    photo = load_photo("chelsea", 480).float()[0]
    enlarged = resized(photo[None], (photo.shape[1] * 2, 960)).clamp(0, 1)[0]
    stylizer = Stylizer(STYLE, weights=solver)
    one, other = seen(solver, stylizer, photo), seen(solver, stylizer, enlarged)
    assert [max(x.shape) for x in one] == [128, 128, 256, 256, 480, 480]
    assert [max(x.shape) for x in other] == [128, 128, 256, 256, 512, 512, 960, 960]
    for a, b in zip(one[:4], other[:4], strict=True):
        assert (a - b).abs().mean() < 0.005


def test_from_1024_pixels_on_the_reduced_picture_remains() -> None:
    """Of a change of 0.2 in every other column half is kept, and nothing of its mean."""

    class Brighter(UnrolledSolver):
        def update(self, t: int, image: Tensor, *args: Any) -> Tensor:
            change = torch.full_like(image, -0.2)
            if image.shape[-1] == 1024:
                change[..., ::2] = 0
            return change

    solver = Brighter(updates=1, channels=(8, 8)).requires_grad_(False)
    # Not grey, which would be an even ground.
    content = torch.tensor([0.5, 0.1, 0.2]).view(3, 1, 1).expand(3, 32, 1024)
    stylizer = Stylizer(torch.rand(3, 32, 512), weights=solver, structure=0.3)
    change = (stylizer(content) - content)[2, 8:-8, 8:-8]
    assert change.mean().item() == pytest.approx(0.2, abs=1e-4)
    assert change.std().item() == pytest.approx(0.1 * 0.5, rel=0.05)


def test_an_enlarged_painting_is_as_sharp_as_the_small_one() -> None:
    """Strokes of three pixels at 512 pixels are nearly the same in 2048, reduced."""

    class Strokes(UnrolledSolver):
        def update(self, t: int, image: Tensor, *args: Any) -> Tensor:
            stripes = (torch.arange(image.shape[-1]) % 3 < 1).to(image) - 1 / 3
            return -0.3 * stripes.expand_as(image) * (image.shape[-1] == 512)

    solver = Strokes(updates=1, channels=(8, 8)).requires_grad_(False)
    content = torch.tensor([0.5, 0.4, 0.6]).view(3, 1, 1).expand(3, 64, 2048)
    stylizer = Stylizer(torch.rand(3, 32, 512), weights=solver)
    small = stylizer(content[:, :16, :512])
    large = resized(stylizer(content)[None], (16, 512))[0]
    inside = (..., slice(8, -8))
    blurred = resized(resized(small[None], (64, 2048)), (16, 512))[0]
    assert (large - small)[inside].norm() < 0.5 * (blurred - small)[inside].norm()


def test_structure_1_is_one_scale(solver: UnrolledSolver) -> None:
    plain = Stylizer(STYLE, weights=solver, levels=1)(CONTENT)
    assert torch.equal(Stylizer(STYLE, weights=solver, structure=1)(CONTENT), plain)
    distances = [
        (Stylizer(STYLE, weights=solver, structure=s)(CONTENT) - plain).norm()
        for s in (0.8, 0.4, 0)
    ]
    assert distances == sorted(distances)


def test_photographs_have_one_scale(solver: UnrolledSolver) -> None:
    photoreal = Stylizer(STYLE, weights=solver, constraint="photoreal")
    assert {x.shape for x in seen(solver, photoreal, CONTENT)} == {(1, 3, 150, 200)}


def test_large_strokes_are_the_style_s() -> None:
    """On a reduced picture, several scales are far nearer to the style than one."""
    content, style = load_photo("rocket", 256).float(), load_photo("coffee", 256).float()
    vgg, distances = load_vgg19(), []
    with torch.inference_mode():
        goal = {n: gram(h) for n, h in vgg(resized(style, (43, 64)), STYLE_LAYERS).items()}
        for levels in (1, None):
            result = Stylizer(style, weights="tiny", levels=levels)(content)
            small = resized(result, (43, 64)).clamp(0, 1)
            distances.append(gram_distance(vgg(small, STYLE_LAYERS), goal).item())
    assert distances[1] < 0.8 * distances[0]


# Controls


def test_callables_see_the_last_scale_alone(solver: UnrolledSolver) -> None:
    sizes: list[Any] = []

    def constraint(x: Tensor) -> Tensor:
        sizes.append(tuple(x.shape))
        return x

    Stylizer(STYLE, weights=solver, constraint=[constraint])(CONTENT)
    assert sizes == [(1, 3, 150, 200)] * 3  # after both updates and at the scale's end


def test_callables_hold_in_the_result_whatever_its_size(solver: UnrolledSolver) -> None:
    content = noise(3, 32, 1024, seed=6)
    mask = (torch.arange(1024) < 300).float()
    stylizer = Stylizer(
        STYLE, weights=solver, constraint=lambda x: mask * x + (1 - mask) * content[None]
    )
    result = stylizer(content)
    assert torch.equal(result[..., 300:], content[..., 300:])
    assert (result - content)[..., :300].abs().max() > 0.01


def test_named_constraints_hold_at_every_scale(solver: UnrolledSolver) -> None:
    content = 0.3 + 0.4 * CONTENT
    stylizer = Stylizer(STYLE, weights=solver, constraint="keep-luminance")
    for x in seen(solver, stylizer, content):
        small = resized(content[None], tuple(x.shape[-2:]))
        assert ((x - small) * LUMA).sum(1).abs().max() < 0.05  # bicubic weights are negative, too
    assert ((stylizer(content) - content) * LUMA).sum(0).abs().max() < 1e-5


def test_an_area_is_no_ground_because_it_is_reduced(solver: UnrolledSolver) -> None:
    """Noise that is averaged away leaves an even picture; its own size decides."""
    content = 0.5 + 0.02 * (noise(1, 1, 400, 400, seed=1) - 0.5).expand(1, 3, 400, 400)
    small = resized(content, (50, 50))
    assert EvenGround(small, coloured=False).weight.mean() > 0.5
    between = BetweenUpdates((), content)
    x = torch.rand(small.shape)
    assert torch.equal(between.reduced(small)(x), x)
    content[..., :200] = 1
    ground = EvenGround(content, coloured=False)
    half = ground.reduced(resized(content, (50, 50)).clamp(0, 1))
    torch.testing.assert_close(half.weight, F.avg_pool2d(ground.weight, 8))
    evened = half(x)[..., :20]
    assert evened.amax((2, 3)).sub(evened.amin((2, 3))).max() < 1e-5


def test_batches_are_their_pictures(solver: UnrolledSolver) -> None:
    both = torch.stack([CONTENT, CONTENT.flip(-1)])
    stylizer = Stylizer([STYLE, STYLE.flip(0)], weights=solver)
    for k, style in enumerate((STYLE, STYLE.flip(0))):
        want = Stylizer(style, weights=solver)(both[k])
        torch.testing.assert_close(stylizer(both)[k], want, rtol=0, atol=1e-5)


def test_styles_of_different_sizes_make_a_batch_and_a_blend(solver: UnrolledSolver) -> None:
    """The smaller style has one scale; at the second it has the same statistics."""
    small = noise(3, 60, 90, seed=4)
    both = torch.stack([CONTENT, CONTENT])
    found = Stylizer([STYLE, small], weights=solver)(both)
    want = Stylizer(small, weights=solver)(CONTENT)
    torch.testing.assert_close(found[1], want, rtol=0, atol=1e-5)
    blended = Stylizer(weights=solver).set_style([STYLE, small], blend=[0, 1])(CONTENT)
    torch.testing.assert_close(blended, want, rtol=0, atol=1e-5)


def test_each_region_takes_its_own_style_at_every_scale(solver: UnrolledSolver) -> None:
    dark, bright = torch.full((3, 64, 64), 0.1), torch.full((3, 64, 64), 0.9)
    content = torch.full((3, 256, 256), 0.5) + 0.01 * noise(3, 256, 256, seed=1)
    left = (torch.arange(256) < 128).float().expand(1, 256, 256)
    found = Stylizer([dark, bright], weights=solver)(content, torch.cat([left, 1 - left]))
    sides = [Stylizer(style, weights=solver)(content) for style in (dark, bright)]
    assert (sides[0] - sides[1]).abs().mean() > 0.02
    for side, part in ((sides[0], slice(0, 64)), (sides[1], slice(192, 256))):
        assert (found - side)[..., part].abs().mean() < 0.1 * (sides[0] - sides[1]).abs().mean()


def test_hidden_pixels_do_not_count_at_any_scale(solver: UnrolledSolver) -> None:
    alpha = torch.ones(150, 200)
    alpha[:, 120:] = 0
    hidden = CONTENT.clone()
    hidden[..., 120:] = noise(3, 150, 80, seed=5)
    stylizer = Stylizer(STYLE, weights=solver)
    one, other = (stylizer(Picture(p, alpha=alpha)).pixels for p in (CONTENT, hidden))
    torch.testing.assert_close(one[..., :120], other[..., :120])
    assert torch.equal(other[..., 120:], hidden[..., 120:])


def test_state(solver: UnrolledSolver) -> None:
    stylizer, other = Stylizer(STYLE, weights=solver), Stylizer(weights=solver)
    other.load_state_dict(stylizer.state_dict())
    assert torch.equal(other(CONTENT), stylizer(CONTENT))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"levels": 0}, "levels must be None or at least 1, got 0"),
        ({"structure": 1.5}, r"structure must be in \[0, 1\], got 1.5"),
        ({"structure": float("nan")}, r"structure must be in \[0, 1\], got nan"),
        ({"brush": 5}, r"brush must be in \[0.25, 4\], got 5"),
    ],
)
def test_what_is_out_of_range_raises(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Stylizer(weights="tiny", **options)


@pytest.mark.gpu
@pytest.mark.parametrize("weights", ["tiny", "universal"])
def test_cuda_graph_of_several_scales(weights: str) -> None:
    stylizer = Stylizer(STYLE, weights=weights).cuda()
    content = CONTENT[None].cuda()
    want = stylizer(content)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = stylizer(content)
    graph.replay()
    torch.testing.assert_close(result, want, rtol=0, atol=1e-6)
