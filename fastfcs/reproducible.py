"""Functions of torch whose results on a CPU depend on its number of threads, without that.

Rounding then differs, which a painting amplifies. With these, and the operators of `fastfcs.ops`, a
picture comes out the same on one core and on many.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

_LONG = 256  # channels


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    """Convolve.

    oneDNN splits the long sums of 1x1 convolutions of many channels by the number of threads. As a
    product of matrices they are as fast, and every sum stays whole.

    Args:
        x: (B, C, H, W).
        weight: (C', C, k, k).
        bias: (C'), or None.
        padding: zeros on every side, 0 if k is 1.

    Returns:
        (B, C', H', W').

    Examples:
        >>> import torch
        >>> from fastfcs.reproducible import convolve
        >>> convolve(torch.rand(1, 8, 6, 4), torch.rand(16, 8, 1, 1), None, 0).shape
        torch.Size([1, 16, 6, 4])
    """
    if weight.shape[-1] > 1 or weight.shape[1] < _LONG:
        return F.conv2d(x, weight, bias, padding=padding)
    product: Tensor = (weight.flatten(1) @ x.flatten(2)).unflatten(2, x.shape[-2:])
    return product if bias is None else product + bias.view(-1, 1, 1)


def enlarge(x: Tensor, size: Sequence[int]) -> Tensor:
    """Enlarge images bilinearly, with corners not aligned.

    Torch has another kernel for a single thread. That of antialiasing, which changes nothing where
    images are enlarged, is the same for any number.

    Args:
        x: (B, C, H, W), floating.
        size: H' >= H and W' >= W.

    Returns:
        (B, C, H', W').

    Examples:
        >>> import torch
        >>> from fastfcs.reproducible import enlarge
        >>> enlarge(torch.rand(1, 3, 6, 4), [12, 8]).shape
        torch.Size([1, 3, 12, 8])
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))  # on the CPU, half types have none
    return F.interpolate(wide, list(size), mode="bilinear", antialias=True).to(x.dtype)


def area_mean(x: Tensor) -> Tensor:
    """Compute the mean over all pixels, of rows first.

    Torch splits a sum over all dimensions at once by the number of threads.

    Args:
        x: (..., H, W).

    Returns:
        (..., 1, 1).

    Examples:
        >>> import torch
        >>> from fastfcs.reproducible import area_mean
        >>> area_mean(torch.ones(2, 3, 4)).shape
        torch.Size([2, 1, 1])
    """
    return x.mean(-1, keepdim=True).mean(-2, keepdim=True)


def squared_norm(x: Tensor) -> Tensor:
    """Compute ||x_b||^2 of every batch element, one dimension after another.

    Args:
        x: (B, ...).

    Returns:
        (B,).

    Examples:
        >>> import torch
        >>> from fastfcs.reproducible import squared_norm
        >>> squared_norm(torch.ones(2, 3, 4))
        tensor([12., 12.])
    """
    x = x.square()
    while x.dim() > 1:
        x = x.sum(-1)
    return x
