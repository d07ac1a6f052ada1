"""Regularised least squares on the content's matting Laplacian, by conjugate gradients."""

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

    Conjugate gradients, all channels at once, preconditioned by a polynomial in L that is within
    half of the inverse (order 0.66 sqrt(9 g)), one fused filter an iteration. After each, the host
    looks whether the residual is below tolerance ||X|| in every channel; as I + g L >= I, the error
    ||P[X] - exact|| is then below it as well. At 1e-4 that takes 6 or 7 iterations, at most 8,
    whatever g and the image.

    Jacobi's preconditioner 1 + g L_ii did harm: on three photos at 128 px, g from 100 to 10000,
    it took 10 to 40 % more iterations than none, for L_ii is about 5 nearly everywhere but close to
    0 at single odd pixels; and in float32 it left errors of 0.03 there. The polynomial takes as
    many products with L as no preconditioner, in a third of the time.

    Args:
        content: (B,3,H,W), floating in [0,1], whose Laplacian L is.
        gamma: g, positive: an eigenvector of eigenvalue 1 / g is halved.
        tolerance: in (0, 1), relative. In float32, rounding adds up to 1e-4 at g = 1000 and 1e-3 at
            g = 10000.

    Raises:
        ValueError: an argument is none of these.
    """

    def __init__(self, content: Tensor, gamma: float, tolerance: float = 1e-4) -> None:
        _check(gamma=gamma)
        content = as_working_dtype(content)
        self.system = _System(content, gamma, tolerance, content.new_ones(()))

    def __call__(self, x: Tensor) -> Tensor:
        """(B,3,H,W) -> (B,3,H,W), of the content's shape. Differentiable in x."""
        return self.system(x).to(x.dtype)


class PhotorealisticSmoothing:
    """P[X] = (1 - a) (I - a S)^-1 X, S = D^-1/2 W D^-1/2, a = 1 / (1 + lambda)

    The second stage, photorealistic smoothing, of Li et al., "A Closed-form Solution to
    Photorealistic Image Stylization" (ECCV 2018), for any stylised image X. W is the matting
    affinity, W_ij = sum over windows of A_w(i,j), i = j included, as in their program. A row of A_w
    sums to 1, so the degree D_ii is the number of windows that hold pixel i, and L = D - W. Hence

        S = I - D^-1/2 L D^-1/2    and    P = (I + 1/lambda D^-1/2 L D^-1/2)^-1

    which is solved as `Tikhonov` is, to the same tolerance. As D is smaller along the border, S
    would darken it; as in their program, the images are padded by replicating two pixels, and
    cropped after (theirs first drops the outermost two pixels, and works in float64). A constant
    still becomes a little brighter there: 0.5 becomes 0.502 on average at 512 px, 0.58 at most.

    Args:
        content: (B,3,H,W), floating in [0,1].
        lambda_: positive, how faithful to X.
        tolerance: as in `Tikhonov`, of the padded X.

    Raises:
        ValueError: an argument is none of these.
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
        """(B,3,H,W) -> (B,3,H,W), of the content's shape. Differentiable in x."""
        return self.system(_pad(x))[..., 2:-2, 2:-2].to(x.dtype)


class _System:
    """(I + g D^-1/2 L D^-1/2)^-1, D a degree in [1, 9] for each pixel."""

    def __init__(self, image: Tensor, gamma: float, tolerance: float, degree: Tensor) -> None:
        if not 0 < tolerance < 1:
            raise ValueError(f"tolerance is {tolerance}; a number in (0, 1) is wanted")
        self.laplacian = MattingLaplacian(image)
        self.gamma, self.tolerance, self.scale = gamma, tolerance, degree.rsqrt()
        least, most = float(degree.min()), float(degree.max())
        self.preconditioner = _inverse(gamma / most)
        # The preconditioned condition number is at most 3, and so much more for the degrees. The
        # error being at most twice this ratio to the power of the iterations (Saad 2003, 6.128):
        root = math.sqrt(3 * most / least)
        self.limit = math.ceil(math.log(2 / tolerance) / math.log((root + 1) / (root - 1)))

    def __call__(self, x: Tensor) -> Tensor:
        result: Tensor = _Solve.apply(x.to(self.laplacian.dtype), self)  # type: ignore[no-untyped-call]
        return result

    def solve(self, x: Tensor) -> Tensor:
        """Preconditioned conjugate gradients (Saad 2003, algorithm 9.1), each channel its own."""
        tiny = torch.finfo(x.dtype).tiny  # for 0 / 0, where a channel is solved
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
    """A polynomial p with |1 - (1 + g lambda) p(lambda)| <= 1/2 on [0, 9], of the least order.

    1 - (1 + g lambda) p = T_N((4.5 - lambda) / 4.5) / T_N(c), c where 1 + g lambda is 0 (Saad 2003,
    12.3.2).
    """
    zero = 1 + 1 / (4.5 * gamma)
    degree = math.ceil(math.acosh(2) / math.acosh(zero))

    def inverse(eigenvalue: NDArray[np.float64]) -> NDArray[np.float64]:
        chebyshev = np.cos(degree * np.arccos(1 - eigenvalue / 4.5))
        return (1 - chebyshev / math.cosh(degree * math.acosh(zero))) / (1 + gamma * eigenvalue)

    return torch.from_numpy(expand(inverse, degree - 1, degree))


class _Solve(torch.autograd.Function):
    """The solution, whose gradient, the matrix being symmetric, is a solution again."""

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
            raise ValueError(f"{name} is {value}; a positive number is wanted")
