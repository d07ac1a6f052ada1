"""The constraint that keeps even grounds even."""

from copy import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from ..reproducible import area_mean
from .colours import ColourPolynomial
from .combine import as_working_dtype
from .windows import (
    WHOLE,
    Box,
    bounding_box,
    cut,
    is_absent,
    is_known,
    local_mean,
    maximum,
    pasted,
    ramp,
    spread,
)

_EVEN = 1.5 / 255  # largest difference within an even window
_NEAR = 3.5 / 255  # still the ground's colour, between strokes and next to JPEG edges
_GRADIENT = 0.06  # a neighbour as near as this, with no edge between, continues the ground
_SMOOTH = 12 / 255  # largest difference within 3x3 pixels without an edge
_LARGE = 0.15, 0.25  # share of the picture from which grounds count, if only neutral ones do
_SPARED = 0.5  # share of the change that pure white and pure black are spared in the end
_RIDGE = 1e-6
_NEIGHBOURS = (0, 1), (0, -1), (1, 0), (-1, 0)
_STEPS = 3


class EvenGround:
    """Gives every even area of the content one colour: white paper, a cut-out's or studio's ground.

    The network's updates depend on a pixel's surroundings, so they turn a white ground into a
    gradient, and draw rings around what stands on it. Within windows of constant colour, and in
    pixels of the same colour next to them, the change X - C is therefore replaced by a function of
    the content's colour alone: the quadratic polynomial in R, G and B that fits the changes of all
    such pixels best. Where the ground continues as a gradient, the replacement fades out.

    A content without even areas leaves X as it is, bit for bit.

    Args:
        content: C, (B,3,H,W), floating in [0,1].
        coloured: whether grounds of any colour and size count, or only white, grey and black ones
            that fill a quarter of the picture, such as those of a document or a product.

    Raises:
        ValueError: the content is not floating in [0,1].

    Examples:
        >>> import torch
        >>> from fastfcs.constraints import EvenGround
        >>> content = torch.ones(1, 3, 32, 32)
        >>> x = EvenGround(content)(torch.rand(1, 3, 32, 32))
        >>> bool((x.amax((2, 3)) - x.amin((2, 3)) < 1e-5).all())
        True
    """

    def __init__(self, content: Tensor, coloured: bool = True) -> None:
        self.content = as_working_dtype(content)
        radius = max(3, max(content.shape[-2:]) // 60)
        cells = _even_cells(self.content, radius) if is_known(self.content) else None
        self._is_absent = cells is not None and is_absent(cells)
        if self._is_absent:
            self.weight = torch.zeros_like(self.content[:, :1])
            self._spared = self.content.new_zeros(())
            return
        lightest = self.content.amax(1, keepdim=True)
        darkest = self.content.amin(1, keepdim=True)
        if cells is None:
            even, gradient = _even(self.content, radius)
        else:
            # No pixel further away depends on even areas. The box starts with a cell, so that
            # windows cut off at its border are not even, either. `_shifted` needs both borders of
            # the image or none.
            box = _both_borders(bounding_box(cells, radius + 1, 13 * radius + 9), content)
            nowhere = torch.zeros_like(self.content[:, :1])
            parts = _even(cut(self.content, box), radius)
            even, gradient = (pasted(nowhere, part, box) for part in parts)
        even = even * ramp(local_mean(gradient, None, radius), 0.2, 0.02)
        if not coloured:
            even = even * ramp(lightest - darkest, 0.1, 0.05)
            even = even * ramp(area_mean(even), *_LARGE)
        # As a function of the colour alone, it draws no border where a shadow begins.
        self._spared = _SPARED * (
            ramp(darkest, 0.5, 1.0) * _share(even, ramp(darkest, 0.9, 0.98))
            + ramp(lightest, 0.5, 0.0) * _share(even, ramp(lightest, 0.1, 0.02))
        )
        self._treat(even, even)

    def reduced(self, content: Tensor) -> "EvenGround":
        """Make the constraint of the content at a smaller size, with the same grounds.

        Reducing a picture averages its noise, so that more areas would look even.

        Args:
            content: C at that size, (B,3,h,w).

        Returns:
            The constraint.
        """
        size = content.shape[-2:]
        ground = copy(self)
        ground.content = as_working_dtype(content)
        if self._is_absent:
            ground.weight = torch.zeros_like(ground.content[:, :1])
            return ground
        weight, ground._spared = (
            F.interpolate(part.expand_as(self.weight), size, mode="area")
            for part in (self.weight, self._spared)
        )
        ground._treat(weight, weight)
        return ground

    def extend(self, more: Tensor, trust: Tensor) -> None:
        """Treat further areas as ground.

        Args:
            more: (B,1,H,W) in [0,1].
            trust: weights of pixels in the fit, (B,1,H,W), positive.
        """
        weight = torch.maximum(self.weight, more)
        self._treat(weight, weight * trust)

    def _treat(self, weight: Tensor, trusted: Tensor) -> None:
        self._is_absent = is_absent(weight)
        self.weight = weight
        if self._is_absent:
            return
        self._box = bounding_box(weight) if is_known(weight) else WHOLE
        self._fit = ColourPolynomial(self.content, trusted, _RIDGE)

    def __call__(self, x: Tensor) -> Tensor:
        """Even out the change: (B,3,H,W) -> (B,3,H,W), of C's shape. Differentiable in x."""
        if self._is_absent:
            return x
        dtype = torch.promote_types(x.dtype, self.content.dtype)
        change = x.to(self.content.dtype) - self.content
        content, weight = cut(self.content, self._box), cut(self.weight, self._box)
        evened = content + self._fit(change, content)
        part = torch.lerp(cut(x, self._box).to(dtype), evened.to(dtype), weight.to(dtype))
        return pasted(x, part.to(x.dtype), self._box)

    def finish(self, x: Tensor) -> Tensor:
        """Even out the last X, and keep white grounds light and black ones dark.

        They lose half of their change, so that they stay the lightest and the darkest of the
        result. Between updates the network would make up for that elsewhere.

        Args:
            x: (B,3,H,W), of the content's height and width.

        Returns:
            (B,3,H,W) in X's dtype.
        """
        if self._is_absent:
            return x
        dtype = torch.promote_types(x.dtype, self.content.dtype)
        content, spared = self.content.to(dtype), self._spared.to(dtype)
        return torch.lerp(self(x).to(dtype), content, spared).to(x.dtype)


def _share(even: Tensor, extreme: Tensor) -> Tensor:
    """1 if nearly all white (or black) pixels belong to even grounds, 0 if a quarter do not."""
    total = area_mean(extreme)
    return ramp(area_mean(even * extreme) / (total + 1e-6), 0.75, 0.95)


def _both_borders(box: Box, image: Tensor) -> Box:
    """Extend a box that reaches a border of the image to the opposite border."""
    rows, columns = (
        slice(None) if part.start == 0 or part.stop >= side else part
        for part, side in zip(box, image.shape[-2:], strict=True)
    )
    return rows, columns


def _even_cells(content: Tensor, radius: int) -> Tensor:
    """Whether each cell of a grid is even, (B,1,h,w). Every even window contains such a cell."""
    cell = radius + 1
    extremes = torch.cat([content, -content], 1).detach()
    for _ in range(2):
        extremes = torch.cat([part.amax(2, keepdim=True) for part in extremes.split(cell, 2)], 2)
        extremes = extremes.mT
    high, low = extremes.chunk(2, 1)
    return (high + low).amax(1, keepdim=True) <= _EVEN


def _even(content: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """Whether pixels are even, and whether they belong to a gradient next to it, (B,1,H,W)."""
    centres = (_range(content, radius) <= _EVEN).to(content.dtype)
    covered = maximum(centres, radius)  # an even window, as far as it reaches
    around = 2 * radius
    distance = torch.minimum(  # to the lightest and the darkest ground around
        _distance(content, maximum(content * covered, around)),
        _distance(content, 1 - maximum(covered * (1 - content), around)),
    )
    even = torch.maximum(covered, maximum(covered, around) * (distance <= _NEAR))
    # Between two grounds, a pixel in a corner of the border is reached from its neighbours alone.
    alike = [(s, _distance(content, _shifted(content, s)) <= _NEAR) for s in _NEIGHBOURS]
    for _ in range(_STEPS):
        for shift, equal in alike:
            even = torch.maximum(even, equal * _shifted(even, shift))
    smooth = (_range(content, 1) <= _SMOOTH) & (distance <= _GRADIENT)
    return even, maximum(covered, 2 * around) * smooth * (1 - even)


def _shifted(x: Tensor, shift: tuple[int, int]) -> Tensor:
    """Move by one pixel. What leaves at one side enters at the other, which does no harm here."""
    return torch.roll(x, shift, (2, 3))


def _range(content: Tensor, radius: int) -> Tensor:
    return spread(content, radius).amax(1, keepdim=True)


def _distance(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().amax(1, keepdim=True)
