"""A quick measurement of a network, before and after it is trained."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor

from ..evaluation.metrics import Measure
from ..evaluation.pairs import Pair
from ..network import UnrolledSolver
from ..stylizer import Stylizer
from ..vgg import VGG19
from .data import Picture, centre_crop, stack_images, targets, whole_picture
from .objective import batch_terms
from .pack import Pictures

_PAINTINGS = 4  # per photo
_BATCH = 16
_PAIR_SIDE = 320  # pixels
_DISTANCES = "artistic gram", "photoreal gram", "photoreal ssim"


@torch.no_grad()
def score(
    solver: UnrolledSolver,
    vgg: VGG19,
    pictures: Pictures[Any],
    *,
    count: int,
    size: int,
    style_weight: float,
) -> dict[str, Any]:
    """Measure losses on held-out photos, and distances on pairs (`fastfcs.evaluation`).

    Args:
        solver: the network, on VGG's device.
        vgg: the network of the features.
        pictures: the pictures. Each held-out photo is restyled in the style of four paintings,
            taken in turn; pairs, at a longer side of 320 pixels, are restyled artistically and as
            photographs.
        count: number of photos, and of pairs, at most.
        size: side of the central crops of photos and paintings in pixels.
        style_weight: weight of the style term in the loss.

    Returns:
        "held out" with the number of results, their mean terms and loss, and "pairs" with the
        distances of each pair and their medians; each only if there are such pictures.

    Examples:
        >>> import torch
        >>> from fastfcs.network import UnrolledSolver
        >>> from fastfcs.training.pack import Pictures
        >>> from fastfcs.training.scores import score
        >>> from fastfcs.vgg import VGG19
        >>> photo, painting = torch.randint(256, (2, 3, 20, 30)).byte()
        >>> pictures = Pictures(["photos", "paintings"], [], [], [photo], [painting], [])
        >>> result = score(UnrolledSolver(channels=(8, 8)), VGG19(), pictures, count=1, size=16,
        ...     style_weight=20)
        >>> sorted(result["held out"]), result["held out"]["results"]
        (['content', 'loss', 'results', 'style'], 4)
    """
    result: dict[str, Any] = {}
    if pictures.held_out[:count] and pictures.paintings:
        combinations = [
            (photo, pictures.paintings[(_PAINTINGS * k + j) % len(pictures.paintings)])
            for k, photo in enumerate(pictures.held_out[:count])
            for j in range(_PAINTINGS)
        ]
        content, style = _mean_terms(solver, vgg, combinations, size)
        result["held out"] = {
            "results": len(combinations),
            "content": content,
            "style": style,
            "loss": content + style_weight * style,
        }
    rows = {}
    for name, *both in pictures.pairs[:count]:
        content_image, style_image = (
            whole_picture(picture, _PAIR_SIDE).to(vgg.mean.device) for picture in both
        )
        rows[name] = _distances(solver, vgg, Pair(name, content_image, style_image))
    if rows:
        medians = {key: median(row[key] for row in rows.values()) for key in _DISTANCES}
        result["pairs"] = {"medians": medians, **rows}
    return result


def _mean_terms(
    solver: UnrolledSolver,
    vgg: VGG19,
    combinations: Sequence[tuple[Picture, Picture]],
    size: int,
) -> tuple[float, float]:
    """The content and style terms of the loss, averaged over pairs of a photo and a painting."""
    batches = [combinations[k : k + _BATCH] for k in range(0, len(combinations), _BATCH)]
    sums = [len(batch) * _terms(solver, vgg, batch, size).cpu() for batch in batches]
    content, style = (torch.stack(sums).sum(0) / len(combinations)).tolist()
    return content, style


def _terms(
    solver: UnrolledSolver, vgg: VGG19, batch: Sequence[tuple[Picture, Picture]], size: int
) -> Tensor:
    """The mean content and style terms of one batch, (2,)."""
    contents, styles = (
        targets(vgg, torch.stack([centre_crop(p, size) for p in pictures]).to(vgg.mean.device))
        for pictures in zip(*batch, strict=True)
    )
    statistics = solver.statistics(stack_images(styles))
    output = solver(stack_images(contents), statistics).clamp(0, 1)
    content, style = batch_terms(vgg, output, contents, styles)
    return torch.stack([content, style.mean()])


def _distances(solver: UnrolledSolver, vgg: VGG19, pair: Pair) -> dict[str, float]:
    measure = Measure(pair, vgg)
    artistic, photoreal = (
        measure(Stylizer(pair.style, weights=solver, constraint=constraint)(pair.content))
        for constraint in (None, "photoreal")
    )
    values = artistic["gram"], photoreal["gram"], photoreal["ssim"]
    return dict(zip(_DISTANCES, values, strict=True))
