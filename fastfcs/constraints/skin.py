"""The constraint that keeps skin from turning green or blue."""

import torch
from torch import Tensor

from ..losses import luma
from .combine import as_working_dtype
from .windows import is_absent, ramp

# Chosen on three portraits under ten styles, by eye and by the mean a* of faces.
_LOWEST = 0.7, 0.5  # lower bounds on R - G and Y - B, relative to the content's
_GLOW = 0.1  # added to the upper bounds, so that pale walls may glow at night
_HUE = 0.5  # least increase of R - G per increase of Y - B


class KeepSkin:
    """Keeps the hue of skin, and of whatever has its colours, near the content's.

    A style holds no statistics of faces, so without this a face takes the colours of the style's
    leaves or sky. Within the range of skin in Cb and Cr (Chai and Ngan 1999, "Face Segmentation
    Using Skin-Color Map in Videophone Applications"), with soft edges, R - G and Y - B are clipped
    to between about half and twice the content's at X's luminance. The luminance itself does not
    change, and neither does an unchanged content.

    Args:
        content: C, (B,3,H,W), floating in [0,1].

    Raises:
        ValueError: the content is not floating in [0,1].

    Examples:
        >>> import torch
        >>> from fastfcs.constraints import KeepSkin
        >>> skin = torch.tensor([0.8, 0.6, 0.5]).view(1, 3, 1, 1)
        >>> r, g, b = KeepSkin(skin)(skin[:, [2, 0, 2]]).flatten().tolist()
        >>> r > g > b
        True
    """

    def __init__(self, content: Tensor) -> None:
        self.content = as_working_dtype(content)
        self._luma = luma(self.content)
        red, _, blue = self.content.split(1, 1)
        cb, cr = 144 * (blue - self._luma), 182 * (red - self._luma)  # in 8-bit levels
        skin = ramp(cb, -65, -50) * ramp(cb, 4, -2) * ramp(cr, 3, 8) * ramp(cr, 90, 70)
        self._opponents = _opponents(self.content)
        redness, yellowness = self._opponents
        skin = skin * ramp(redness - 0.3 * yellowness, 0.0, 0.02)  # petals and sand are yellower
        skin = skin * ramp(redness / self._luma.clamp_min(0.02), 0.95, 0.7)  # wood is redder
        self._skin = skin * ramp(self._luma, 0.08, 0.2)  # darker pixels have no reliable hue
        self._is_absent = is_absent(self._skin)

    def __call__(self, x: Tensor) -> Tensor:
        """Bound the hue of skin: (B,3,H,W) -> (B,3,H,W), of C's shape. Differentiable in x."""
        if self._is_absent:
            return x
        wide = x.to(self.content.dtype)
        y = luma(wide)
        scale = (y / self._luma.clamp_min(0.02)).clamp(0.25, 1.5)
        red, yellow = _opponents(wide)
        its_red, its_yellow = (scale * opponent for opponent in self._opponents)
        yellower = _bounded(yellow, its_yellow, _LOWEST[1])
        # What turns yellower must turn redder, too, or it would be green.
        least_red = its_red + _HUE * (yellower - its_yellow).clamp_min(0)
        redder = torch.maximum(_bounded(red, its_red, _LOWEST[0]), _LOWEST[0] * least_red)
        blue = yellow - yellower
        green = -(0.114 * blue + 0.299 * (redder - red)) / 0.886  # the luminance stays as it is
        move = torch.cat([green + redder - red, green, blue], 1)
        return (wide + self._skin * move).to(x.dtype)


def _opponents(image: Tensor) -> tuple[Tensor, Tensor]:
    """R - G and Y - B, both (B,1,H,W)."""
    red, green, blue = image.split(1, 1)
    return red - green, luma(image) - blue


def _bounded(ours: Tensor, theirs: Tensor, lowest: float) -> Tensor:
    """Clip to between a share of the content's and twice the content's, or a little more."""
    least = theirs - (1 - lowest) * theirs.abs()
    return torch.minimum(torch.maximum(ours, least), theirs + theirs.abs() + _GLOW)
