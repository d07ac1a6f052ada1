"""The constraint that keeps black dark."""

import torch
from torch import Tensor

from ..losses import luma
from .combine import as_working_dtype
from .windows import is_absent, local_mean, ramp

_OFFSET, _GAIN = 0.05, 2.5  # the brightest result of a luminance y is _OFFSET + _GAIN y


class KeepShadows:
    """Limits how much dark areas are brightened, softly.

    The noise of a night photograph becomes a coloured fog if its black is raised to a style's mean
    colour. Below a luminance of 0.12, fading out at 0.3, a change that would raise the luminance
    by u raises it by r (1 - exp(-u / r)), where r = 0.05 + 1.5 y for the mean luminance y of the
    surroundings; the colours change by the same fraction. Darkening is not limited, and an
    unchanged content does not change.

    Args:
        content: C, (B,3,H,W), floating in [0,1].

    Raises:
        ValueError: the content is not floating in [0,1].

    Examples:
        >>> import torch
        >>> from fastfcs.constraints import KeepShadows
        >>> black = torch.zeros(1, 3, 4, 4)
        >>> KeepShadows(black)(black + 0.5).amax().item() <= 0.05
        True
    """

    def __init__(self, content: Tensor) -> None:
        self.content = as_working_dtype(content)
        self._luma = luma(self.content)
        radius = max(2, max(content.shape[-2:]) // 200)
        around = local_mean(self._luma, None, radius)
        self._room = (_OFFSET + _GAIN * around - self._luma).clamp_min(1e-3)
        self.dark = ramp(self._luma, 0.3, 0.12)
        self._is_absent = is_absent(self.dark)

    def __call__(self, x: Tensor) -> Tensor:
        """Limit the brightening: (B,3,H,W) -> (B,3,H,W), of C's shape. Differentiable in x."""
        if self._is_absent:
            return x
        wide = x.to(self.content.dtype)
        rise = (luma(wide) - self._luma).clamp_min(1e-6) / self._room
        fraction = 1 + self.dark * ((1 - torch.exp(-rise)) / rise - 1)
        return torch.lerp(self.content, wide, fraction).to(x.dtype)
