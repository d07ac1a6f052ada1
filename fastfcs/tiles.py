"""Tiles of a picture, for features of which memory holds only a part at a time.

A feature depends on the pixels around it alone. In the interior of a tile it is therefore exactly
that of the whole picture, if the tile is computed with a halo as wide as the maps see. Only Gram
matrices are of the whole picture, and they are sums over the interiors:

    G_l = 1/n_l sum_tiles h_l^T h_l

So an update by tiles takes two passes, one for the Gram matrices and one for g_t, and no seam can
arise. At the picture's own border there is no halo, since the maps pad the picture there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise, product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .losses import mask_shares
from .ops import gram

SMALLEST = 256
"""Side of the smallest tile in pixels; smaller ones would consist of halos."""


class Footprint(NamedTuple):
    """How far the maps of a solver see, and the memory that they take.

    Attributes:
        features: halo in pixels of the features.
        gradient: halo in pixels of g_t, which takes the features around it.
        multiple: of which the coordinates of tiles are multiples.
        pixel_bytes: memory for features and gradients, per pixel of a picture or tile.
        image_bytes: memory for images, per pixel of the whole picture: C, X, its change and so on.

    Examples:
        >>> from fastfcs.tiles import Footprint
        >>> footprint = Footprint(30, 70, multiple=16, pixel_bytes=300, image_bytes=96)
        >>> footprint.tile(480 * 640, (480, 640), memory=200_000_000)
        >>> footprint.tile(3000 * 4000, (3000, 4000), memory=1_552_000_000)
        992
    """

    features: int
    gradient: int
    multiple: int
    pixel_bytes: int
    image_bytes: int

    def tile(self, pixels: int, size: Sequence[int], memory: int, batch: int = 1) -> int | None:
        """Choose the tiles of a scale.

        Args:
            pixels: number of pixels of the whole picture, or batch of pictures.
            size: height and width of the scale in pixels.
            memory: for all of this, in bytes.
            batch: number of pictures that are restyled at once.

        Returns:
            The side of a tile without its halo, or None if the whole picture fits.
        """
        left = max(0, memory - self.image_bytes * pixels) // (batch * self.pixel_bytes)
        height, width = size
        if height * width <= left:
            return None
        side = math.isqrt(left) - 2 * _multiple_above(self.gradient, self.multiple)
        return max(SMALLEST, side // self.multiple * self.multiple)

    def passes(self, size: Sequence[int], tile: int) -> tuple[list[Tile], list[Tile]]:
        """Split a picture into tiles.

        Args:
            size: its height and width in pixels.
            tile: the longest side of a tile without its halo.

        Returns:
            The tiles of both passes, for Gram matrices and for g_t.

        Raises:
            ValueError: see `split`.
        """
        first, second = (
            split(size, tile, halo, self.multiple) for halo in (self.features, self.gradient)
        )
        return first, second

    def pixels(self, size: Sequence[int], tile: int | None) -> int:
        """Count the pixels of which an update computes features.

        Args:
            size: height and width of the picture in pixels.
            tile: the longest side of a tile without its halo; None computes all at once.

        Returns:
            Their number, over both passes and with halos.
        """
        if tile is None:
            return size[0] * size[1]
        first, second = self.passes(size, tile)
        return sum(part.pixels for part in first + second)


def halos(radii: Sequence[int], enlarged: int) -> tuple[int, int]:
    """Compute how far maps see.

    Args:
        radii: at each level, finest first, how far its convolutions see together, in its pixels.
            The backward maps mirror the forward ones.
        enlarged: how far enlarging the gradient of a level to the next finer one sees.

    Returns:
        The halos of features and of gradients in pixels of the picture.

    Examples:
        >>> from fastfcs.tiles import halos
        >>> halos([2, 2, 2, 2], enlarged=1)
        (30, 70)
    """
    needed = radii[0]  # of the features of a level, down to the deepest
    for radius in radii[1:]:
        needed = -(-(needed + enlarged) // 2) + radius
    halo = 0
    for radius in reversed(radii):
        halo = 2 * halo + radius
    return halo, halo + (needed << len(radii) - 1)


class Tile(NamedTuple):
    """A rectangle of a picture, with and without its halo.

    At level l of the maps a tile is 2^l times smaller. Its coordinates are multiples of that or the
    picture's border, so that cells of pixels, of which levels take means or maxima, stay whole.

    Attributes:
        outer: rows and columns with the halo.
        inner: rows and columns without it.

    Examples:
        >>> import torch
        >>> from fastfcs.tiles import Tile
        >>> tile = Tile((slice(0, 24), slice(8, 40)), (slice(0, 16), slice(16, 32)))
        >>> part = tile.cut(torch.rand(1, 3, 64, 64))
        >>> part.shape, tile.interior(part).shape
        (torch.Size([1, 3, 24, 32]), torch.Size([1, 3, 16, 16]))
    """

    outer: tuple[slice, slice]
    inner: tuple[slice, slice]

    @property
    def pixels(self) -> int:
        """The number of pixels with the halo."""
        rows, columns = self.outer
        pixels: int = (rows.stop - rows.start) * (columns.stop - columns.start)
        return pixels

    def cut(self, whole: Tensor, level: int = 0) -> Tensor:
        """The tile with its halo: a view of the whole, (..., H, W), at a level."""
        return _view(whole, self.outer, level)

    def cut_interior(self, whole: Tensor, level: int = 0) -> Tensor:
        """The tile without its halo: a view of the whole, (..., H, W), at a level."""
        return _view(whole, self.inner, level)

    def interior(self, part: Tensor, level: int = 0) -> Tensor:
        """The tile without its halo: a view of what was computed of the tile, at a level."""
        rows, columns = (
            slice(inner.start - outer.start, inner.stop - outer.start)
            for inner, outer in zip(self.inner, self.outer, strict=True)
        )
        return _view(part, (rows, columns), level)

    def enlarge(self, part: Tensor, level: int, sizes: Sequence[Sequence[int]]) -> Tensor | None:
        """What was computed at ``level`` + 1, enlarged bilinearly as the whole picture would be.

        Args:
            part: (B, C, h, w).
            level: the finer level.
            sizes: H_l and W_l of the whole picture at every level.

        Returns:
            (B, C, H, W), or None if the finer level has exactly twice the pixels per side, since
            enlarging the tile alone then gives the same.
        """
        if all(fine == 2 * coarse for fine, coarse in zip(*sizes[level : level + 2], strict=True)):
            return None
        for dim, box in zip((-2, -1), self.outer, strict=True):
            fine, coarse = (sizes[k][dim] for k in (level, level + 1))
            pixels = torch.arange(box.start >> level, -(-box.stop >> level), device=part.device)
            position = ((pixels + 0.5).double() * (coarse / fine) - 0.5).clamp_min(0)
            below = position.long()
            first, last = box.start >> level + 1, part.shape[dim] - 1
            low, high = (
                part.index_select(dim, (k - first).clamp(0, last)) for k in (below, below + 1)
            )
            weight = (position - below).to(part.dtype)
            part = torch.lerp(low, high, weight if dim == -1 else weight[:, None])
        return part


def _view(image: Tensor, box: tuple[slice, slice], level: int) -> Tensor:
    rows, columns = (slice(side.start >> level, -(-side.stop >> level)) for side in box)
    return image[..., rows, columns]


def split(size: Sequence[int], side: int, halo: int, multiple: int) -> list[Tile]:
    """Split a picture into tiles of nearly the same size.

    Args:
        size: height and width of the picture in pixels.
        side: the longest side of a tile without its halo, at least 4 times ``multiple``.
        halo: pixels beyond the interior that a tile needs, where the picture has them.
        multiple: of which all coordinates are multiples, but for the picture's border.

    Returns:
        The tiles, whose interiors cover every pixel once.

    Raises:
        ValueError: the side is too short.

    Examples:
        >>> from fastfcs.tiles import split
        >>> [tile.outer[1] for tile in split((100, 150), side=104, halo=5, multiple=8)]
        [slice(0, 80, None), slice(64, 150, None)]
    """
    if side < 4 * multiple:
        raise ValueError(f"tile must be None or at least {4 * multiple}, got {side}")
    rows, columns = (_split_side(length, side, halo, multiple) for length in size)
    return [Tile((y[0], x[0]), (y[1], x[1])) for y, x in product(rows, columns)]


def _split_side(length: int, side: int, halo: int, multiple: int) -> list[tuple[slice, slice]]:
    """The outer and the inner interval of every tile along one dimension."""
    cells = -(-length // multiple)
    count = -(-cells // (side // multiple))
    borders = [k * cells // count * multiple for k in range(count)] + [length]
    halo = _multiple_above(halo, multiple)
    return [
        (slice(max(0, start - halo), min(length, stop + halo)), slice(start, stop))
        for start, stop in pairwise(borders)
    ]


def _multiple_above(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def whole_grams(
    tiles: Sequence[Tile],
    features_of: Callable[[Tile], Sequence[Tensor]],
    masks: Sequence[Tensor] | None,
    sizes: Sequence[Sequence[int]],
) -> list[Tensor]:
    """Compute the Gram matrices of a whole picture by tiles.

    Args:
        tiles: those of the picture.
        features_of: computes the features h_l of a tile, (B, c_l, H_l, W_l) with its halo.
        masks: weights of the whole picture's pixels at every level, (R, H_l, W_l), see
            `fastfcs.losses.region_grams`; None weights all alike.
        sizes: H_l and W_l of the whole picture.

    Returns:
        G_l at every level, (B, c_l, c_l) or (R, c_l, c_l), which is `gram` or `region_grams` of the
        whole picture's features.

    Examples:
        >>> import torch
        >>> from fastfcs import gram
        >>> from fastfcs.tiles import split, whole_grams
        >>> h = torch.rand(1, 5, 40, 50)
        >>> tiles = split((40, 50), side=16, halo=0, multiple=4)
        >>> (g,) = whole_grams(tiles, lambda tile: [tile.cut(h)], None, [(40, 50)])
        >>> torch.allclose(g, gram(h))
        True
    """
    sums: list[Any] = [0.0] * len(sizes)
    for tile in tiles:
        for level, h in enumerate(features_of(tile)):
            inside = tile.interior(h, level)
            share = math.prod(inside.shape[-2:]) / math.prod(sizes[level])
            seen = None if masks is None else tile.cut_interior(masks[level], level)
            sums[level] = sums[level] + share * _weighted_gram(inside, seen)
    if masks is None:
        return sums
    return [g / mask_shares(m).view(-1, 1, 1) for g, m in zip(sums, masks, strict=True)]


def _weighted_gram(h: Tensor, masks: Tensor | None) -> Tensor:
    """h^T diag(m_r) h / n, one by one, since h weighted by all masks takes as many times memory."""
    if masks is None:
        return gram(h)
    count = max(len(h), len(masks))
    pairs = zip(h.expand(count, -1, -1, -1), masks.expand(count, -1, -1), strict=True)
    return torch.cat([gram((each * m.sqrt())[None]) for each, m in pairs])
