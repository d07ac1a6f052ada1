"""Hidden pixels: filled from their visible neighbours, whatever they held."""

from __future__ import annotations

import pytest
import torch
from pictures import noise, stretched_photo
from torch import Tensor

from fastfcs.images import Picture, fill_hidden, fit_picture

SIZES = [(16, 16), (17, 31), (40, 23)]


def hole(height: int, width: int) -> Tensor:
    """Alpha of an ellipse with a soft border, (1, 1, H, W)."""
    y, x = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)
    return ((0.8 - (y**2 + x**2).sqrt()) * 5).clamp(0, 1)[None, None]


@pytest.mark.parametrize("size", SIZES)
def test_visible_pixels_stay_and_hidden_ones_do_not_matter(size: tuple[int, int]) -> None:
    image, alpha = noise(2, 3, *size), hole(*size)
    filled = fill_hidden(image, alpha)
    visible = (alpha >= 1 / 16).expand_as(image)
    assert torch.equal(filled[visible], image[visible])
    for hidden in (torch.zeros(()), torch.ones(()), noise(2, 3, *size, seed=9)):
        assert torch.equal(fill_hidden(torch.where(alpha > 0, image, hidden), alpha), filled)


@pytest.mark.parametrize("size", SIZES)
def test_an_opaque_image_is_untouched(size: tuple[int, int]) -> None:
    image = noise(1, 3, *size)
    assert torch.equal(fill_hidden(image, torch.ones(1, 1, *size)), image)


@pytest.mark.parametrize("size", SIZES)
def test_a_flat_image_is_filled_flat(size: tuple[int, int]) -> None:
    alpha = hole(*size)
    image = torch.where(alpha > 0, 0.3, noise(1, 3, *size))
    torch.testing.assert_close(fill_hidden(image, alpha), torch.full_like(image, 0.3))


def test_the_smallest_hole_is_the_mean_of_its_square() -> None:
    image, alpha = noise(1, 3, 2, 2), torch.ones(1, 1, 2, 2)
    alpha[..., 1, 1] = 0
    mean = (image.sum((2, 3)) - image[..., 1, 1]) / 3
    torch.testing.assert_close(fill_hidden(image, alpha)[..., 1, 1], mean)


def test_holes_take_the_colours_around_them() -> None:
    """Two halves of different colours, each with a hole: each is filled with its own colour."""
    image = torch.zeros(1, 3, 64, 128)
    image[..., 64:] = 1
    alpha = torch.ones(1, 1, 64, 128)
    alpha[..., 20:40, 20:40] = alpha[..., 20:40, 84:104] = 0
    assert (fill_hidden(torch.where(alpha > 0, image, 0.5), alpha) - image).abs().max() < 0.01


def test_a_fill_is_smooth_and_within_the_range_of_what_is_visible() -> None:
    image, alpha = stretched_photo("chelsea", 96, 120), hole(96, 120)
    filled = fill_hidden(image, alpha)
    assert filled.aminmax() == image[(alpha > 0).expand_as(image)].aminmax()
    far = torch.nn.functional.max_pool2d(alpha, 9, stride=1, padding=4) == 0
    steps = filled.diff(dim=-1).abs()[far[..., 1:].expand(1, 3, 96, 119)]
    assert steps.numel() > 1000
    assert steps.max() < 0.1 < image.diff(dim=-1).abs().max()


def test_unreliable_colours_are_mixed_with_their_surroundings() -> None:
    """A white pixel on grey counts by its weight, and by its share of the square around it."""
    image, alpha = torch.full((1, 3, 32, 32), 0.25), torch.ones(1, 1, 32, 32)
    image[..., 12, 12] = 1
    for value, weight in ((0.0, 0.0), (1 / 255, 16 / 255), (1 / 32, 0.5), (0.1, 1.0)):
        alpha[..., 12, 12] = value
        moved = (fill_hidden(image, alpha)[0, 0, 12, 12].item() - 0.25) / 0.75
        assert weight - 1e-6 <= moved <= weight + weight * (1 - weight) / 3 + 1e-6


def test_all_hidden_is_black_and_half_types_keep_theirs() -> None:
    image = noise(1, 3, 17, 20)
    assert not fill_hidden(image, torch.zeros(1, 1, 17, 20)).any()
    assert fill_hidden(image.half(), hole(17, 20)).dtype == torch.float16


def test_reduced_pictures_have_no_rim_of_hidden_colours() -> None:
    alpha = (hole(60, 80) > 0).float()
    flat = torch.full((1, 3, 60, 80), 0.3)
    picture = Picture(torch.where(alpha > 0, flat, 1.0)[0], alpha[0, 0])
    small = fit_picture(picture, 20)
    assert small.size == (20, 15)
    assert small.alpha is not None
    assert 0 < small.alpha.mean() < 1
    torch.testing.assert_close(small.pixels, torch.full_like(small.pixels, 0.3))
    assert fit_picture(picture, 80) is picture
