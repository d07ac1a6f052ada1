"""Constraints that act on each pixel separately: on its range, luminance or colour."""

import math

import torch
from torch import Tensor

from ..losses import luma
from .combine import as_working_dtype

_KNEE = 0.6  # fraction of `SoftChroma`'s limit up to which it never changes a pixel
_TINY = 1e-12
_SMALLEST = 1e-6  # a divisor is no less
_TOE = 0.25  # fraction of the content's value, and of its distance to 1, that `SoftClip` compresses


class Clip:
    """The projection onto [low, high], which clips every value.

    Args:
        low, high: the range, low <= high.

    Raises:
        ValueError: low exceeds high.

    Examples:
        >>> import torch
        >>> from fastfcs.constraints import Clip
        >>> Clip()(torch.tensor([-0.5, 0.25, 1.5]))
        tensor([0.0000, 0.2500, 1.0000])
    """

    def __init__(self, low: float = 0.0, high: float = 1.0) -> None:
        if not low <= high:
            raise ValueError(f"low must be at most high, {high}, got {low}")
        self.low, self.high = low, high

    def __call__(self, x: Tensor) -> Tensor:
        """Clip a tensor of any shape. The gradient is 0 where a value is clipped."""
        return x.clamp(self.low, self.high)


class SoftClip:
    """Soft clipping to [0, 1], with a film-like toe and shoulder.

    A value x below m = 0.25 C, where C is the content's own value, becomes m exp(x / m - 1); the
    distance to 1 is compressed likewise. Shadows driven below 0 thus end up proportional to the
    content's and keep their detail, where `Clip` leaves plain black. Values in between do not
    change, and neither does an unchanged content.

    Args:
        content: C, (B,3,H,W), floating in [0,1].

    Raises:
        ValueError: the content is not floating in [0,1].

    Examples:
        >>> import torch
        >>> from fastfcs.constraints import SoftClip
        >>> content = torch.full((1, 3, 1, 1), 0.5)
        >>> soft_clip = SoftClip(content)
        >>> [round(soft_clip(content + shift)[0, 0].item(), 3) for shift in (-0.6, 0, 0.3, 0.6)]
        [0.021, 0.5, 0.8, 0.979]
    """

    def __init__(self, content: Tensor) -> None:
        self.content = as_working_dtype(content)

    def __call__(self, x: Tensor) -> Tensor:
        """Compress an image: (B,3,H,W) -> (B,3,H,W), of C's shape. Differentiable in x."""
        x, dtype = x.to(self.content.dtype), x.dtype
        # The curve lies above its tangent x up to m, and stays at m beyond.
        x = x.clamp(min=_compressed(x, _TOE * self.content))
        return x.clamp(max=1 - _compressed(1 - x, _TOE * (1 - self.content))).to(dtype)

    def inverse(self, y: Tensor) -> Tensor:
        """Find the image that is compressed to another.

        Args:
            y: (B,3,H,W) in [0,1], of C's shape.

        Returns:
            (B,3,H,W) in y's dtype. Where y is so near 0 or 1 that it tells little of x, x is no
            further beyond than three times m.
        """
        x, dtype = y.to(self.content.dtype), y.dtype
        toe, shoulder = _TOE * self.content, _TOE * (1 - self.content)
        x = torch.where(x < toe, _expanded(x, toe), x)
        return torch.where(1 - x < shoulder, 1 - _expanded(1 - x, shoulder), x).to(dtype)


class SoftChroma:
    """A soft bound on chroma |x - Y|, where x are R, G and B and Y is their luma.

    Up to the content's chroma, or 0.6 of the limit where that is more, nothing changes; what
    exceeds it is compressed towards the content's chroma or the limit, whichever is larger. Hue and
    luma stay.

    Args:
        content: C, (B,3,H,W), floating in [0,1].
        limit: (1 or B,1,1,1) or (1 or B,1,H,W).

    Raises:
        ValueError: the content is not floating in [0,1].

    Examples:
        >>> import torch
        >>> from fastfcs.constraints import SoftChroma
        >>> content = torch.full((1, 3, 1, 1), 0.5)
        >>> blue = torch.tensor([0.3, 0.3, 1.0]).view(1, 3, 1, 1)
        >>> SoftChroma(content, torch.full((1, 1, 1, 1), 0.4))(blue).flatten().mul(100).round()
        tensor([33., 33., 76.])
    """

    def __init__(self, content: Tensor, limit: Tensor) -> None:
        content = as_working_dtype(content)
        own = _chroma(content - luma(content))
        self._knee = torch.maximum(own, _KNEE * limit.to(own))
        self._room = (limit.to(own) - self._knee).clamp_min(_TINY)

    def __call__(self, x: Tensor) -> Tensor:
        """Bound chroma: (B,3,H,W) -> (B,3,H,W), of C's shape. Differentiable in x."""
        wide = x.to(self._knee.dtype)
        colour = wide - luma(wide)
        chroma = _chroma(colour)
        # By the excess, and not by `_compressed`: the content, at the knee, stays bit for bit.
        excess = (chroma - self._knee).clamp_min(0)
        kept = self._room * (1 - (-excess / self._room).exp())
        return (wide - (excess - kept) / chroma.clamp_min(_TINY) * colour).to(x.dtype)


def _chroma(colour: Tensor) -> Tensor:
    return (colour.square().sum(1, keepdim=True) + _TINY).sqrt()


def _compressed(x: Tensor, m: Tensor) -> Tensor:
    """m exp(x / m - 1), which meets x at m with the same slope, up to m; 0 where m is 0."""
    return m * (x / m.clamp_min(_SMALLEST)).sub_(1).clamp_max_(0).exp_()


def _expanded(y: Tensor, m: Tensor) -> Tensor:
    """The inverse of `_compressed`, bounded by -3 m."""
    return m * (1 + (y / m.clamp_min(_SMALLEST)).clamp_min(math.exp(-4)).log())


class KeepLuminance:
    """The content's luminance Y = 0.299 R + 0.587 G + 0.114 B with X's I and Q (of YIQ).

    Gatys et al. (2016), "Preserving Color in Neural Artistic Style Transfer", section 2.2, with the
    roles of the two images exchanged. Values may leave [0,1], so `Clip` should follow.

    Args:
        content: C, (B,3,H,W), floating in [0,1].

    Raises:
        ValueError: the content is not floating in [0,1].

    Examples:
        >>> import torch
        >>> from fastfcs.constraints import KeepLuminance
        >>> from fastfcs.losses import luma
        >>> content, x = torch.rand(2, 1, 3, 8, 9)
        >>> torch.allclose(luma(KeepLuminance(content)(x)), luma(content), atol=1e-6)
        True
    """

    def __init__(self, content: Tensor) -> None:
        self.content = as_working_dtype(content)

    def __call__(self, x: Tensor) -> Tensor:
        """Restore C's luminance: (B,3,H,W) -> (B,3,H,W), of C's shape. Differentiable in x."""
        wide = x.to(self.content.dtype)
        return (wide + luma(self.content - wide)).to(x.dtype)


class KeepColour:
    """The content's I and Q (of YIQ) with X's luminance: luminance-only transfer.

    Gatys et al. (2016), "Preserving Color in Neural Artistic Style Transfer", section 2.2. Values
    may leave [0,1], so `Clip` should follow.

    Args:
        content: C, (B,3,H,W), floating in [0,1].

    Raises:
        ValueError: the content is not floating in [0,1].

    Examples:
        >>> import torch
        >>> from fastfcs.constraints import KeepColour
        >>> from fastfcs.losses import luma
        >>> content, x = torch.rand(2, 1, 3, 8, 9)
        >>> torch.allclose(luma(KeepColour(content)(x)), luma(x), atol=1e-6)
        True
    """

    def __init__(self, content: Tensor) -> None:
        self.content = as_working_dtype(content)

    def __call__(self, x: Tensor) -> Tensor:
        """Restore C's colour: (B,3,H,W) -> (B,3,H,W), of C's shape. Differentiable in x."""
        change = x.to(self.content.dtype) - self.content
        return (self.content + luma(change)).to(x.dtype)
