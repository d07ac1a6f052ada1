"""Tuning of a preset: the Gram matrices of one style, with every filter frozen."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from .. import presets
from ..images import list_images
from ..ops import gram
from ..refinement import Refinement
from ..statistics import Statistics
from ..vgg import load_vgg19
from ..weights import load_solver
from .config import TuneConfig
from .data import Pool, stack_images, targets, whole_picture
from .loop import autocast, descend
from .objective import batch_loss, clip_straight_through

_CHECKPOINT_EVERY = 50  # steps
_LEAST_VARIANCE = 0.01  # in every direction at the start, relative to the mean variance


def tune(
    style: str | Path,
    content: str | Path,
    out: str | Path,
    config: TuneConfig | None = None,
    *,
    device: str = "cpu",
    vgg: str | Path | None = None,
) -> Statistics:
    """Optimise the Gram matrices H_{t,l} of one style and write them as a preset.

    Tuning starts from the statistics of the style picture itself. SOAP learns a factor F (c, c) of
    each H = F F^T, which therefore stays positive semi-definite, as every Gram matrix is. The Gram
    matrices of `fastfcs.refinement` are computed but not tuned. An interrupted run resumes from the
    checkpoint next to ``out``.

    Args:
        style: the picture.
        content: folder of photos to tune on.
        out: the preset to write, a safetensors file.
        config: the settings, by default ``TuneConfig()``.
        device: where to tune.
        vgg: see `fastfcs.vgg.load_vgg19`.

    Returns:
        The tuned statistics, of one style.

    Raises:
        ValueError: the folder contains no pictures, a file is not a picture, or the checkpoint is
            that of a run with other settings.
        Diverged: the loss is no longer finite.

    Examples:
        >>> from pathlib import Path
        >>> from fastfcs.training import TuneConfig, tune
        >>> import tempfile
        >>> from PIL import Image
        >>> folder = Path(tempfile.mkdtemp())
        >>> Image.new("RGB", (32, 24), "orange").save(folder / "plain.png")
        >>> config = TuneConfig(weights="tiny", steps=1, batch=1, size=16, style_size=32)
        >>> statistics = tune(folder / "plain.png", folder, folder / "preset.safetensors", config)
        >>> statistics.styles, sorted(file.name for file in folder.iterdir())
        (1, ['plain.png', 'preset.safetensors'])
    """
    config, out = config or TuneConfig(), Path(out)
    solver = load_solver(config.weights).to(device).requires_grad_(False)
    features = load_vgg19(vgg).to(device)
    for module in (solver, features):
        # torch's overloads of `to` lack the one that takes a memory format alone.
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    picture = whole_picture(Path(style), config.style_size).to(device)
    folders, positions = [list_images(content)], range(config.batch)
    contents = Pool(folders, features, config.size, positions, f"{config.seed}/content")
    style_targets = targets(features, picture) * config.batch
    with torch.no_grad():
        start = solver.statistics(picture)
    factors = {name: nn.Parameter(_factor(h[0])) for name, h in start.named().items()}

    def loss(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        statistics = _product(factors)
        with autocast(config.precision, device):
            crops = contents.sample(step)
            output = clip_straight_through(solver(stack_images(crops), statistics))
            return batch_loss(features, output, crops, style_targets, config.style_weight)

    metadata = {
        "style": Path(style).name,
        "title": config.title,
        "size": str(config.size),
        "style size": str(config.style_size),
        "style weight": str(config.style_weight),
    }
    checkpoint = out.with_suffix(".checkpoint.pt")
    descend(
        factors,
        loss,
        checkpoint,
        metadata=metadata,
        steps=config.steps,
        lr=config.lr,
        every=_CHECKPOINT_EVERY,
    )
    with torch.no_grad():
        result = Statistics(_product(factors).own, Refinement().to(device).statistics(picture).vgg)
    presets.write(result.map(lambda h: h.half()), out, metadata)
    checkpoint.unlink()
    return result


def _factor(h: Tensor) -> Tensor:
    """F with F F^T = H (c, c) plus 1 % of the mean variance, so that no direction is stuck at 0."""
    variances, directions = torch.linalg.eigh(h.double())
    variances = variances.clamp(min=0) + _LEAST_VARIANCE * variances.mean()
    factor: Tensor = directions * variances.sqrt()
    return factor.float()


def _product(factors: dict[str, nn.Parameter]) -> Statistics:
    """The statistics F F^T, by the operator, which makes them symmetric to the last bit."""
    return Statistics.from_named(
        {name: len(f) * gram(f[None, :, None]) for name, f in factors.items()}
    )
