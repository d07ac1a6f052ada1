"""The constraint that keeps text and line drawings legible."""

import torch
from torch import Tensor

from ..losses import luma
from ..reproducible import area_mean
from .combine import as_working_dtype
from .ground import EvenGround
from .windows import is_absent, local_mean, maximum, minimum, ramp, spread

_CONTRAST = 0.85  # share of a stroke's contrast that is kept
_MARGIN = 0.03  # distance to black or white that a stroke needs
_DENSE = 0.4, 0.5  # local mean of the weight of text that is extended


class KeepText:
    """Keeps text legible, and thin lines on a smooth ground: darker stays darker.

    The local affine maps that "photoreal" applies to the content's colours may have any slope: an
    update that darkens paper and brightens ink makes text fade or even inverts it. Strokes are
    found by a morphological closing of the luminance (dark ones; light ones by an opening), which
    removes them: an area is text where the closing is smooth, strokes are deep, and most pixels are
    not part of a stroke. It must be extended, or its ground perfectly even. There

    1. the change is weakened until the paper leaves room for the ink: a paper that becomes as dark
       as the strokes are deep could not show them;
    2. paper is evened out (`EvenGround`), all of it if most of the content is text;
    3. strokes that have lost more than 15 % of their contrast with the paper around are darkened
       (light ones brightened) until they have not.

    An unchanged content does not change.

    Args:
        content: C, (B,3,H,W), floating in [0,1].

    Raises:
        ValueError: the content is not floating in [0,1].

    Examples:
        >>> import torch
        >>> from fastfcs.constraints import KeepText
        >>> page = torch.ones(1, 3, 64, 64)
        >>> page[..., ::8] = 0
        >>> faded = KeepText(page)(page * 0.2 + 0.4)
        >>> bool((faded[..., 1::8] - faded[..., ::8]).min() > 0.7)
        True
    """

    def __init__(self, content: Tensor) -> None:
        self.content = as_working_dtype(content)
        side = max(content.shape[-2:])
        self._near, self._far = max(3, side // 90), max(8, side // 8)
        self._ground = EvenGround(self.content)
        y = luma(self.content)
        found = self._strokes(torch.cat([y, -y], 1), must_be_dense=is_absent(self._ground.weight))
        self._is_absent = found is None
        if found is None:
            return
        (text, light_text), (stroke, light_stroke), (paper, light_paper), (depth, light_depth) = (
            x.chunk(2, 1) for x in found
        )
        is_light = light_text > text
        self._text = torch.maximum(text, light_text)
        self._stroke = torch.where(is_light, -light_stroke, stroke)
        self._paper = torch.where(is_light, light_paper, paper)
        depth = torch.where(is_light, light_depth, depth)
        self._sign = torch.where(is_light, 1.0, -1.0).to(y)
        paper = y - self._stroke
        room = torch.where(is_light, 1 - paper, paper) - _CONTRAST * depth - _MARGIN
        self._room = room.clamp_min(0)
        density = self._spread(self._text)
        # Photographs have strokes, too, but few; a lone stroke counts on an even ground alone.
        on_even = ramp(self._around(self._ground.weight), 0.2, 0.4)
        self._text = self._text * torch.maximum(ramp(density, *_DENSE), on_even)
        pages = ramp(density, 0.42, 0.52)
        document = ramp(area_mean(pages), 0.3, 0.6)
        self._document = torch.maximum(pages, document)
        self._is_strokes_only = is_absent(self._document)
        self._is_absent = self._is_strokes_only and is_absent(self._text)
        if self._is_strokes_only:
            return
        smooth = ramp(spread(paper, 2), 0.12, 0.06)
        self._ground.extend(document * self._paper * smooth, self._document.clamp_min(1e-3))

    def _strokes(
        self, y: Tensor, must_be_dense: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
        """Of dark strokes: text's weight; their negative contrast; paper's weight; their depth.

        None if there must be dense text but is none: the cheap factors of the weight come first.
        """
        near = self._near
        closing = minimum(maximum(y, near), near)
        stroke = y - closing
        deep = maximum(-stroke, 2 * near)
        depth = ramp(deep, 0.2, 0.3)
        if must_be_dense and not self._is_dense(depth):
            return None
        is_paper = (stroke.abs() < 0.2 * deep).to(y)
        is_stroke = (stroke.abs() > 0.5 * deep).to(y)
        papers, strokes = self._around(torch.cat([is_paper, is_stroke], 1)).chunk(2, 1)
        papers, strokes = ramp(papers, 0.5, 0.6), ramp(strokes, 0.03, 0.06)
        if must_be_dense and not self._is_dense(depth * papers * strokes):
            return None
        rough = self._around(spread(closing, near))
        text = depth * ramp(rough / deep.clamp_min(0.05), 0.25, 0.12) * papers * strokes
        if must_be_dense and not self._is_dense(text):
            return None
        return text, stroke, is_paper, deep

    def _is_dense(self, text: Tensor) -> bool:
        """Whether text of this weight is extended enough anywhere to count."""
        density = self._spread(text.amax(1, keepdim=True))
        return bool(density.max() > _DENSE[0])

    def _around(self, x: Tensor) -> Tensor:
        return local_mean(x, None, 2 * self._near)

    def _spread(self, x: Tensor) -> Tensor:
        return local_mean(x, None, self._far)

    def __call__(self, x: Tensor) -> Tensor:
        """Keep the strokes: (B,3,H,W) -> (B,3,H,W), of C's shape. Differentiable in x."""
        if self._is_absent:
            return self._ground(x)
        wide = x.to(self.content.dtype)
        if not self._is_strokes_only:
            wide = torch.lerp(self.content, wide, self._strength(wide - self.content))
        change = self._ground(wide) - self.content
        brighter = luma(change)
        of_paper = local_mean(brighter, self._paper, 3 * self._near)
        lost = self._sign * (of_paper - brighter) - (1 - _CONTRAST) * self._stroke.abs()
        return (self.content + change + self._text * self._sign * lost.clamp_min(0)).to(x.dtype)

    def finish(self, x: Tensor) -> Tensor:
        """Keep the strokes of the last X, and white and black grounds (`EvenGround.finish`).

        Args:
            x: (B,3,H,W), of the content's height and width.

        Returns:
            (B,3,H,W) in X's dtype.
        """
        if self._is_absent:
            return self._ground.finish(x)
        return torch.lerp(self._ground.finish(x), self(x), self._document.to(x.dtype))

    def _strength(self, change: Tensor) -> Tensor:
        """The factor that weakens the change so that paper leaves room for ink, (B,1,H,W)."""
        moved = self._sign * local_mean(luma(change), self._paper, 3 * self._near)
        fraction = torch.where(moved > self._room, self._room / moved.clamp_min(1e-4), 1.0)
        weight = self._text + 1e-4
        everywhere = area_mean(fraction * weight) / area_mean(weight)
        nearby = local_mean(fraction, weight, self._far)
        known = ramp(self._spread(self._text), 0.0, 0.1)
        return 1 - self._document * (1 - torch.lerp(everywhere, nearby, known))
