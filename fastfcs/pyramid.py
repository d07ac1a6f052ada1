"""The solver from coarse to fine: strokes that belong to the picture and not to its pixels.

A network sees 68 pixels, so its strokes have the same length on a picture of any size, and on a
large one a painting becomes a tint. But the unrolled solver may start anywhere. The content is
therefore restyled at a small size first, where 68 pixels are half of it, and every further scale
starts from its own content plus a share w of the change that the scale before has made:

    X^(0)_s = C_s + w up(S (X_{s/2} - C_{s/2}))

Each scale has its own Gram matrices H_l, those of the style reduced alike. From 1024 pixels on a
style has no more detail to give, and its H_l, those of a smaller picture, would raise the contrast
from scale to scale. Such a scale therefore starts from the whole change, keeps only half of its own
change D and is back-projected: where it is reduced, it shows the coarser scale's result again.

    Z = X^(0) + 0.5 D,    X = Z + up(X_{s/2} - down(Z))

Gram matrices of rectified responses hardly notice a pattern that alternates from pixel to pixel.
The network draws some, which an enlarged picture would show as a weave and as steps. With B_x and
B_y for the binomial filter [1 2 1] / 4 along either axis, and I for the identity, a change is
smoothed

    by S = (I - (I - B_x)^2) (I - (I - B_y)^2) before it is enlarged, and
    by Q = I - (I - B_x) (I - B_y) at every scale's end.

Q stops what alternates along both axes and leaves alone what is constant along either of them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from .checks import MIN_SIDE
from .constraints.registry import BetweenUpdates
from .losses import resize_weights
from .memory import is_exhausted
from .network import Solver
from .precision import Precision
from .statistics import Statistics
from .tiles import SMALLEST

FIRST = 128
"""Longer side of the first scale in pixels; the scales after it have twice the size each."""

STYLE_SIDE = 768
"""Longer side, in pixels, to which larger styles are reduced by default."""

_STEP = math.sqrt(2)  # at least between the last two scales
_BEYOND = 3  # octaves above `FIRST` from which pictures are larger than most styles
_KEPT = 0.5  # of the change that such a scale makes


def sizes(height: int, width: int, levels: int | None = None) -> list[tuple[int, int]]:
    """Choose the scales of a picture, coarse to fine.

    Their longer sides are 128, 256, 512 ... pixels, whatever the picture's size, so that a picture
    and a larger copy of it are painted alike; the last scale is the picture itself. Scales whose
    shorter side would be below 16 pixels are left out.

    Args:
        height, width: of the picture in pixels.
        levels: the largest number of scales, of which the finest are kept; None keeps all.

    Returns:
        The height and width of every scale.

    Examples:
        >>> from fastfcs.pyramid import sizes
        >>> sizes(768, 1024)
        [(96, 128), (192, 256), (384, 512), (768, 1024)]
        >>> sizes(500, 600), sizes(768, 1024, levels=2), sizes(100, 150)
        ([(107, 128), (213, 256), (500, 600)], [(384, 512), (768, 1024)], [(100, 150)])
    """
    longer, longest = max(height, width), FIRST
    chosen = []
    while longest * _STEP <= longer:
        size = round(height * longest / longer), round(width * longest / longer)
        if min(size) >= MIN_SIDE:
            chosen.append(size)
        longest *= 2
    chosen.append((height, width))
    return chosen[-levels:] if levels else chosen


def reductions(image: Tensor, brush: float = 1.0) -> list[Tensor]:
    """Reduce a style for every scale.

    Args:
        image: (B, 3, H, W), floating, in [0, 1].
        brush: size of the style's strokes on a picture, relative to their size on the style when
            both are shown equally large.

    Returns:
        The style with a longer side of 128, 256, 512 ... pixels times ``brush``, and at last as it
        is. One below 128 pixels is not enlarged, except by ``brush``.

    Examples:
        >>> import torch
        >>> from fastfcs.pyramid import reductions
        >>> [max(style.shape) for style in reductions(torch.rand(1, 3, 300, 400))]
        [128, 256, 400]
    """
    height, width = image.shape[-2:]
    longer = max(height, width)
    sides = [brush * min(FIRST, longer)]
    while 2 * _STEP * sides[-1] <= longer:
        sides.append(2 * sides[-1])
    if _STEP * sides[-1] < longer:
        sides.append(longer)
    reduced = []
    for side in sides:
        scale = side / longer
        size = max(MIN_SIDE, round(height * scale)), max(MIN_SIDE, round(width * scale))
        reduced.append(image if size == (height, width) else resize(image, size).clamp(0, 1))
    return reduced


def octave(size: Sequence[int]) -> int:
    """Tell which scale a size is nearest to.

    Args:
        size: height and width in pixels.

    Returns:
        0 for a longer side of about 128 pixels, and below; 1 for about 256, and so on.

    Examples:
        >>> from fastfcs.pyramid import octave
        >>> octave((96, 128)), octave((300, 400))
        (0, 2)
    """
    return max(0, round(math.log2(max(size) / FIRST)))


def of_scale(statistics: Sequence[Statistics], size: tuple[int, int]) -> Statistics:
    """Choose the statistics of a scale.

    Args:
        statistics: those of the style's `reductions`. Scales beyond take the last.
        size: height and width of the scale.

    Returns:
        Its statistics.

    Examples:
        >>> from fastfcs.pyramid import of_scale
        >>> of_scale(["128 px", "256 px", "400 px"], (192, 256))
        '256 px'
        >>> of_scale(["128 px", "256 px", "400 px"], (768, 1024))
        '400 px'
    """
    return statistics[min(octave(size), len(statistics) - 1)]


def interpolated(statistics: Sequence[Statistics], size: tuple[int, int]) -> Statistics:
    """Interpolate statistics for a size between two scales.

    Args:
        statistics: those of the style's `reductions`. Sizes beyond take the last.
        size: height and width.

    Returns:
        The mean of the statistics of the two scales, weighted by their distances in octaves.

    Examples:
        >>> import torch
        >>> from fastfcs.pyramid import interpolated
        >>> from fastfcs.statistics import Statistics
        >>> scales = [Statistics((h * torch.eye(4)[None],)) for h in (0.0, 1.0)]
        >>> round(interpolated(scales, (181, 100)).own[0].amax().item(), 2)
        0.5
    """
    position = min(max(0.0, math.log2(max(size) / FIRST)), len(statistics) - 1)
    k = math.ceil(position)
    coarse, fine = statistics[max(0, k - 1)], statistics[k]

    def mean(a: Sequence[Tensor], b: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(x + (position - k + 1) * (y - x) for x, y in zip(a, b, strict=True))

    return Statistics(mean(coarse.own, fine.own), mean(coarse.vgg, fine.vgg))


def restyle(
    solver: Solver,
    content: Tensor,
    scales: Sequence[tuple[tuple[int, int], Statistics]],
    between: BetweenUpdates,
    *,
    share: float,
    regions: Tensor | None = None,
    alpha: Tensor | None = None,
    precision: Precision | None = None,
    memory: int | None = None,
) -> Tensor:
    """Restyle a content scale by scale.

    Args:
        solver: the network.
        content: C, (B, 3, H, W) in [0, 1], on the network's device.
        scales: the size and the statistics of every scale, coarse to fine; the last size is C's.
        between: the constraints of the last scale.
        share: w, the share of the coarser scale's change, below 1024 pixels.
        regions, alpha, precision: see `fastfcs.network.UnrolledSolver.forward`.
        memory: what restyling may take, in bytes, see `tile_side`.

    Returns:
        X of the last scale, (B, 3, H, W), floating, not clipped.

    Warns:
        UserWarning: memory was exhausted, so that a scale began again, in smaller tiles.

    Examples:
        >>> import torch
        >>> from fastfcs.constraints.registry import BetweenUpdates
        >>> from fastfcs.network import UnrolledSolver
        >>> from fastfcs.pyramid import restyle
        >>> solver = UnrolledSolver(updates=1, channels=(8, 8))
        >>> content, style = torch.rand(2, 1, 3, 32, 32)
        >>> scales = [((side, side), solver.statistics(style)) for side in (16, 32)]
        >>> restyle(solver, content, scales, BetweenUpdates((), content), share=0.7).shape
        torch.Size([1, 3, 32, 32])
    """
    dtype = next(solver.parameters()).dtype
    coarse: tuple[Tensor, Tensor] | None = None
    for size, statistics in scales:
        last = size == content.shape[-2:]
        c = content if last else resize(content, size).clamp_(0, 1)
        constraint = between if last else between.reduced(c.float())
        arithmetic = precision if last or precision is None else precision.coarse()
        masks, weights = resize_weights(regions, alpha, size)
        beyond = octave(size) >= _BEYOND
        first = constraint.start(statistics.colours, weights)
        if coarse is not None:
            first = c + resize(coarse[1] - coarse[0], size) if beyond else start(c, *coarse, share)
        first = constraint.begin(c if first is None else first)
        x = _solved(
            partial(solver, c.to(dtype), statistics, constraint, masks, first, weights, arithmetic),
            size,
            tile_side(solver, content.shape, size, memory, arithmetic),
            memory is not None,
        )
        if len(scales) > 1:
            x = without_weave(x, c)
            if beyond and coarse is not None:
                x = (x - first).mul_(_KEPT).add_(first)
                x = x.add_(resize(coarse[1] - resize(x, coarse[1].shape[-2:]), size))
            del first
            x = constraint(x)
        x = constraint.finish(x)
        coarse = None if last else (c, x.to(c).clamp(0, 1))
    return x


def _solved(
    solve: Callable[..., Tensor], size: Sequence[int], tile: int | None, splits: bool
) -> Tensor:
    """The result of a scale, in tiles half as large whenever memory is exhausted."""
    while True:
        try:
            return solve(tile=tile)
        except (RuntimeError, MemoryError) as error:
            if not (splits and is_exhausted(error)) or (tile or max(size)) < 2 * SMALLEST:
                raise
        tile = (tile or max(size)) // 2
        warnings.warn(f"not enough memory: painted again in tiles of {tile} pixels", stacklevel=2)


def tile_side(
    solver: Solver,
    shape: Sequence[int],
    size: Sequence[int],
    memory: int | None,
    precision: Precision | None = None,
) -> int | None:
    """Choose the tiles of a scale.

    Args:
        solver: the network.
        shape: that of the content, (B, 3, H, W).
        size: height and width of the scale.
        memory: what restyling may take, in bytes, beside the parameters; None is any amount.
        precision: see `fastfcs.network.UnrolledSolver.forward`.

    Returns:
        The side of a tile without its halo, or None if the whole scale fits.

    Examples:
        >>> from fastfcs.network import UnrolledSolver
        >>> from fastfcs.pyramid import tile_side
        >>> solver = UnrolledSolver()
        >>> tile_side(solver, (1, 3, 3000, 4000), (3000, 4000), memory=1_500_000_000)
        848
        >>> tile_side(solver, (1, 3, 3000, 4000), (384, 512), memory=1_500_000_000)
    """
    if memory is None:
        return None
    batch, _, height, width = shape
    return solver.footprint(precision).tile(batch * height * width, size, memory, batch)


def resize(image: Tensor, size: Sequence[int]) -> Tensor:
    """Resize an image, or a change of one, by bicubic interpolation with antialiasing.

    Args:
        image: (B, C, H, W), floating.
        size: the new height and width.

    Returns:
        (B, C, *size), which may overshoot the range of the image.

    Examples:
        >>> import torch
        >>> from fastfcs.pyramid import resize
        >>> resize(torch.rand(1, 3, 20, 40), (10, 20)).shape
        torch.Size([1, 3, 10, 20])
    """
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    return F.interpolate(image, list(size), mode="bicubic", antialias=True)


def reduce(image: Tensor, octaves: int = 1) -> Tensor:
    """Reduce an image to a half, a quarter and so on.

    Args:
        image: (B, C, H, W), floating, in [0, 1].
        octaves: number of halvings.

    Returns:
        (B, C, H / 2^octaves, W / 2^octaves) with sizes rounded down, in [0, 1].

    Examples:
        >>> import torch
        >>> from fastfcs.pyramid import reduce
        >>> reduce(torch.rand(1, 3, 20, 41), 2).shape
        torch.Size([1, 3, 5, 10])
    """
    height, width = (side >> octaves for side in image.shape[-2:])
    return resize(image, (height, width)).clamp(0, 1)


def without_weave(image: Tensor, content: Tensor) -> Tensor:
    """Compute the end of a scale: remove from its change what alternates along both axes.

    Args:
        image: X, (B, 3, H, W), floating.
        content: C, of the same shape.

    Returns:
        C + Q (X - C), (B, 3, H, W).

    Examples:
        >>> import torch
        >>> from fastfcs.pyramid import without_weave
        >>> content = torch.rand(1, 3, 16, 16)
        >>> torch.equal(without_weave(content, content), content)
        True
    """
    return smooth(image - content, (-1, -2)).add_(content)


def smooth(change: Tensor, *axes: tuple[int, int]) -> Tensor:
    """Remove what alternates from pixel to pixel.

    Args:
        change: (B, C, H, W), floating.
        axes: pairs of dimensions i, j. For each, (I - B_i)(I - B_j) of the change is removed, where
            B is the binomial filter [1 2 1] / 4 along a dimension, and the border is repeated.

    Returns:
        (B, C, H, W).

    Examples:
        >>> import torch
        >>> from fastfcs.pyramid import smooth
        >>> stripes = torch.tensor([1.0, -1.0]).repeat(1, 1, 8, 4)
        >>> board = stripes * stripes.mT
        >>> smooth(stripes, (-1, -2)).std() == stripes.std(), smooth(board, (-1, -2)).std() < 0.4
        (tensor(True), tensor(True))
    """
    for pair in axes:
        change = torch.cat([one - _rough(one, pair) for one in change.split(1, 1)], 1)
    return change


def _rough(change: Tensor, axes: tuple[int, int]) -> Tensor:
    for axis in axes:
        border = (1, 1) if axis == -1 else (0, 0, 1, 1)
        change = F.pad(change.diff(dim=axis), border).diff(dim=axis).div_(-4)
    return change


def start(content: Tensor, coarse_content: Tensor, coarse_result: Tensor, share: float) -> Tensor:
    """Compute X^(0) of a scale from the result of the coarser one.

    Args:
        content: C at this scale, (B, 3, H, W).
        coarse_content, coarse_result: C and X at the coarser scale, (B, 3, h, w).
        share: w.

    Returns:
        C + w up(S (X - C)), (B, 3, H, W), not clipped.

    Examples:
        >>> import torch
        >>> from fastfcs.pyramid import start
        >>> content, coarse = torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 16, 16)
        >>> start(content, coarse, coarse + 0.5, share=0.8).mean().mul(100).round()
        tensor(40.)
    """
    height, width = content.shape[-2:]
    change = smooth(coarse_result - coarse_content, (-1, -1), (-2, -2))
    return content + share * resize(change, (height, width))
