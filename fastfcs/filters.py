"""Low-pass filters on a matting Laplacian: polynomials of L, without any eigenvector."""

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import ops
from .bandwidth import estimate_cutoff
from .chebyshev import expand, kaiser_window
from .laplacian import MattingLaplacian

Kind = Literal["ideal", "heat", "tikhonov"]

_LARGEST_ORDER = 20_000  # seconds for a small picture, minutes for a large one

# h(0) = 1, and at the cutoff h is 1/2, or steps through it.
_KERNELS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "ideal": lambda eigenvalue, cutoff: (eigenvalue <= cutoff).astype(np.float64),
    "heat": lambda eigenvalue, cutoff: np.exp2(-eigenvalue / cutoff),
    "tikhonov": lambda eigenvalue, cutoff: 1 / (1 + eigenvalue / cutoff),
}


class LowPass:
    """A low-pass filter p(L): a polynomial p with p(0) = 1, close on [0, 9] to one of the kernels

        ideal      h = 1 up to the cutoff, 0 beyond: the projection onto span(U_k) of Puy and Pérez
        heat       h = 2^(-lambda / cutoff)
        tikhonov   h = 1 / (1 + lambda / cutoff), which solves (I + L / cutoff) y = x

    The coefficients are the kernel's Chebyshev expansion, by Chebyshev-Gauss quadrature. The ideal
    kernel's are damped by a Kaiser window (beta = 4), since a truncated step rings. Divided by
    p(0), they let constants pass unchanged.

    Jackson's window, the usual one, needs half as many products with L again for the same result.
    Measured on a 40 px crop of a photo (1600 eigenvectors), posterised, recoloured, in noisy
    blocks: the energy Tr(X^T L X), 97 before; the same after the exact projection; the RMS
    difference of the two images; and the largest |p| beyond three cutoffs.

        window    cutoff  order   energy    exact       RMS     leak
        Jackson     0.01    100   0.0133   0.0150   0.01093   0.0467
        Jackson     0.01    150   0.0122   0.0150   0.00874   0.0049
        Kaiser      0.01     40   0.0244   0.0150   0.01478   0.1972
        Kaiser      0.01     60   0.0139   0.0150   0.01170   0.0661
        Kaiser      0.01    100   0.0122   0.0150   0.00876   0.0063
        Kaiser      0.01    150   0.0124   0.0150   0.00692   0.0041
        Kaiser       0.1     19   0.4016   0.5936   0.01835   0.0622
        Kaiser     0.001    190   0.0009   0.0009   0.00551   0.0655

    The default order is ceil(6 / sqrt(cutoff)), a fixed relative width of the step, since near zero
    p resolves sqrt(lambda) in proportion to 1 / order. The energy left is then that of the exact
    projection, or less. A higher order makes the step sharper; on photos that could not be seen.
    At the default order p is within 0.002 of the heat kernel, and within 0.03 of Tikhonov's (0.001
    at twice that order), and so ||p(L) x - h(L) x|| within as much of ||x||.

    Args:
        cutoff: where the kernel falls to 1/2, in (0, 9): L's eigenvalues lie in [0, 9].
        order: degree of p, the number of products with L, from 1 to 20000; by default as many as
            the cutoff asks for.
        kind: "ideal", "heat" or "tikhonov".

    Attributes:
        coefficients: (order + 1,), float64 on the CPU:
            p(lambda) = sum_k c_k T_k(2 lambda / 9 - 1), c_0 not halved.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(self, cutoff: float, order: int | None = None, kind: Kind = "ideal") -> None:
        if not 0 < cutoff < MattingLaplacian.lambda_max:
            raise ValueError(f"cutoff is {cutoff}; a number in (0, 9) is wanted")
        if kind not in _KERNELS:
            raise ValueError(f"kind is {kind!r}; one of {', '.join(_KERNELS)} is wanted")
        self.cutoff = cutoff
        self.kind = kind
        self.order = math.ceil(6 / math.sqrt(cutoff)) if order is None else order
        if order is None and self.order > _LARGEST_ORDER:
            raise ValueError(
                f"cutoff is {cutoff}, which takes an order of {self.order}; a larger cutoff, or an "
                f"order of at most {_LARGEST_ORDER}, is wanted"
            )
        if not isinstance(self.order, int) or not 1 <= self.order <= _LARGEST_ORDER:
            raise ValueError(f"order is {order}; an integer from 1 to {_LARGEST_ORDER} is wanted")
        self.coefficients = torch.from_numpy(self._coefficients())

    @classmethod
    def for_bandwidth(
        cls, laplacian: MattingLaplacian, k: int, order: int | None = None
    ) -> "LowPass":
        """The ideal low-pass whose cutoff has k eigenvalues below: it imitates P_span(U_k).

        What is matched is the number of eigenvalues, by stochastic counting: see
        :func:`fastfcs.bandwidth.estimate_cutoff` for its error, its cost, and what it raises.
        """
        return cls(estimate_cutoff(laplacian, k), order)

    def _coefficients(self) -> NDArray[np.float64]:
        # With 64 times more nodes than coefficients, the ideal kernel's step falls where it should.
        c = expand(lambda x: self.kernel(x).numpy(), self.order, 64 * (self.order + 1))
        if self.kind == "ideal":
            c *= kaiser_window(self.order)
        return c / np.sum(c * (-1.0) ** np.arange(self.order + 1))  # T_k(-1) = (-1)^k

    def kernel(self, eigenvalue: Any) -> Tensor:
        """The kernel h that p imitates, at eigenvalues in [0, 9]: float64, of their shape."""
        return torch.as_tensor(_KERNELS[self.kind](_as_array(eigenvalue), self.cutoff))

    def response(self, eigenvalue: Any) -> Tensor:
        """The filter's p, at eigenvalues in [0, 9]: float64, of their shape."""
        position = 2 / MattingLaplacian.lambda_max * _as_array(eigenvalue) - 1
        return torch.as_tensor(np.polynomial.chebyshev.chebval(position, self.coefficients.numpy()))

    def __call__(self, laplacian: MattingLaplacian, x: Tensor) -> Tensor:
        """p(L) x, of x's shape: (C,H,W) or (B,C,H,W) as L's image, any C. Differentiable in x."""
        filtered = ops.matting_filter(
            laplacian.image, laplacian.factors, laplacian.batched(x), self.coefficients
        )
        return filtered.reshape(x.shape)

    def __repr__(self) -> str:
        return f"LowPass(cutoff={self.cutoff}, order={self.order}, kind={self.kind!r})"


def _as_array(values: Any) -> np.ndarray:
    return torch.as_tensor(values, dtype=torch.float64).detach().cpu().numpy()
