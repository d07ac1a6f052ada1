"""Photographs of any size: restyled small, and the change applied at full size in one pass.

A photoreal change is smooth along the content's structure, and locally it is affine in the
content's colours C. Where the small picture is restyled to X, models of the change are fitted,

    X - C = a . C + b        near every pixel (`fastfcs.ops.affine_fit`)

and enlarged, and the large picture becomes I + a . I + b (`fastfcs.ops.affine_apply`). Its edges
are thus its own, and so is what the small picture cannot show: grain is scaled as the colours
around it are. An unchanged picture comes back bit for bit.

X has been soft-clipped. The models are fitted to what it was before, and the same soft clipping,
by the large picture's own values, follows at full size: a highlight of three pixels is bent, not
cut. 8 and 16 bits take one pass; for floats a second one bends.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .constraints.pixels import SoftClip
from .images import ImageBatch
from .images.samples import to_floats
from .ops import affine_apply, affine_fit

SOLVE_SIZE = 768
"""Longer side, in pixels, at which larger photographs are restyled by default."""

# Windows and regularisation of the models (docs/training-log.md).
_RADIUS, _EPS = 4, 1e-5


def fit_change(small: ImageBatch, restyled: Tensor) -> Tensor:
    """Fit the models of a change.

    Args:
        small: the picture as it was restyled, `ImageBatch.reduced` or not.
        restyled: the result, (B, 3, h, w), floating in [0, 1], in sRGB.

    Returns:
        (B, 12, h, w): a as rows of 3, each followed by its b, as `fastfcs.ops.affine_fit` does.

    Examples:
        >>> import torch
        >>> from fastfcs.images import image_to_tensor
        >>> from fastfcs.large import fit_change
        >>> small = image_to_tensor("content", 0.4 * torch.ones(1, 3, 32, 48))
        >>> models = fit_change(small, small.pixels + 0.1)
        >>> models.shape, round(models[0, 3].mean().item(), 3)
        (torch.Size([1, 12, 32, 48]), 0.1)
    """
    samples = small.samples
    if samples.is_floating_point():
        guide = samples.to(torch.promote_types(samples.dtype, torch.float32))
    else:
        guide = to_floats(samples[0])[None]
    # Without alpha: hidden pixels, which would not change, would hold back their neighbours.
    result = replace(small, alpha=None).encode(restyled).to(guide)
    return affine_fit(guide.detach(), SoftClip(guide).inverse(result) - guide, _RADIUS, _EPS)


def apply_change(large: ImageBatch, models: Tensor) -> Tensor:
    """Apply the change of a small picture to the large one.

    Args:
        large: the picture, of any size.
        models: from `fit_change` of the same picture reduced.

    Returns:
        The large picture restyled: samples of its dtype, (B, 3, H, W), in its own encoding. Hidden
        pixels stay as they are. Differentiable if they are floats.

    Examples:
        >>> import torch
        >>> from fastfcs.images import image_to_tensor
        >>> from fastfcs.large import apply_change, fit_change
        >>> large = image_to_tensor("content", 0.4 * torch.ones(1, 3, 64, 96))
        >>> small = large.reduced(48)
        >>> apply_change(large, fit_change(small, small.pixels + 0.1)).unique().mul(1000).round()
        tensor([500.])
    """
    samples = large.samples
    identity = models.new_tensor([1.0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0]).view(1, -1, 1, 1)
    models = (models + identity).to(samples.device)
    if samples.is_floating_point():
        wide = samples.to(models.dtype)
        applied = SoftClip(wide)(affine_apply(wide, models)).to(samples.dtype)
    else:
        applied = affine_apply(samples, models)
    if large.alpha is None:
        return applied
    return torch.where(large.alpha.to(samples.device) > 0, applied, samples)
