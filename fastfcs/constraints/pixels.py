"""Constraints on each pixel by itself: its range, its luminance, its colour."""

import torch
from torch import Tensor

from .combine import as_working_dtype

_LUMA = (0.299, 0.587, 0.114)  # Rec. 601, as in YIQ
_TOE = 0.25  # share of the content's value below which `SoftClip` bends


class Clip:
    """The projection onto [low, high]: every value clipped.

    Args:
        low, high: the range, low <= high.

    Raises:
        ValueError: low exceeds high.
    """

    def __init__(self, low: float = 0.0, high: float = 1.0) -> None:
        if not low <= high:
            raise ValueError(f"low is {low} and high {high}; low <= high is wanted")
        self.low, self.high = low, high

    def __call__(self, x: Tensor) -> Tensor:
        """Any shape. The gradient is 0 where a value is clipped."""
        return x.clamp(self.low, self.high)


class SoftClip:
    """The range [0, 1], approached as film does, with a toe and a shoulder, instead of cut.

    A value x below m = 0.25 C, C the content's own, becomes m exp(x / m - 1), and likewise the
    distance to 1. So shadows driven below 0 end up proportional to the content's, and keep what
    there is to see in them, where `Clip` leaves plain black. Values between are untouched, and so is
    an unchanged content.

    Args:
        content: C, (B,3,H,W), in [0,1].
    """

    def __init__(self, content: Tensor) -> None:
        self.content = as_working_dtype(content)

    def __call__(self, x: Tensor) -> Tensor:
        """(B,3,H,W) -> (B,3,H,W), of the content's shape. Differentiable in x."""
        x, dtype = x.to(self.content.dtype), x.dtype
        toe, shoulder = _TOE * self.content, _TOE * (1 - self.content)
        x = torch.where(x < toe, _bent(x, toe), x)
        return torch.where(1 - x < shoulder, 1 - _bent(1 - x, shoulder), x).to(dtype)


def _bent(x: Tensor, m: Tensor) -> Tensor:
    """m exp(x / m - 1), which meets x at m with the same slope; 0 where m is and x below it."""
    return m * torch.exp((x / m.clamp_min(1e-6) - 1).clamp_max(0))


class KeepLuminance:
    """X with the content's luminance Y = 0.299 R + 0.587 G + 0.114 B, and its own I and Q of YIQ.

    Gatys et al. (2016), "Preserving Color in Neural Artistic Style Transfer", section 2.2, with the
    roles of the two images exchanged. Values may leave [0,1]: then `Clip` is wanted after it.

    Args:
        content: (B,3,H,W).
    """

    def __init__(self, content: Tensor) -> None:
        self.content = as_working_dtype(content)

    def __call__(self, x: Tensor) -> Tensor:
        """(B,3,H,W) -> (B,3,H,W), of the content's shape. Differentiable in x."""
        wide = x.to(self.content.dtype)
        return (wide + _luminance(self.content - wide)).to(x.dtype)


class KeepColour:
    """The content's I and Q of YIQ, and X's luminance: luminance-only transfer.

    Gatys et al. (2016), "Preserving Color in Neural Artistic Style Transfer", section 2.2. Values
    may leave [0,1]: then `Clip` is wanted after it.

    Args:
        content: (B,3,H,W).
    """

    def __init__(self, content: Tensor) -> None:
        self.content = as_working_dtype(content)

    def __call__(self, x: Tensor) -> Tensor:
        """(B,3,H,W) -> (B,3,H,W), of the content's shape. Differentiable in x."""
        change = x.to(self.content.dtype) - self.content
        return (self.content + _luminance(change)).to(x.dtype)


def _luminance(x: Tensor) -> Tensor:
    """(B,3,H,W) -> (B,1,H,W)"""
    red, green, blue = (weight * c for weight, c in zip(_LUMA, x.split(1, 1), strict=True))
    return red + green + blue  # no tensor of weights: a copy to the GPU, which the host waits for
