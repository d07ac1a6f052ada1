"""Regularised least squares on the content's matting Laplacian, solved by conjugate gradients."""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .. import ops
from ..chebyshev import expand
from ..laplacian import MattingLaplacian
from .combine import as_working_dtype


class Tikhonov:
    """P[X] = (I + g L)^-1 X, the minimiser of ||Y - X||^2 + g Tr(Y^T L Y).

    Conjugate gradients run on all channels at once, preconditioned by a polynomial in L whose
    relative distance from the inverse is at most 1/2 (order 0.66 sqrt(9 g)): one fused filter per
    iteration. After each iteration the host checks whether the residual is below tolerance ||X|| in
    every channel. As I + g L >= I, the error ||P[X] - exact|| is then below it as well. At 1e-4
    this takes 6 or 7 iterations, and at most 8, for any g and image.

    The Jacobi preconditioner 1 + g L_ii did harm: on three photos at 128 px, for g from 100 to
    10000, it took 10 to 40 % more iterations than no preconditioner, and in float32 it left errors
    of 0.03 at the few pixels where L_ii is close to 0 (about 5 elsewhere). The polynomial takes as
    many products with L as no preconditioner, in a third of the time.

    Args:
        content: C, (B,3,H,W), floating in [0,1], H and W at least 3; L is its Laplacian.
        gamma: g, positive. An eigenvector of eigenvalue 1 / g is halved.
        tolerance: relative error, in (0, 1). In float32, rounding adds up to 1e-4 at g = 1000 and
            1e-3 at g = 10000.

    Raises:
        ValueError: an argument is out of range.

    Examples:
        >>> import torch
        >>> from fastfcs import MattingLaplacian
        >>> from fastfcs.constraints import Tikhonov
        >>> content, x = torch.rand(2, 1, 3, 8, 9, dtype=torch.float64)
        >>> y = Tikhonov(content, gamma=30)(x)
        >>> residual = y + 30 * (MattingLaplacian(content) @ y) - x
        >>> bool(residual.norm() < 1e-4 * x.norm())
        True
    """

    def __init__(self, content: Tensor, gamma: float, tolerance: float = 1e-4) -> None:
        _check(gamma=gamma)
        content = as_working_dtype(content)
        self.system = _System(content, gamma, tolerance, content.new_ones(()))

    def __call__(self, x: Tensor) -> Tensor:
        """Solve for an image: (B,3,H,W) -> (B,3,H,W), of C's shape. Differentiable in x."""
        return self.system(x).to(x.dtype)


class PhotorealisticSmoothing:
    """P[X] = (1 - a) (I - a S)^-1 X with S = D^-1/2 W D^-1/2 and a = 1 / (1 + lambda).

    This is the second stage, photorealistic smoothing, of Li et al., "A Closed-form Solution to
    Photorealistic Image Stylization" (ECCV 2018), for any stylised image X. W is the matting
    affinity, W_ij = sum over windows of A_w(i,j), i = j included, as in their program. A row of A_w
    sums to 1, so the degree D_ii is the number of windows that contain pixel i, and L = D - W.
    Hence

        S = I - D^-1/2 L D^-1/2    and    P = (I + 1/lambda D^-1/2 L D^-1/2)^-1

    which is solved like `Tikhonov`, to the same tolerance. As D is smaller along the border, S
    would darken it. As in their program, the images are therefore padded by replicating two pixels
    and cropped afterwards (their program first drops the outermost two pixels, and works in
    float64). A constant still becomes slightly brighter there: at 512 px, 0.5 becomes 0.502 on
    average and at most 0.58.

    Args:
        content: C, (B,3,H,W), floating in [0,1].
        lambda_: lambda, positive; a larger value keeps P[X] closer to X.
        tolerance: see `Tikhonov`; relative to the padded X.

    Raises:
        ValueError: an argument is out of range.

    Examples:
        >>> import torch
        >>> from fastfcs import MattingLaplacian
        >>> from fastfcs.constraints import PhotorealisticSmoothing
        >>> content, x = torch.rand(2, 1, 3, 8, 9)
        >>> smoothing, laplacian = PhotorealisticSmoothing(content), MattingLaplacian(content)
        >>> bool(laplacian.energy(smoothing(x)) < 0.1 * laplacian.energy(x))
        True
    """

    def __init__(self, content: Tensor, lambda_: float = 1e-4, tolerance: float = 1e-4) -> None:
        _check(lambda_=lambda_)
        padded = _pad(as_working_dtype(content))
        rows, columns = (
            F.conv1d(padded.new_ones(1, 1, side - 2), padded.new_ones(1, 1, 3), padding=2)
            for side in padded.shape[-2:]
        )
        self.system = _System(padded, 1 / lambda_, tolerance, degree=rows.mT * columns)

    def __call__(self, x: Tensor) -> Tensor:
        """Smooth an image: (B,3,H,W) -> (B,3,H,W), of C's shape. Differentiable in x."""
        return self.system(_pad(x))[..., 2:-2, 2:-2].to(x.dtype)


class _System:
    """(I + g D^-1/2 L D^-1/2)^-1, where D holds a degree in [1, 9] per pixel."""

    def __init__(self, image: Tensor, gamma: float, tolerance: float, degree: Tensor) -> None:
        if not 0 < tolerance < 1:
            raise ValueError(f"tolerance must be in (0, 1), got {tolerance}")
        self.laplacian = MattingLaplacian(image)
        self.gamma, self.tolerance, self.scale = gamma, tolerance, degree.rsqrt()
        least, most = float(degree.min()), float(degree.max())
        self.preconditioner = _inverse(gamma / most)
        # The preconditioned condition number is at most 3 times the ratio of the degrees. After m
        # iterations the error is at most 2 ((root - 1) / (root + 1))^m (Saad 2003, 6.128).
        root = math.sqrt(3 * most / least)
        self.limit = math.ceil(math.log(2 / tolerance) / math.log((root + 1) / (root - 1)))

    def __call__(self, x: Tensor) -> Tensor:
        # torch's method has no annotations.
        result: Tensor = _Solve.apply(x.to(self.laplacian.dtype), self)  # type: ignore[no-untyped-call]
        return result

    def solve(self, x: Tensor) -> Tensor:
        """Preconditioned conjugate gradients (Saad 2003, algorithm 9.1) on independent channels."""
        tiny = torch.finfo(x.dtype).tiny  # avoids 0 / 0 once a channel is solved
        goal = self.tolerance**2 * _dot(x, x)
        result, r = torch.zeros_like(x), x.clone()
        p, rz = torch.zeros_like(x), torch.full_like(goal, math.inf)  # the first direction is z
        for _ in range(self.limit):
            z = self._filtered(r / self.scale) / self.scale
            rz, before = _dot(r, z), rz
            p = torch.addcmul(z, rz / before.clamp_min(tiny), p)
            q = p + self.gamma * self.scale * (self.laplacian @ (self.scale * p))
            step = rz / _dot(p, q).clamp_min(tiny)
            result.addcmul_(step, p)
            r.addcmul_(step, q, value=-1)
            if (_dot(r, r) <= goal).all():
                break
        return result

    def _filtered(self, x: Tensor) -> Tensor:
        return ops.matting_filter(
            self.laplacian.image, self.laplacian.factors, x, self.preconditioner
        )


def _inverse(gamma: float) -> Tensor:
    """The polynomial p of least order with |1 - (1 + g lambda) p(lambda)| <= 1/2 on [0, 9].

    1 - (1 + g lambda) p = T_N((4.5 - lambda) / 4.5) / T_N(c), where c is the argument of T_N for
    1 + g lambda = 0 (Saad 2003, 12.3.2).
    """
    zero = 1 + 1 / (4.5 * gamma)
    degree = math.ceil(math.acosh(2) / math.acosh(zero))

    def inverse(eigenvalue: NDArray[np.float64]) -> NDArray[np.float64]:
        chebyshev = np.cos(degree * np.arccos(1 - eigenvalue / 4.5))
        residual = chebyshev / math.cosh(degree * math.acosh(zero))
        p: NDArray[np.float64] = (1 - residual) / (1 + gamma * eigenvalue)
        return p

    return torch.from_numpy(expand(inverse, degree - 1, degree))


class _Solve(torch.autograd.Function):
    """Solves the system. As the matrix is symmetric, the gradient is a solution as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, system: _System) -> Tensor:
        ctx.system = system
        return system.solve(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.system.solve(grad), None


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((-2, -1), keepdim=True)


def _pad(x: Tensor) -> Tensor:
    return F.pad(x, (2, 2, 2, 2), mode="replicate")


def _check(**positive: float) -> None:
    for name, value in positive.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {value}")
