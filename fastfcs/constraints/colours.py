"""The part of a change that is a function of the content's colours."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..losses import luma
from .combine import as_working_dtype

_RIDGE = 1e-4  # of the mean squares of the monomials, the largest of which is 1
_SIDE = 256  # longer side, in pixels, of the grid to whose pixels a polynomial is fitted, about


class ColourPolynomial:
    """The part of a change's chroma that is a quadratic polynomial of the content's colours.

    Such a change is the same wherever a colour occurs, so it has no halo, and it has no luma, so
    the content's edges stay. The smooth signals of a matting Laplacian contain functions of the
    colours only if they are affine, and even these only where eps does not damp them.

    The polynomial is fitted by least squares, with a ridge for contents of few colours.

    Args:
        content: C, (B,3,H,W), floating in [0,1].
        regions: masks (R,H,W) in [0,1] of a single content, each with a polynomial of its own.

    Raises:
        ValueError: the content is not floating in [0,1].

    Examples:
        >>> import torch
        >>> from fastfcs.constraints.colours import ColourPolynomial
        >>> content = torch.rand(1, 3, 16, 16)
        >>> blue = torch.tensor([0.0, -0.114, 0.587]).view(3, 1, 1)  # has no luma
        >>> change = content.square().sum(1, keepdim=True) * blue
        >>> torch.allclose(ColourPolynomial(content)(change), change, atol=0.01)
        True
    """

    def __init__(self, content: Tensor, regions: Tensor | None = None) -> None:
        self.content = as_working_dtype(content.detach())
        step = max(1, max(content.shape[-2:]) // _SIDE)
        self._grid = [math.ceil(side / step) for side in content.shape[-2:]]
        self._masks = None if regions is None else regions.unsqueeze(1).to(self.content)
        self._samples = _monomials(self._sampled(self.content))
        squares = self._weighted(self._samples) @ self._samples.mT
        identity = torch.eye(10, dtype=squares.dtype, device=squares.device)
        pixels = squares.narrow(1, 0, 1).narrow(2, 0, 1)  # the sum of the squares of 1
        factor, _ = torch.linalg.cholesky_ex(squares + _RIDGE * (1 + pixels) * identity)
        self._inverse = torch.cholesky_inverse(factor)

    def __call__(self, change: Tensor) -> Tensor:
        """Fit X - C: (B,3,H,W) -> (B,3,H,W), of C's shape. Linear, and differentiable in it."""
        chroma = self._sampled(change - luma(change)).flatten(2)
        coefficients = self._weighted(chroma) @ self._samples.mT @ self._inverse
        with torch.autocast(change.device.type, enabled=False):
            values = coefficients.to(self.content) @ _monomials(self.content)
        functions = values.unflatten(2, self.content.shape[-2:])
        if self._masks is not None:
            functions = (self._masks * functions).sum(0, keepdim=True)
        fitted: Tensor = functions.to(change.dtype)
        return fitted

    def _sampled(self, image: Tensor) -> Tensor:
        # Float32 has too few digits for normal equations.
        return F.interpolate(image, self._grid, mode="nearest").double()

    def _weighted(self, samples: Tensor) -> Tensor:
        if self._masks is None:
            return samples
        return self._sampled(self._masks).flatten(2) * samples


def _monomials(image: Tensor) -> Tensor:
    """The products of at most two of a pixel's colours, which are in [-1,1], (B,10,HW)."""
    r, g, b = (2 * image - 1).flatten(2).split(1, 1)
    return torch.cat([torch.ones_like(r), r, g, b, r * r, g * g, b * b, r * g, g * b, b * r], 1)
