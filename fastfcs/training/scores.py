"""A quick measure of a network, before and after it is trained."""

from __future__ import annotations

from statistics import median
from typing import Any

import torch
from torch import Tensor

from ..evaluation.metrics import Measure
from ..evaluation.pairs import Pair
from ..network import UnrolledSolver
from ..stylizer import Stylizer
from ..vgg import VGG19
from .data import centre, images, targets, whole
from .objective import batch_terms
from .pack import Pictures

_PAINTINGS = 4  # for each photo
_BATCH = 16
_LONGEST = 320  # side of the pairs, pixels
_DISTANCES = "artistic gram", "photoreal gram", "photoreal ssim"


@torch.no_grad()
def scores(
    solver: UnrolledSolver,
    vgg: VGG19,
    pictures: Pictures,
    *,
    count: int,
    size: int,
    style_weight: float,
) -> dict[str, Any]:
    """Losses on photos never trained on, and distances on pairs; see `fastfcs.evaluation`.

    Args:
        pictures: whose ``held`` photos are each restyled as four of the paintings, in turn, and
            whose pairs, at a longer side of 320 pixels, both ways.
        count: so many photos and so many pairs, at most.
        size: side of the photos' and the paintings' centres, pixels.
    """
    found: dict[str, Any] = {}
    device = str(vgg.mean.device)
    held, paintings = pictures.held[:count], pictures.paintings
    if held and paintings:
        combined = [
            (photo, paintings[(_PAINTINGS * k + j) % len(paintings)])
            for k, photo in enumerate(held)
            for j in range(_PAINTINGS)
        ]
        batches = [combined[k : k + _BATCH] for k in range(0, len(combined), _BATCH)]
        sums = [len(batch) * _terms(solver, vgg, batch, size).cpu() for batch in batches]
        content_term, style_term = (torch.stack(sums).sum(0) / len(combined)).tolist()
        found["held out"] = {
            "results": len(combined),
            "content": content_term,
            "style": style_term,
            "loss": content_term + style_weight * style_term,
        }
    rows = {}
    for name, *both in pictures.pairs[:count]:
        content, style = (whole(picture, _LONGEST).to(device) for picture in both)
        rows[name] = _distances(solver, vgg, Pair(name, content, style))
    if rows:
        medians = {key: median(row[key] for row in rows.values()) for key in _DISTANCES}
        found["pairs"] = {"medians": medians, **rows}
    return found


def _terms(solver: UnrolledSolver, vgg: VGG19, combined: list[Any], size: int) -> Tensor:
    """The terms of the loss, content's and style's, means over a batch."""
    device = vgg.mean.device
    contents, styles = (
        targets(vgg, torch.stack([centre(p, size) for p in each]).to(device))
        for each in zip(*combined, strict=True)
    )
    output = solver(images(contents), solver.statistics(images(styles))).clamp(0, 1)
    content, style = batch_terms(vgg, output, contents, styles)
    return torch.stack([content, style.mean()])


def _distances(solver: UnrolledSolver, vgg: VGG19, pair: Pair) -> dict[str, float]:
    measure = Measure(pair, vgg)
    artistic, photoreal = (
        measure(Stylizer(pair.style, weights=solver, constraint=constraint)(pair.content))
        for constraint in (None, "photoreal")
    )
    found = artistic["gram"], photoreal["gram"], photoreal["ssim"]
    return dict(zip(_DISTANCES, found, strict=True))
