"""Tuning of H^s for one style, every filter frozen: a preset."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ..images import list_images
from ..ops import gram
from ..presets import write
from ..refinement import Refinement
from ..statistics import Statistics
from ..vgg import load_vgg19
from ..weights import load_solver
from .data import Pool, images, targets, whole
from .loop import descend
from .objective import batch_loss, clip_straight_through
from .precision import Precision, convolutions_in

_LEAST = 0.01  # variance of the tuned features in every direction, of their mean


def tune(
    style: str | Path,
    content: str | Path,
    out: str | Path,
    *,
    weights: str | Path = "universal",
    steps: int = 150,
    batch: int = 2,
    size: int = 192,
    style_size: int = 768,
    style_weight: float = 20.0,
    lr: float = 0.015,
    precision: Precision = "float32",
    title: str = "",
    seed: int = 0,
    device: str = "cpu",
    vgg: str | Path | None = None,
) -> Statistics:
    """Optimise only H^s for one style, every filter frozen; write it to ``out`` (safetensors).

    Starts from the statistics of the style picture itself; those that `fastfcs.refinement` wants
    are written as they are. What is learned, by SOAP, is a factor F (c, c) of each
    H^s = F F^T, which thus stays positive semi-definite, as every Gram matrix is.
    Arguments and errors as :func:`train`. ``title`` is kept in the file's header. The picture is
    reduced to a longer side of ``style_size``: the smaller, the finer its strokes, and those of a
    size that the network sees, below 68 pixels, are taken over best.
    """
    solver = load_solver(weights).to(device).requires_grad_(False)
    features = load_vgg19(vgg).to(device)
    picture = whole(Path(style), style_size).to(device)
    contents = Pool([list_images(content)], features, size, range(batch), f"{seed}/content")
    wanted = targets(features, picture) * batch
    with torch.no_grad():
        start = solver.statistics(picture)
    factors = {name: nn.Parameter(_factor(h[0])) for name, h in start.named().items()}

    def tuned() -> Statistics:
        # By the operator: symmetric to the last bit.
        grams = {name: len(f) * gram(f[None, :, None]) for name, f in factors.items()}
        return Statistics.from_named(grams)

    def loss(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        statistics = tuned()
        with convolutions_in(precision, device):
            chosen = contents.sample(step)
            output = clip_straight_through(solver(images(chosen), statistics))
            return batch_loss(features, output, chosen, wanted, style_weight)

    out = Path(out)
    checkpoint = out.with_suffix(".checkpoint.safetensors")
    facts = {
        "style": Path(style).name,
        "title": title,
        "size": str(size),
        "style size": str(style_size),
        "style weight": str(style_weight),
    }
    descend(factors, loss, checkpoint, facts=facts, steps=steps, lr=lr, every=50)
    with torch.no_grad():
        vgg_statistics = Refinement().to(device).statistics(picture)
        result = Statistics(tuned().own, vgg_statistics.vgg)
    write(result.map(lambda h: h.half()), out, facts)
    checkpoint.unlink()
    return result


def _factor(h: Tensor) -> Tensor:
    """F with F F^T = H (c, c), to 1 % of the mean variance: in no direction is its gradient 0."""
    variances, directions = torch.linalg.eigh(h.double())
    variances = variances.clamp(min=0) + _LEAST * variances.mean()
    return (directions * variances.sqrt()).float()
