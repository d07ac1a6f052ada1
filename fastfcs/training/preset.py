"""Tuning of H^s for one style, every filter frozen: a preset."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ..images import list_images
from ..network import Statistics, load_solver
from ..presets import write
from ..vgg import load_vgg19
from .crops import Pool, images, targets, whole
from .descent import descend
from .objective import Losses, batch_loss, shown
from .precision import Precision, convolutions_in


def tune(
    style: str | Path,
    content: str | Path,
    out: str | Path,
    *,
    weights: str | Path = "universal",
    steps: int = 300,
    batch: int = 4,
    size: int = 128,
    style_size: int = 768,
    style_weight: float = 20.0,
    lr: float = 0.1,
    precision: Precision = "float32",
    title: str = "",
    seed: int = 0,
    device: str = "cpu",
    vgg: str | Path | None = None,
) -> Statistics:
    """Optimise only H^s for one style, every filter frozen; write it to ``out`` (safetensors).

    Starts from the statistics of the style picture itself. Arguments and errors as :func:`train`;
    ``lr`` is relative to the size of each Gram matrix: H^s is (I + D) H_0 (I + D)^T, H_0 of the
    picture, and D (c, c) is learned, times sqrt(c). ``title`` is kept in the file's header. The
    picture is reduced to a longer side of ``style_size``: the smaller, the finer its strokes, and
    those of a size that the network sees, below 68 pixels, are taken over best.
    """
    solver = load_solver(weights).to(device).requires_grad_(False)
    features = load_vgg19(vgg).to(device)
    picture = whole(Path(style), style_size).to(device)
    contents = Pool([list_images(content)], features, size, range(batch), f"{seed}/content")
    wanted = targets(features, picture) * batch
    with torch.no_grad():
        start = solver.statistics(picture)
    offsets = {key: nn.Parameter(torch.zeros_like(h[0])) for key, h in start.items()}

    def tuned() -> Statistics:
        # Symmetric and positive semi-definite, as every Gram matrix is.
        return {key: _congruent(h, offsets[key]) for key, h in start.items()}

    def loss(step: int) -> tuple[Tensor, Losses]:
        statistics = tuned()
        with convolutions_in(precision, device):
            chosen = contents.sample(step)
            output = shown(solver(images(chosen), statistics))
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
    adam = torch.optim.Adam(offsets.values(), lr=lr, betas=(0.9, 0.99))
    descend(offsets, adam, loss, checkpoint, facts=facts, steps=steps, lr=lr, every=50)
    result = {key: h.detach() for key, h in tuned().items()}
    write({key: h.half() for key, h in result.items()}, out, facts)
    checkpoint.unlink()
    return result


def _congruent(h: Tensor, offset: Tensor) -> Tensor:
    """(I + D) H (I + D)^T, H (1, c, c) and D sqrt(c) (c, c)."""
    factor = torch.eye(len(offset), device=h.device) + offset / len(offset) ** 0.5
    result = factor @ h @ factor.mT
    return (result + result.mT) / 2
