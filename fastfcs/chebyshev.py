"""Chebyshev polynomials on [0, 9], the interval that contains a matting Laplacian's spectrum."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .laplacian import MattingLaplacian

# Keeps the ringing of a truncated step below 1 %; a smaller beta would make the step sharper.
_KAISER_BETA = 4.0


def expand(
    function: Callable[[NDArray[np.float64]], NDArray[np.float64]], order: int, nodes: int
) -> NDArray[np.float64]:
    """Expand a function in Chebyshev polynomials, f(lambda) = sum_k c_k T_k(2 lambda / 9 - 1).

    Chebyshev-Gauss quadrature at M nodes gives c_k = 2/M sum_j f(lambda_j) cos(k theta_j), and half
    of that for k = 0. This is a discrete cosine transform.

    Args:
        function: f, vectorised, on [0, 9].
        order: degree of the polynomial, less than ``nodes``.
        nodes: M, the number of quadrature nodes.

    Returns:
        c_0 ... c_order, (order + 1,).

    Examples:
        >>> from fastfcs.chebyshev import expand
        >>> expand(lambda eigenvalue: 2 * eigenvalue / 9 - 1, order=2, nodes=8).round(12) + 0.0
        array([0., 1., 0.])
    """
    theta = (np.arange(nodes) + 0.5) * np.pi / nodes
    values = function(MattingLaplacian.lambda_max / 2 * (1 + np.cos(theta)))
    k = np.arange(order + 1)
    transform = np.fft.rfft(np.concatenate([values, values[::-1]]))[: order + 1]
    c: NDArray[np.float64] = (np.exp(-0.5j * np.pi * k / nodes) * transform).real / nodes
    c[0] /= 2
    return c


def kaiser_window(order: int) -> NDArray[np.float64]:
    """Compute the Kaiser window (beta = 4), which damps the ringing of a step's expansion.

    Args:
        order: degree of the polynomial.

    Returns:
        Factors for c_0 ... c_order, (order + 1,), decreasing from 1.

    Examples:
        >>> from fastfcs.chebyshev import kaiser_window
        >>> kaiser_window(2).round(3)
        array([1.   , 0.633, 0.088])
    """
    return np.kaiser(2 * order + 1, _KAISER_BETA)[order:]
