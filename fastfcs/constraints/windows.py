"""Filters over square windows, for the constraints that look at a pixel's surroundings.

Windows are cut off at the image's border. All take images (B,C,H,W), any C.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def maximum(x: Tensor, radius: int) -> Tensor:
    """Compute the maximum in the window of every pixel.

    Args:
        x: (B,C,H,W).
        radius: the window has 2 radius + 1 pixels per side.

    Returns:
        (B,C,H,W).

    Examples:
        >>> import torch
        >>> from fastfcs.constraints.windows import maximum
        >>> maximum(torch.tensor([[[[1.0, 3.0, 0.0, 0.0]]]]), 1)[0, 0]
        tensor([[3., 3., 3., 0.]])
    """
    side = 2 * radius + 1
    for dim, padding in ((2, (0, 0, radius, radius)), (3, (radius, radius, 0, 0))):
        x, covered = F.pad(x, padding, value=-torch.inf), 1
        while covered < side:  # doubling takes log(side) steps; max_pool2d takes 20 times as long
            step = min(covered, side - covered)
            length = x.shape[dim] - step
            x = torch.maximum(x.narrow(dim, 0, length), x.narrow(dim, step, length))
            covered += step
    return x


def minimum(x: Tensor, radius: int) -> Tensor:
    """Compute the minimum in the window of every pixel.

    Args:
        x, radius: see `maximum`.

    Returns:
        (B,C,H,W).

    Examples:
        >>> import torch
        >>> from fastfcs.constraints.windows import minimum
        >>> minimum(torch.tensor([[[[1.0, 3.0, 0.0, 4.0]]]]), 1)[0, 0]
        tensor([[1., 0., 0., 0.]])
    """
    return -maximum(-x, radius)


def spread(x: Tensor, radius: int) -> Tensor:
    """Compute the maximum minus the minimum in the window of every pixel.

    Args:
        x, radius: see `maximum`.

    Returns:
        (B,C,H,W).

    Examples:
        >>> import torch
        >>> from fastfcs.constraints.windows import spread
        >>> spread(torch.tensor([[[[1.0, 3.0, 0.0, 4.0]]]]), 1)[0, 0]
        tensor([[2., 3., 4., 4.]])
    """
    high, low = maximum(torch.cat([x, -x], 1), radius).chunk(2, 1)
    return high + low


def local_mean(x: Tensor, weight: Tensor, radius: int) -> Tensor:
    """Compute a smooth weighted mean of every pixel's surroundings, sum(w x) / sum(w).

    Both sums are taken on a coarser grid and interpolated, so that the cost does not depend on the
    radius.

    Args:
        x: (B,C,H,W).
        weight: w, (B,1,H,W), not negative. Where it is 0 all around, the mean is 0.
        radius: about half the side of the surroundings, in pixels.

    Returns:
        (B,C,H,W).

    Examples:
        >>> import torch
        >>> from fastfcs.constraints.windows import local_mean
        >>> x = torch.tensor([0.5, 9.0]).repeat(4).expand(1, 1, 8, 8)
        >>> bool((local_mean(x, (x < 1).float(), 2) - 0.5).abs().max() < 1e-6)
        True
    """
    stride = max(1, radius // 2)
    sums = []
    for image in (x * weight, weight):
        coarse = F.avg_pool2d(image, stride, ceil_mode=True, count_include_pad=False)
        for kernel in ((5, 1), (1, 5)):
            padding = kernel[0] // 2, kernel[1] // 2
            coarse = F.avg_pool2d(coarse, kernel, 1, padding, count_include_pad=False)
        fine = F.interpolate(coarse, image.shape[-2:], mode="bilinear", align_corners=False)
        sums.append(fine)
    return sums[0] / sums[1].clamp_min(1e-6)


def ramp(x: Tensor, low: float, high: float) -> Tensor:
    """Rise linearly from 0 at ``low`` to 1 at ``high``.

    Args:
        x: any shape.
        low, high: the ends of the ramp; if high < low it falls from 1 to 0.

    Returns:
        x's shape, in [0,1].

    Examples:
        >>> import torch
        >>> from fastfcs.constraints.windows import ramp
        >>> ramp(torch.tensor([0.0, 0.25, 1.0]), 0.0, 0.5)
        tensor([0.0000, 0.5000, 1.0000])
    """
    return ((x - low) / (high - low)).clamp(0, 1)
