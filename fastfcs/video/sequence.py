"""Frames restyled one after the other, each held to the one before along the optical flow.

A network amplifies what changes from frame to frame: noise, and where its grid of pixels lies on
the picture. The remedy is a constraint at run time (Puy and Pérez, CVPR 2019, section 4.4), without
retraining. With the motion W of `fastfcs.video.flow`, its trust M and a share s, for a painting

    X_k <- X_k + s M (W(X'_k) - X_k)

at X^(0), after every update and at the end of every scale, where X'_k is the same iterate of the
frame before, k = 0, 1 ... Puy and Pérez take the result of the frame before, X'_N, for every k. But
then the network begins with a painting and paints on it, frame after frame: strokes grow and
structure fades. With X'_k a frame that does not move has the painting of a single picture as its
fixed point, for any s (docs/video.md compares both).

M also falls where X_k and W(X'_k) differ over a whole neighbourhood: strokes differ from frame to
frame, but the glow around something that has moved must not trail behind it.

For a photograph the models of its change (`fastfcs.large`) are pulled likewise, once per frame.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..constraints.combine import Constraint
from ..constraints.registry import Part, is_photoreal
from ..images import Picture, image_to_tensor, least_side, to_samples
from ..large import apply_change
from ..stylizer import Stylizer
from .flow import Flow, Motion, dis_flow

STEADINESS = 0.9
"""The default share of a frame that comes from the frame before."""

FLOW_SIDE = 960
"""Longer side, in pixels, to which larger frames are reduced to find their motion."""

_BOUND = 0.12  # on the mean difference of iterates around a pixel, in [0, 1]
_SAME_SCENE = 0.25  # mean trust below which a frame begins anew

T = TypeVar("T", Tensor, Image.Image, NDArray[Any], Picture)
Iterates: TypeAlias = dict[tuple[int, int], list[Tensor]]


class Hold:
    """The constraint that holds the iterates of a frame to those of the frame before.

    Args:
        motion: the motion between both, or None for a first frame.
        share: s, in [0, 1].
        before: the iterates of the frame before, by the size of their scale.
        now: those of this frame are added here.

    Examples:
        >>> import torch
        >>> from fastfcs.video import Motion
        >>> from fastfcs.video.sequence import Hold
        >>> still = Motion(torch.zeros(1, 2, 16, 24), torch.ones(1, 1, 16, 24))
        >>> black, grey, now = torch.zeros(1, 3, 16, 24), torch.full((1, 3, 16, 24), 0.01), {}
        >>> hold = Hold(still, 0.75, {(16, 24): [black]}, now)
        >>> round(hold(grey).mean().item(), 4), len(now[16, 24])
        (0.0026, 1)
    """

    def __init__(
        self, motion: Motion | None, share: float, before: Iterates, now: Iterates
    ) -> None:
        self._motion, self._share = motion, share
        self._before, self._now = before, now

    def at_scale(self, size: tuple[int, int]) -> Constraint:
        """The same for the scale of this height and width, see `AcrossScales`."""
        motion = self._motion and self._motion.at(size)
        return Hold(motion, self._share, self._before, self._now)

    def __call__(self, x: Tensor) -> Tensor:
        """Pull X_k towards X'_k, and keep it: (1, 3, H, W) -> (1, 3, H, W)."""
        size = x.shape[-2], x.shape[-1]
        kept, before = self._now.setdefault(size, []), self._before.get(size, [])
        if self._motion is not None and len(kept) < len(before):
            x = self._motion.pull(x, before[len(kept)], self._share, bound=_BOUND)
        kept.append(x.half())
        return x


class _Past(NamedTuple):
    size: tuple[int, int]
    frame: NDArray[np.uint8]  # reduced, for the flow
    iterates: Iterates
    models: Tensor | None


class Sequence:
    """Restyles the frames of a video, or of a camera, so that the result does not flicker.

    Where most of a frame cannot be found in the one before, such as at a cut, it begins anew.

    Args:
        stylizer: with one style. A constraint "photoreal" makes it a photograph's, all others a
            painting's. Its settings may change between frames.
        steadiness: the share of a frame that comes from the frame before, in [0, 1); 0 restyles
            frame by frame. More is calmer, but light that changes is followed more slowly.
        flow: finds the optical flow between two frames, see `fastfcs.video.flow.Flow`.

    Raises:
        ValueError: the steadiness is out of its range.

    Examples:
        >>> import torch
        >>> from fastfcs import Stylizer
        >>> from fastfcs.video import Sequence
        >>> sequence = Sequence(Stylizer(torch.rand(3, 24, 32), weights="tiny"))
        >>> [sequence(frame).shape for frame in torch.rand(2, 3, 24, 32)]
        [torch.Size([3, 24, 32]), torch.Size([3, 24, 32])]
    """

    def __init__(
        self,
        stylizer: Stylizer,
        *,
        steadiness: float = STEADINESS,
        flow: Flow = dis_flow,
    ) -> None:
        if not isinstance(stylizer, Stylizer):
            raise TypeError(f"stylizer must be a Stylizer, got {type(stylizer).__name__}")
        if not 0 <= steadiness < 1:
            raise ValueError(f"steadiness must be in [0, 1), got {steadiness}")
        self.stylizer, self.steadiness, self.flow = stylizer, steadiness, flow
        self._past: _Past | None = None

    def restart(self) -> None:
        """Forget the frames so far, so that the next one begins anew."""
        self._past = None

    @torch.no_grad()
    def __call__(self, frame: T) -> T:
        """Restyle the next frame.

        Args:
            frame: an image of any of the kinds that `Stylizer` takes, not a batch.

        Returns:
            An image of the same type, size, dtype and range.

        Raises:
            TypeError, ValueError, RuntimeError: see `Stylizer.forward`.
        """
        if self.steadiness == 0:
            return cast(T, self.stylizer(frame))
        batch = image_to_tensor("frame", frame)
        if len(batch.samples) != 1:
            raise ValueError(f"frame must be a single image, got a batch of {len(batch.samples)}")
        height, width = batch.samples.shape[-2:]
        side = least_side((height, width), FLOW_SIDE)
        small = batch if max(height, width) <= side else batch.reduced(side)
        seen = to_samples(small.pixels[0], 8)
        past, motion = self._past, None
        if past is not None and past.size == (height, width):
            motion = Motion.between(past.frame, seen, self.flow)
            if motion.trust.mean() < _SAME_SCENE:
                motion = None
        if is_photoreal(self.stylizer.constraint):
            models = self.stylizer.models(frame)
            if motion is not None and past is not None and past.models is not None:
                moved = motion.at((models.shape[-2], models.shape[-1])).to(models.device)
                models = moved.pull(models, past.models, self.steadiness, "bilinear")
            self._past = _Past((height, width), seen, {}, models)
            return cast(T, batch.wrap(apply_change(batch, models)))
        iterates: Iterates = {}
        result = self._painted(
            frame, (height, width), motion, past.iterates if past else {}, iterates
        )
        self._past = _Past((height, width), seen, iterates, None)
        return result

    def _painted(
        self,
        frame: T,
        size: tuple[int, int],
        motion: Motion | None,
        before: Iterates,
        now: Iterates,
    ) -> T:
        stylizer = self.stylizer
        parts: tuple[Part, ...] = stylizer.constraint
        if motion is not None:
            motion = motion.at(size).to(next(stylizer.parameters()).device)
        pulls = stylizer.solver.updates_at(size) + 2  # the others at X^(0) and a scale's end
        share = 1 - (1 - self.steadiness) ** (1 / pulls)
        stylizer.constraint = (*parts, Hold(motion, share, before, now))
        try:
            return cast(T, stylizer(frame))
        finally:
            stylizer.constraint = parts
