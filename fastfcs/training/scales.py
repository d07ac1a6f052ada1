"""Training from coarse to fine: crops at several scales, starts and losses (`fastfcs.pyramid`).

Lists of scales begin with the finest, since every crop has that one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..network import UnrolledSolver
from ..pyramid import resize, start
from ..statistics import Statistics
from ..vgg import VGG19
from .data import Crop, halves, stack_images
from .objective import batch_terms

LEAST_START, LEAST_LOSS = 80, 64
"""Sides in pixels of the coarsest scale that is restyled, and at which the loss is computed."""


def scales_of(size: int, least: int, most: int) -> int:
    """Tell the number of scales of a crop.

    Args:
        size: its side in pixels, halved from scale to scale.
        least: the least side of the coarsest.
        most: the largest number.

    Returns:
        The number, at least 1.

    Examples:
        >>> from fastfcs.training.scales import scales_of
        >>> scales_of(320, 80, 3), scales_of(128, 80, 3), scales_of(64, 80, 3)
        (3, 1, 1)
    """
    return max(1, min(most, 1 + int(math.log2(size / least))))


def images_of(crops: Sequence[Crop], scales: int) -> list[Tensor]:
    """Stack the images of crops at several scales.

    Args:
        crops: B crops of one size, with as many halves.
        scales: number of scales.

    Returns:
        Images (B, 3, size, size), finest first.

    Examples:
        >>> import torch
        >>> from fastfcs.training.data import targets
        >>> from fastfcs.training.scales import images_of
        >>> from fastfcs.vgg import VGG19
        >>> crops = targets(VGG19(), torch.rand(2, 3, 32, 32), scales=2)
        >>> [tuple(image.shape) for image in images_of(crops, 2)]
        [(2, 3, 32, 32), (2, 3, 16, 16)]
    """
    images = []
    for _ in range(scales):
        images.append(stack_images(crops))
        crops = halves(crops)
    return images


@torch.no_grad()
def coarse_start(
    solver: UnrolledSolver,
    contents: Sequence[Tensor],
    statistics: Sequence[Statistics],
    share: float,
) -> Tensor | None:
    """Compute X^(0) of the finest scale, from the results of the others.

    Args:
        solver: the network.
        contents, statistics: of every scale, finest first.
        share: w, see `fastfcs.pyramid.start`.

    Returns:
        X^(0) without a graph, or None, the content, if there is one scale.

    Examples:
        >>> import torch
        >>> from fastfcs.network import UnrolledSolver
        >>> from fastfcs.training.scales import coarse_start
        >>> solver = UnrolledSolver(updates=1, channels=(8, 8))
        >>> contents = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 16, 16)
        >>> coarse_start(solver, contents, [solver.statistics(contents[0])] * 2, 0.7).shape
        torch.Size([1, 3, 32, 32])
    """
    if len(contents) == 1:
        return None
    first = coarse_start(solver, contents[1:], statistics[1:], share)
    result = solver(contents[1], statistics[1], start=first).clamp(0, 1)
    return start(contents[0], contents[1], result, share)


def mean_terms(
    vgg: VGG19, output: Tensor, content: Sequence[Crop], style: Sequence[Crop]
) -> tuple[Tensor, Tensor]:
    """Compute the terms of the loss, averaged over the scales of the crops.

    Args:
        vgg, output, content, style: see `fastfcs.training.objective.batch_loss`.

    Returns:
        The content term, a scalar, and the style terms, (4,), one per style layer.

    Examples:
        >>> import torch
        >>> from fastfcs.training.data import targets
        >>> from fastfcs.training.scales import mean_terms
        >>> from fastfcs.vgg import VGG19
        >>> vgg, image = VGG19(), torch.rand(1, 3, 32, 32)
        >>> crops = targets(vgg, image, scales=2)
        >>> content_term, style_terms = mean_terms(vgg, image, crops, crops)
        >>> round(content_term.item(), 4), style_terms.shape
        (0.0, torch.Size([4]))
    """
    content_terms, style_terms = [], []
    while content:
        height, width = content[0].image.shape[-2:]
        content_term, style_term = batch_terms(vgg, resize(output, (height, width)), content, style)
        content_terms.append(content_term)
        style_terms.append(style_term)
        content, style = halves(content), halves(style)
    return torch.stack(content_terms).mean(), torch.stack(style_terms).mean(0)
