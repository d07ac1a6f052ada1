"""Filters over square windows, for the constraints that look at a pixel's surroundings.

Windows are cut off at the image's border. All take images (B,C,H,W), any C.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..reproducible import enlarge

Box = tuple[slice, slice]
"""The rows and columns of a part of an image."""

WHOLE: Box = slice(None), slice(None)
"""The box of a whole image."""


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
    x = F.pad(x, (radius,) * 4, mode="replicate")  # the window of a border pixel contains it
    for dim in (2, 3):
        covered = 1
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
    return maximum(x, radius) - minimum(x, radius)


def local_mean(x: Tensor, weight: Tensor | None, radius: int) -> Tensor:
    """Compute a smooth weighted mean of every pixel's surroundings, sum(w x) / sum(w).

    Both sums are taken on a coarser grid and interpolated, so that the cost does not depend on the
    radius.

    Args:
        x: (B,C,H,W).
        weight: w, (B,1,H,W), not negative. Where it is 0 all around, the mean is 0. None stands for
            equal weights.
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
    if weight is not None:
        return local_mean(x * weight, None, radius) / local_mean(weight, None, radius).clamp_min(
            1e-6
        )
    stride = max(1, radius // 2)
    if stride == 1:
        return _mean_of_five(x)
    coarse = F.avg_pool2d(x, stride, ceil_mode=True, count_include_pad=False)
    coarse = _mean_of_five(coarse)
    return enlarge(coarse, x.shape[-2:])


def _mean_of_five(x: Tensor) -> Tensor:
    """The mean over 5x5 pixels. Sums of slices take a tenth of the time of avg_pool2d."""
    for dim, padding in ((2, (0, 0, 2, 2)), (3, (2, 2, 0, 0))):
        length = x.shape[dim]
        padded = F.pad(x, padding)
        inside = F.pad(x.new_ones([length if k == dim else 1 for k in range(4)]), padding)
        x = _sum_of_five(padded, dim, length) / _sum_of_five(inside, dim, length)
    return x


def _sum_of_five(x: Tensor, dim: int, length: int) -> Tensor:
    total = x.narrow(dim, 0, length) + x.narrow(dim, 1, length)
    for k in (2, 3, 4):
        total += x.narrow(dim, k, length)
    return total


def is_absent(weight: Tensor) -> bool:
    """Tell whether a weight is known to be 0 everywhere, so that its constraint changes nothing.

    It is not known on CUDA, where the host would wait for the values, nor in a traced program,
    which serves other values as well.

    Args:
        weight: any shape.

    Returns:
        Whether it is.

    Examples:
        >>> import torch
        >>> from fastfcs.constraints.windows import is_absent
        >>> is_absent(torch.zeros(2, 3)), is_absent(torch.ones(2, 3))
        (True, False)
    """
    return is_known(weight) and not weight.any()


def is_known(x: Tensor) -> bool:
    """Tell whether a shortcut may look at values: on the CPU, outside of tracing.

    Args:
        x: any shape.

    Returns:
        Whether it may.

    Examples:
        >>> import torch
        >>> from fastfcs.constraints.windows import is_known
        >>> is_known(torch.zeros(2, 3))
        True
    """
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


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


def bounding_box(weight: Tensor, cell: int = 1, margin: int = 0) -> Box:
    """Find the part of an image where a weight is not 0. The host waits for its values.

    Args:
        weight: (B,1,h,w), not 0 everywhere.
        cell: side of the weight's cells in pixels of the image.
        margin: pixels by which the box is enlarged at least. It starts with a cell.

    Returns:
        The box; it may extend beyond the bottom and the right of the image.

    Examples:
        >>> import torch
        >>> from fastfcs.constraints.windows import bounding_box
        >>> bounding_box(torch.tensor([[[[0, 0, 0], [0, 0, 1]]]]), margin=1)
        (slice(0, 3, None), slice(1, 4, None))
    """
    present = weight.detach() != 0
    slices = []
    for dim in (3, 2):
        at = present.any(dim).flatten(0, 1).any(0).nonzero()
        start, stop = int(at[0]) * cell - margin, (int(at[-1]) + 1) * cell + margin
        slices.append(slice(max(0, start // cell * cell), stop))
    return slices[0], slices[1]


def cut(x: Tensor, box: Box) -> Tensor:
    """Cut out a part of an image.

    Args:
        x: (B,C,H,W).
        box: the part.

    Returns:
        (B,C,h,w), a view, or ``x`` itself for `WHOLE`.

    Examples:
        >>> import torch
        >>> from fastfcs.constraints.windows import cut
        >>> cut(torch.zeros(1, 1, 2, 3), (slice(0, 1), slice(1, 3))).shape
        torch.Size([1, 1, 1, 2])
    """
    return x if box == WHOLE else x[..., box[0], box[1]]


def pasted(x: Tensor, part: Tensor, box: Box) -> Tensor:
    """Replace a part of an image.

    Args:
        x: (B,C,H,W).
        part: (B,C,h,w), the new pixels.
        box: where they belong.

    Returns:
        (B,C,H,W), a new image, or ``part`` itself if it is the whole.

    Examples:
        >>> import torch
        >>> from fastfcs.constraints.windows import pasted
        >>> box = slice(0, 1), slice(1, 3)
        >>> pasted(torch.zeros(1, 1, 2, 3), torch.ones(1, 1, 1, 2), box)[0, 0]
        tensor([[0., 1., 1.],
                [0., 0., 0.]])
    """
    if part.shape == x.shape:
        return part
    x = x.clone()
    x[..., box[0], box[1]] = part
    return x
