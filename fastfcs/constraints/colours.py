"""The part of a change that is a function of the content's colours."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .combine import as_working_dtype

_SAMPLES = 256  # pixels of the longer side that the fit looks at


class ColourPolynomial:
    """The quadratic polynomial in the content's R, G and B that fits a change best.

    Such a change is the same wherever a colour occurs, so it draws no halo. The fit is by weighted
    least squares, with a ridge for contents of few colours.

    Args:
        content: C, (B,3,H,W), floating in [0,1].
        weight: weights of the pixels, (B,1,H,W).
        ridge: added to the weighted mean squares of the monomials, which are at most 1.

    Raises:
        ValueError: the content is not floating in [0,1].

    Examples:
        >>> import torch
        >>> from fastfcs.constraints.colours import ColourPolynomial
        >>> content = torch.rand(1, 3, 16, 16)
        >>> polynomial = ColourPolynomial(content, torch.ones(1, 1, 16, 16), ridge=1e-6)
        >>> change = content.square() - content.roll(1, 1)
        >>> torch.allclose(polynomial(change, content), change, atol=1e-3)
        True
    """

    def __init__(self, content: Tensor, weight: Tensor, ridge: float) -> None:
        content = as_working_dtype(content)
        self._stride = max(1, max(content.shape[-2:]) // _SAMPLES)
        monomials = _monomials(self._sample(content))
        weights = self._sample(weight).flatten(2)
        self._weighted = weights * monomials / weights.sum(2, keepdim=True).clamp_min(1e-3)
        normal = self._weighted @ monomials.mT
        identity = torch.eye(normal.shape[-1], dtype=normal.dtype, device=normal.device)
        self._inverse = _inverse(normal + ridge * identity)

    def __call__(self, change: Tensor, content: Tensor) -> Tensor:
        """Fit a change and evaluate the polynomial.

        Args:
            change: (B,3,H,W), of C's height and width.
            content: the colours to evaluate it at, C or a part of it, (B,3,h,w).

        Returns:
            (B,3,h,w), in the content's dtype. Linear in the change.
        """
        moments = self._sample(change).flatten(2) @ self._weighted.mT
        coefficients = (moments @ self._inverse).to(content.dtype)
        with torch.autocast(content.device.type, enabled=False):
            values = coefficients @ _monomials(content)
        fitted: Tensor = values.unflatten(2, content.shape[-2:])
        return fitted

    def _sample(self, image: Tensor) -> Tensor:
        # Float32 has too few digits for normal equations.
        return F.avg_pool2d(image, 1, self._stride).double()


def _monomials(image: Tensor) -> Tensor:
    """The ten monomials of R, G and B in [-1,1] up to degree 2 of every pixel, (B,10,H W)."""
    colours = 2 * image.flatten(2) - 1
    red, green, blue = colours.split(1, 1)
    products = red * green, green * blue, blue * red
    return torch.cat([torch.ones_like(red), colours, colours.square(), *products], 1)


def _inverse(a: Tensor) -> Tensor:
    """Invert positive definite matrices by Gauss-Jordan elimination.

    A solver of CUDA's libraries could make the host wait, which a CUDA graph forbids.
    """
    size = a.shape[-1]
    both = torch.cat([a, torch.eye(size, dtype=a.dtype, device=a.device).expand_as(a)], 2)
    for k in range(size):
        row = both.narrow(1, k, 1)
        row = row / row.narrow(2, k, 1)
        rest = both - both.narrow(2, k, 1) * row
        both = torch.cat([rest.narrow(1, 0, k), row, rest.narrow(1, k + 1, size - k - 1)], 1)
    return both.narrow(2, size, size)
