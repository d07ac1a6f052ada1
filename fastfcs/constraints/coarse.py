"""The projection of a change on a grid of half the size, for all updates but the last."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..filters import LowPass, capped
from ..laplacian import MattingLaplacian
from ..reproducible import enlarge
from .combine import as_working_dtype

# A slow change of colours has about this times its eigenvalue on the coarse grid. By scale alone it
# would be 4 times, but then results have less of the content's structure.
_EIGENVALUE = 2

_ORDER = 4.2  # times 1 / sqrt(cutoff); the projections that follow need no sharper step


class CoarseProjection:
    """About C + p(L)(X - C), for a quarter of the time: the change is filtered at half the size.

    A change that passes p(L) is nearly an affine function of the colours of C in every window. Such
    functions are fitted to the change filtered on the coarse grid, and their coefficients are
    interpolated, as by a fast guided filter (He and Sun 2015): the edges of the change are those
    of C at full size. An unchanged content comes back as it is.

    Args:
        content: C, (B,3,H,W), floating in [0,1], H and W at least 5.
        lowpass: the low-pass of the coarse grid, see `coarser`.
        eps: regularisation of L, see `MattingLaplacian`.

    Raises:
        ValueError: an argument is out of range.

    Examples:
        >>> import torch
        >>> from fastfcs import LowPass
        >>> from fastfcs.constraints.coarse import CoarseProjection, coarser
        >>> content = torch.rand(1, 3, 9, 12)
        >>> projection = CoarseProjection(content, coarser(LowPass(0.01)), eps=1e-4)
        >>> torch.allclose(projection(content + 0.1), content + 0.1, atol=1e-4)
        True
    """

    def __init__(self, content: Tensor, lowpass: LowPass, eps: float) -> None:
        self.content = as_working_dtype(content)
        self.lowpass = lowpass
        self._small = _half(self.content)
        self._laplacian = MattingLaplacian(self._small, eps)
        k00, k01, k02, k11, k12, k22 = self._laplacian.factors.split(1, 1)
        rows = (k00, k01, k02), (k11, k12), (k22,)
        # (S_w + eps/9 I)^-1 = K K^T with an upper triangular K.
        self._inverse = [
            torch.cat([_dot(rows[min(i, j)], rows[max(i, j)]) for j in range(3)], 1)
            for i in range(3)
        ]
        self._means = _window_means(self._small)

    def __call__(self, x: Tensor) -> Tensor:
        """Project the change: (B,3,H,W) -> (B,3,H,W), of C's shape. Differentiable in x."""
        change = self.lowpass(self._laplacian, _half(x.to(self.content.dtype) - self.content))
        channels = [self._enlarged(self._coefficients(channel)) for channel in change.split(1, 1)]
        projected = self.content + torch.cat(channels, 1)
        return projected.to(x.dtype)

    def _coefficients(self, y: Tensor) -> Tensor:
        """The affine function of every window that fits y (B,1,h,w), (B,4,h-2,w-2)."""
        mean = _window_means(y)
        covariance = _window_means(y * self._small) - mean * self._means
        slope = torch.zeros_like(covariance)
        for row, part in zip(self._inverse, covariance.split(1, 1), strict=True):
            slope = torch.addcmul(slope, row, part)
        constant = mean - (slope * self._means).sum(1, keepdim=True)
        return torch.cat([slope, constant], 1)

    def _enlarged(self, coefficients: Tensor) -> Tensor:
        """The functions' values at full size, (B,1,H,W); a pixel has the mean of its windows'."""
        smooth = _window_means(F.pad(coefficients, (2, 2, 2, 2), mode="replicate"))
        size = [2 * side for side in smooth.shape[-2:]]
        fine = enlarge(smooth, size)
        height, width = self.content.shape[-2:]
        result: Tensor
        a0, a1, a2, result = fine.narrow(2, 0, height).narrow(3, 0, width).split(1, 1)
        for a, colour in zip((a0, a1, a2), self.content.split(1, 1), strict=True):
            result = torch.addcmul(result, a, colour)
        return result


def coarser(lowpass: LowPass) -> LowPass:
    """Make the low-pass of the coarse grid.

    Args:
        lowpass: p, the low-pass of the full size.

    Returns:
        The low-pass of the same kind whose cutoff removes about the same changes there.

    Examples:
        >>> from fastfcs import LowPass
        >>> from fastfcs.constraints.coarse import coarser
        >>> coarser(LowPass(0.01)).cutoff
        0.02
    """
    cutoff = capped(_EIGENVALUE * lowpass.cutoff)
    return LowPass(cutoff, math.ceil(_ORDER / math.sqrt(cutoff)), lowpass.kind)


def _half(x: Tensor) -> Tensor:
    """Means of 2x2 pixels; a last odd row or column counts twice. avg_pool2d is far slower."""
    for dim in (2, 3):
        if x.shape[dim] % 2:
            x = torch.cat([x, x.narrow(dim, x.shape[dim] - 1, 1)], dim)
        pairs = x.unflatten(dim, (-1, 2))
        x = pairs.select(dim + 1, 0) + pairs.select(dim + 1, 1)
    return x / 4


def _window_means(x: Tensor) -> Tensor:
    """Means of the 3x3 windows inside the image, (B,C,H-2,W-2). avg_pool2d is far slower."""
    for dim in (2, 3):
        length = x.shape[dim] - 2
        x = x.narrow(dim, 0, length) + x.narrow(dim, 1, length) + x.narrow(dim, 2, length)
    return x / 9


def _dot(longer: tuple[Tensor, ...], shorter: tuple[Tensor, ...]) -> Tensor:
    """The product of two rows of an upper triangular matrix, of which the zeros are left out."""
    total = torch.zeros_like(shorter[0])
    for a, b in zip(longer[-len(shorter) :], shorter, strict=True):
        total = torch.addcmul(total, a, b)
    return total
