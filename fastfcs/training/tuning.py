"""Tuning of a preset: the Gram matrices of one style at every scale, with the filters frozen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import presets
from ..images import list_images
from ..network import UnrolledSolver
from ..ops import gram
from ..pyramid import FIRST, STYLE_SIDE, reductions, without_weave
from ..refinement import Refinement
from ..statistics import Scales, Statistics
from ..stylizer import STRUCTURE, mirrored
from ..vgg import VGG19, load_vgg19
from ..weights import load_solver
from .config import TuneConfig
from .data import Pool, targets, whole_picture
from .loop import autocast, descend
from .objective import clip_straight_through
from .scales import LEAST_LOSS, LEAST_START, coarse_start, images_of, mean_terms, scales_of

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
) -> Scales:
    """Optimise the Gram matrices H_l of one style and write them as a preset.

    The scales are tuned one after the other, coarse to fine, each from the results of those before
    (`fastfcs.pyramid`). Tuning starts from the statistics of the style picture itself. SOAP learns
    a factor F (c, c) of each H = F F^T, which therefore stays positive semi-definite, as every Gram
    matrix is. The Gram matrices of `fastfcs.refinement` are computed but not tuned. An interrupted
    run resumes from the checkpoints next to ``out``.

    Args:
        style: the picture.
        content: folder of photos to tune on.
        out: the preset to write, a safetensors file.
        config: the settings, by default ``TuneConfig()``.
        device: where to tune.
        vgg: see `fastfcs.vgg.load_vgg19`.

    Returns:
        The tuned statistics, coarse to fine.

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
        >>> config = TuneConfig(weights="tiny", steps=1, batch=1, size=16)
        >>> scales = tune(folder / "plain.png", folder, folder / "preset.safetensors", config)
        >>> len(scales), sorted(file.name for file in folder.iterdir())
        (1, ['plain.png', 'preset.safetensors'])
    """
    config, out = config or TuneConfig(), Path(out)
    solver = load_solver(config.weights).to(device).requires_grad_(False)
    features = load_vgg19(vgg).to(device)
    for module in (solver, features):
        # torch's overloads of `to` lack the one that takes a memory format alone.
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    picture = whole_picture(Path(style), STYLE_SIDE).to(device)
    styles = reductions(picture, config.brush)[: config.levels]
    metadata = {
        "style": Path(style).name,
        "title": config.title,
        "size": str(config.size),
        "brush": str(config.brush),
        "style weight": str(config.style_weight),
    }
    photos = list_images(content)
    tuned: list[Statistics] = []
    checkpoints = []
    for k, reduced in enumerate(styles):
        scale = _Scale(k, reduced, tuned, solver, features, photos, config, device)
        checkpoints.append(out.with_suffix(f".{k}.checkpoint.pt"))
        descend(
            scale.factors,
            scale.loss,
            checkpoints[-1],
            metadata=metadata | {"scale": str(k)},
            steps=config.steps,
            lr=config.lr,
            every=_CHECKPOINT_EVERY,
        )
        with torch.no_grad():
            tuned.append(scale.statistics())
    refinement = Refinement().to(device)
    with torch.no_grad():
        result = tuple(
            Statistics(own.own, refinement.statistics(mirrored(reduced)).vgg)
            for own, reduced in zip(tuned, styles, strict=True)
        )
    presets.write([each.map(lambda h: h.half()) for each in result], out, metadata)
    for checkpoint in checkpoints:
        checkpoint.unlink()
    return result


class _Scale:
    """The k-th scale, tuned on crops of photos that begin with the results of the coarser ones."""

    def __init__(
        self,
        k: int,
        style: Tensor,
        coarser: Sequence[Statistics],
        solver: UnrolledSolver,
        vgg: VGG19,
        photos: Sequence[Path],
        config: TuneConfig,
        device: str,
    ) -> None:
        self._solver, self._vgg, self._config, self._device = solver, vgg, config, device
        size = min(FIRST << k, config.size)
        scales = scales_of(size, LEAST_LOSS, config.levels)
        seed = f"{config.seed}/content/{k}"
        self._pool = Pool([photos], vgg, size, range(config.batch), seed, scales)
        self._goal = targets(vgg, style, scales) * config.batch
        self._restyled = min(k + 1, scales_of(size, LEAST_START, config.levels))
        self._coarser = coarser[::-1]
        with torch.no_grad():
            start = solver.statistics(mirrored(style))
        self.factors = {name: nn.Parameter(_factor(h[0])) for name, h in start.named().items()}

    def statistics(self) -> Statistics:
        """The statistics F F^T, by the operator, which makes them symmetric to the last bit."""
        return Statistics.from_named(
            {name: len(f) * gram(f[None, :, None]) for name, f in self.factors.items()}
        )

    def loss(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a step and its terms."""
        statistics = self.statistics()
        with autocast(self._config.precision, self._device):
            crops = self._pool.sample(step)
            contents = images_of(crops, self._restyled)
            scales = [statistics, *self._coarser]
            first = coarse_start(self._solver, contents, scales, 1 - STRUCTURE)
            output = self._solver(contents[0], statistics, start=first)
            if first is not None:
                output = without_weave(output, contents[0])
            output = clip_straight_through(output)
            content, styles = mean_terms(self._vgg, output, crops, self._goal)
        style = styles.mean()
        return content + self._config.style_weight * style, {"content": content, "style": style}


def _factor(h: Tensor) -> Tensor:
    """F with F F^T = H (c, c) plus 1 % of the mean variance, so that no direction is stuck at 0."""
    variances, directions = torch.linalg.eigh(h.double())
    variances = variances.clamp(min=0) + _LEAST_VARIANCE * variances.mean()
    factor: Tensor = directions * variances.sqrt()
    return factor.float()
