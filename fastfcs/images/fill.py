"""Filling hidden pixels from their visible neighbours, so that networks do not see their colours.

A pixel of alpha 0 holds any colour: black, white, or a leftover of the background. A convolution
whose window reaches across the edge of a cut-out would carry that colour into the visible part.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..reproducible import enlarge

# Alpha above which a pixel's own colour counts in full. Below it, a colour of 8 bits that was once
# stored multiplied by alpha is off by more than 3 %.
_RELIABLE = 1 / 16


def fill_hidden(image: Tensor, alpha: Tensor) -> Tensor:
    """Replace hidden colours by smooth averages of the nearest visible ones.

    Averages over squares of 2, 4, 8, ... pixels, weighted by visibility, are filled in from coarse
    to fine (push-pull: Gortler et al. 1996, "The Lumigraph"), at a cost proportional to the number
    of pixels. Colours at an alpha below 1/16 are unreliable, and are mixed with these averages the
    more, the lower alpha is; all others are kept bit for bit.

    Args:
        image: (B, 3, H, W), floating.
        alpha: (1, 1, H, W) or (B, 1, H, W) in [0, 1].

    Returns:
        The filled image, independent of all colours at alpha 0; black if all of them are.

    Examples:
        >>> import torch
        >>> from fastfcs.images import fill_hidden
        >>> image = torch.full((1, 3, 16, 24), 0.25)
        >>> alpha = torch.ones(1, 1, 16, 24)
        >>> image[..., 12:], alpha[..., 12:] = 1.0, 0.0
        >>> fill_hidden(image, alpha).unique()
        tensor([0.2500])
    """
    return _push_pull(image, (alpha.to(image) / _RELIABLE).clamp_max(1))


def _push_pull(image: Tensor, weight: Tensor) -> Tensor:
    """The image where ``weight`` is 1, averages at half the resolution where it is 0."""
    if max(image.shape[-2:]) == 1:
        return image
    mean = F.avg_pool2d(weight, 2, ceil_mode=True, count_include_pad=False)
    coarse = F.avg_pool2d(weight * image, 2, ceil_mode=True, count_include_pad=False)
    coarse = _push_pull(coarse / (mean + (mean == 0)), (4 * mean).clamp_max(1))
    coarse = enlarge(coarse, image.shape[-2:])
    return torch.lerp(coarse, image, weight)
