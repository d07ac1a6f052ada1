"""The constraint that makes the artistic network's results photographs."""

from functools import partial

import torch
from torch import Tensor

from ..filters import LowPass
from ..laplacian import MattingLaplacian
from ..losses import luma
from ..reproducible import area_mean
from .coarse import CoarseProjection, coarser
from .colours import ColourPolynomial
from .combine import Constraint, ResidualProjection, as_working_dtype
from .pixels import SoftChroma, SoftClip
from .proximal import ProximalContent
from .shadows import KeepShadows
from .skin import KeepSkin
from .text import KeepText

CUTOFF = 0.02
"""The default cutoff."""

# Weights of the distance to the content's pixels: with one style for the whole picture, and with
# one per region, whose colours are usually further away (docs/training-log.md).
_WEIGHT, _WEIGHT_BY_REGION = 0.05, 0.15
_RIDGE = 1e-4  # of `ColourPolynomial`
_CHROMA = 2.5  # the limit of chroma over the style's root mean square
_LUMA = 0.1  # share of the way to the content's luma


class Photoreal:
    """Photorealistic style transfer: the start, the step after each update, and the final step.

    X starts as the content C moved to the style's mean colour (`start`), since constrained updates
    are too small for a style whose colours are far away. After each update, in turn:

    1. a proximal step pulls X slightly towards C (`ProximalContent`), and X's luma a little more,
       which preserves structure at little cost in style; later updates can recover the style this
       step removes;
    2. three constraints keep what people notice first: the hue of skin (`KeepSkin`), the darkness
       of the night (`KeepShadows`), and text on even paper (`KeepText`, with `EvenGround`);
    3. values near 0 and 1 are compressed as film does (`SoftClip`), so that shadows and highlights
       keep their detail;
    4. the part of the change's chroma that is a quadratic polynomial of C's colours passes
       (`ColourPolynomial`); the rest of the change is low-pass filtered along C's own structure,
       C + p(L)(X - C) (`projection`).

    The polynomial has no luma, so C's edges stay. It is the same for all regions, or the borders of
    their masks would show. The smooth signals of L contain functions of the colours only if they
    are affine, and even these only where eps does not damp them.

    Text and grounds are kept once more in the start and in the result. If the style's chroma is
    known, it bounds that of the result (`SoftChroma`), since rare colours would turn neon. Finally
    the result is soft-clipped (`finish`).

    Puy and Pérez (2018) project the image itself, P[X]. Since C is nearly smooth for its own
    matting Laplacian L, both look alike: after a posterised, recoloured, blocky and noisy update of
    three photos at 256 px, energies agree within 1 % and the SSIM of gradients with C within
    0.0003, at a cutoff of 0.01. But P[X] removes faint texture, which eps keeps out of L's null
    space: an unchanged photo would lose up to 0.006 of that SSIM at a cutoff of 0.01 and 0.036 at
    0.001. Filtering the change keeps that grain, and an unchanged content comes back bit for bit.

    A lower cutoff preserves more of the photograph and transfers less of the style. A larger eps
    treats weak edges as noise, so the change no longer follows them. PyMatting's 1e-7 is less than
    the variance of rounding to 8 bits: with it, the noise of a brightened black sky and the blocks
    of a JPEG become visible (docs/training-log.md).

    It is computed in float32, and differentiable in X and C, but not through L.

    Args:
        content: C, (B,3,H,W), floating in [0,1], H and W at least 3.
        cutoff: cutoff of the `LowPass` p, in (0, 9), or p itself.
        order: order of p if a cutoff is given; by default that of `LowPass`.
        eps: regularisation of L, see `MattingLaplacian`.
        regions: masks (R,H,W) in [0,1] of a single content, one per style.
        coarse: the low-pass of `coarse_projection`; by default made from p (`coarser`).
        luma_lowpass: the low-pass of the change's luma, whose chroma passes p; by default p.
        chroma: the root mean square of the style's chroma (`Statistics.chroma`): (1,), (B,), or
            (R,) with regions. Without it the result's chroma is not bounded.

    Attributes:
        projection: the filter of step 4 alone, X -> C + p(L)(X - C).

    Raises:
        ValueError: an argument is out of its range.

    Examples:
        >>> from fastfcs.constraints import Photoreal
        >>> import torch
        >>> content = torch.rand(1, 3, 16, 16)
        >>> photoreal = Photoreal(content, cutoff=0.02)
        >>> x = photoreal.start(torch.tensor([[0.9, 0.5, 0.2]]))
        >>> x.mean((2, 3)).mul(10).round()
        tensor([[9., 5., 2.]])
        >>> bool(torch.equal(photoreal.projection(content), content))
        True
        >>> photoreal.finish(photoreal(x)).shape
        torch.Size([1, 3, 16, 16])
    """

    def __init__(
        self,
        content: Tensor,
        cutoff: float | LowPass = CUTOFF,
        order: int | None = None,
        eps: float = 1e-4,
        regions: Tensor | None = None,
        coarse: LowPass | None = None,
        luma_lowpass: LowPass | None = None,
        chroma: Tensor | None = None,
    ) -> None:
        self.content = as_working_dtype(content).float()
        self.regions = regions
        lowpass = cutoff if isinstance(cutoff, LowPass) else LowPass(cutoff, order)
        self._lowpass, self._coarse, self._eps = lowpass, coarse, eps
        self._laplacian = MattingLaplacian(self.content, eps)
        self.projection = self._filter(lowpass, luma_lowpass)
        everywhere = torch.ones_like(luma(self.content))
        self._colours = ColourPolynomial(self.content.detach(), everywhere, _RIDGE)
        weight = _WEIGHT if regions is None else _WEIGHT_BY_REGION
        self._pull = ProximalContent(self.content, weight)
        self._keep_skin = KeepSkin(self.content)
        self._keep_shadows = KeepShadows(self.content)
        self._keep_text = KeepText(self.content)
        self._soft_clip = SoftClip(self.content)
        self._soft_chroma: Constraint | None = None
        if chroma is not None:
            limit = _CHROMA * chroma.to(self.content).view(-1, 1, 1, 1)
            if regions is not None:
                limit = (regions.unsqueeze(1).to(limit) * limit).sum(0, keepdim=True)
            self._soft_chroma = SoftChroma(self.content, limit)

    def project(
        self, x: Tensor, lowpass: LowPass | None = None, luma_lowpass: LowPass | None = None
    ) -> Tensor:
        """Project the change: step 4.

        Args:
            x: (B,3,H,W), of the content's height and width.
            lowpass, luma_lowpass: other low-passes than those of the constraint.

        Returns:
            (B,3,H,W) in X's dtype.
        """
        projection = self._filter(lowpass, luma_lowpass) if lowpass else self.projection
        return self._spare(projection, x)

    def _filter(self, lowpass: LowPass, luma_lowpass: LowPass | None) -> Constraint:
        def filtered(change: Tensor) -> Tensor:
            if luma_lowpass is None:
                return lowpass(self._laplacian, change)
            lightness = luma(change)
            chroma = lowpass(self._laplacian, change - lightness)
            return chroma + luma_lowpass(self._laplacian, lightness)

        return ResidualProjection(self.content, filtered)

    def _spare(self, projection: Constraint, x: Tensor) -> Tensor:
        """Project the change, except for the part of it that is a function of C's colours."""
        change = x.to(self.content) - self.content
        chroma = change - luma(change)
        function = self._colours(chroma, self.content.detach()).to(x)
        return projection(x - function) + function

    def coarse_projection(self) -> Constraint:
        """Make an approximation of step 4 that takes a third of the time.

        After it the network continues, so that results differ little from those of `project`
        throughout: over 29 pairs at 320 px the mean Gram distance is 0.195 and not 0.193, at the
        same SSIM of gradients with C.

        Returns:
            The constraint X -> X, for all updates but the last.
        """
        lowpass = self._coarse or coarser(self._lowpass)
        return partial(self._spare, CoarseProjection(self.content, lowpass, self._eps))

    def start(self, colours: Tensor, alpha: Tensor | None = None) -> Tensor:
        """X^(0): the content moved to the style's mean colour, region by region if there are any.

        Args:
            colours: the style's mean colour, RGB in [0,1]: (1,3), (B,3), or (R,3) with regions.
            alpha: weights of pixels in the content's mean colour, (1 or B,1,H,W); all 1 by default.

        Returns:
            (B,3,H,W), not clipped.
        """
        content, regions = self.content, self.regions
        masks = (
            content.new_ones(1, 1, 1, 1) if regions is None else regions.unsqueeze(1).to(content)
        )
        visible = masks if alpha is None else masks * alpha.to(content)
        share = area_mean(visible).flatten(1)
        before = area_mean(visible * content).flatten(1) / (share + (share == 0))
        moves = masks * ((colours - before) * (share > 0)).to(content).view(-1, 3, 1, 1)
        x = content + (moves if regions is None else moves.sum(0, keepdim=True))
        return self._keep_text(self._keep_shadows(x))

    def bound(self, x: Tensor) -> Tensor:
        """Bring X towards the content and into [0,1]: steps 1 to 3.

        Args:
            x: (B,3,H,W), of the content's height and width.

        Returns:
            (B,3,H,W) in X's dtype.
        """
        x = self._pull(x)
        return self.keep(x + _LUMA * luma(self.content.to(x) - x))

    def keep(self, x: Tensor) -> Tensor:
        """Keep skin, shadows and text, and bring X into [0,1]: steps 2 and 3.

        Args:
            x: (B,3,H,W), of the content's height and width.

        Returns:
            (B,3,H,W) in X's dtype.
        """
        x = self._keep_shadows(self._keep_skin(x))
        return self._soft_clip(self._keep_text(x))

    def __call__(self, x: Tensor) -> Tensor:
        """Enforce the constraint after an update: steps 1 to 4.

        Args:
            x: (B,3,H,W), of the content's height and width.

        Returns:
            (B,3,H,W) in X's dtype.
        """
        return self.project(self.bound(x))

    def finish(self, x: Tensor) -> Tensor:
        """Keep text and grounds in the last X, and bring it into [0,1].

        Args:
            x: (B,3,H,W), of the content's height and width.

        Returns:
            (B,3,H,W) in X's dtype.
        """
        x = self._keep_text.finish(x)
        return self._soft_clip(self._soft_chroma(x) if self._soft_chroma else x)
