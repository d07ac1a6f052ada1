"""Optical flow between two frames, and how far it can be trusted.

The flow w of a frame is a displacement per pixel: what is at p was at p + w(p) in the frame before.
It is trusted where

    |w(p) + w'(p + w(p))|^2 < 0.01 (|w|^2 + |w'|^2) + 1

with the flow w' from the frame before to this one (Sundaram, Brox and Keutzer, ECCV 2010, section
3): both agree, so the pixel was visible there. The trust falls with the difference of colours
there, too, since light that has changed must be painted afresh.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Flow: TypeAlias = Callable[[NDArray[np.uint8], NDArray[np.uint8]], NDArray[np.float32]]
"""A function of two frames, (H, W, 3) in sRGB, that finds the displacements (H, W, 2), x first, in
pixels, by which the pixels of the first lie elsewhere in the second."""

_RELATIVE, _ABSOLUTE = 0.01, 1.0  # of the check forward and back, in squared pixels
_RADIUS = 2  # of blurs, in pixels, that take noise from comparisons
_POINTS, _FOLLOWS, _MOST = 4000, 0.5, 0.2  # points, pixels, and their share, of a camera's motion
_AS_GOOD, _NOISE = 1.3, 4.0  # a cost that is as good: relatively, and in squared grey levels
_AROUND = 4  # of a mean around a pixel, in pixels
_SIMILAR = 0.06  # a difference of colours, in [0, 1], at which the trust is 1 / e


def dis_flow(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Find the optical flow by dense inverse search (Kroeger et al., ECCV 2016), with OpenCV.

    Noise moves the flow of areas without texture, and strokes with it. An affine motion of the
    camera is therefore fitted to the flow of textured points, and taken wherever it explains the
    second frame about as well.

    Args:
        first: a frame, (H, W, 3), in sRGB.
        second: another one of the same size.

    Returns:
        Displacements (H, W, 2) in pixels, x first: what ``first`` shows at p is at p + flow(p) in
        ``second``.

    Raises:
        ImportError: OpenCV is not installed.

    Examples:
        >>> import numpy as np
        >>> from fastfcs.video.flow import dis_flow
        >>> picture = np.random.default_rng(0).integers(0, 255, (8, 12, 3)).astype(np.uint8)
        >>> picture = picture.repeat(12, 0).repeat(12, 1)
        >>> flow = dis_flow(picture, np.roll(picture, 3, axis=1))
        >>> np.median(flow, (0, 1)).round().tolist()
        [3.0, 0.0]
    """
    try:
        cv2: Any = import_module("cv2")
    except ImportError as error:
        raise ImportError("optical flow needs OpenCV: pip install 'fastfcs[video]'") from error
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    one, other = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (first, second))
    flow: NDArray[np.float32] = search.calc(one, other, None)
    camera = _camera_motion(cv2, one, flow)
    if camera is None:
        return flow
    costs = (_cost(cv2, one, other, each) for each in (camera, flow))
    as_good = next(costs) < _AS_GOOD * next(costs) + _NOISE
    share = cv2.GaussianBlur(as_good.astype(np.float32), (0, 0), _RADIUS)[..., None]
    flow += share * (camera - flow)
    return flow


def _camera_motion(
    cv2: Any, grey: NDArray[np.uint8], flow: NDArray[np.float32]
) -> NDArray[np.float32] | None:
    """The affine motion that most of a flow follows, as a flow; None if there is none."""
    height, width = grey.shape
    slopes = (cv2.Sobel(grey, cv2.CV_32F, *order) for order in ((1, 0), (0, 1)))
    texture = cv2.GaussianBlur(sum(slope**2 for slope in slopes), (0, 0), _RADIUS)
    step = max(4, int((height * width / _POINTS) ** 0.5))
    y, x = np.mgrid[step // 2 : height : step, step // 2 : width : step]
    textured = texture[y, x] >= np.median(texture[y, x])
    y, x = y[textured], x[textured]
    start = np.stack([x, y], -1).astype(np.float32)
    matrix, followed = cv2.estimateAffine2D(
        start, start + flow[y, x], method=cv2.RANSAC, ransacReprojThreshold=_FOLLOWS
    )
    if matrix is None or followed.mean() < _MOST:
        return None
    y, x = np.mgrid[:height, :width]
    places = np.stack([x, y], -1).astype(np.float32)
    moved = places @ matrix[:, :2].T.astype(np.float32) + matrix[:, 2].astype(np.float32)
    motion: NDArray[np.float32] = moved - places
    return motion


def _cost(
    cv2: Any, one: NDArray[np.uint8], other: NDArray[np.uint8], flow: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Mean squared differences around every pixel, in grey levels."""
    height, width = one.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    place = x + flow[..., 0], y + flow[..., 1]
    moved = cv2.remap(other, *place, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    error = (one.astype(np.float32) - moved.astype(np.float32)) ** 2
    cost: NDArray[np.float32] = cv2.blur(error, (2 * _RADIUS + 1,) * 2)
    return cost


@dataclass(frozen=True)
class Motion:
    """Where the pixels of a frame were in the frame before.

    Attributes:
        flow: displacements (1, 2, H, W) in pixels, x first.
        trust: (1, 1, H, W) in [0, 1]; 0 where a pixel was hidden or looked otherwise.

    Examples:
        >>> import torch
        >>> from fastfcs.video.flow import Motion
        >>> right = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 16, 24)
        >>> motion = Motion(right, torch.ones(1, 1, 16, 24))
        >>> before = torch.arange(24.0).expand(1, 1, 16, 24)
        >>> motion.moved(before)[0, 0, 0, :3].round()
        tensor([1., 2., 3.])
    """

    flow: Tensor
    trust: Tensor

    @classmethod
    def between(
        cls, before: NDArray[np.uint8], now: NDArray[np.uint8], flow: Flow = dis_flow
    ) -> Motion:
        """Find the motion between two frames.

        Args:
            before: the frame before, (H, W, 3), in sRGB.
            now: a frame of the same size.
            flow: finds the optical flow.

        Returns:
            The motion, on the CPU.

        Raises:
            ValueError: ``flow`` returned something of another shape.
        """
        there, back = _checked(flow, now, before), _checked(flow, before, now)
        unsure = cls(there, torch.ones_like(there[:, :1]))
        returned = unsure.moved(back, "bilinear")
        error = (there + returned).square().sum(1, keepdim=True)
        length = (there.square() + returned.square()).sum(1, keepdim=True)
        seen = error < _RELATIVE * length + _ABSOLUTE
        height, width = now.shape[:2]
        place = there + _places(height, width).to(there)
        bound = place.new_tensor([width - 1, height - 1]).view(1, 2, 1, 1)
        seen &= ((place > -0.5) & (place < bound + 0.5)).all(1, keepdim=True)
        # The flow next to what was hidden mixes both sides; soft borders hide where it errs.
        hidden = _blurred(F.max_pool2d(1 - seen.float(), 5, 1, 2), _RADIUS)
        colours, earlier = (_blurred(_planes(frame)) for frame in (now, before))
        apart = (colours - unsure.moved(earlier, "bilinear")).abs().amax(1, keepdim=True)
        return cls(there, (1 - hidden).clamp(0, 1) * torch.exp(-((apart / _SIMILAR) ** 2)))

    def at(self, size: tuple[int, int]) -> Motion:
        """Resize the motion.

        Args:
            size: height and width.

        Returns:
            The same motion in pixels of that size.
        """
        height, width = self.flow.shape[-2:]
        if size == (height, width):
            return self
        flow, trust = (
            F.interpolate(x, size, mode="bilinear", antialias=True) for x in (self.flow, self.trust)
        )
        scale = flow.new_tensor([size[1] / width, size[0] / height]).view(1, 2, 1, 1)
        return Motion(flow * scale, trust)

    def to(self, device: torch.device) -> Motion:
        """Copy the motion to a device."""
        return Motion(self.flow.to(device), self.trust.to(device))

    def moved(self, before: Tensor, mode: str = "bicubic") -> Tensor:
        """Bring something from the frame before to the places where it is now.

        Args:
            before: (1, C, H, W), floating.
            mode: the interpolation of `torch.nn.functional.grid_sample`.

        Returns:
            (1, C, H, W).
        """
        height, width = before.shape[-2:]
        place = self.flow.to(before) + _places(height, width).to(before)
        scale = place.new_tensor([2 / max(1, width - 1), 2 / max(1, height - 1)])
        grid = place.movedim(1, -1) * scale - 1
        return F.grid_sample(before, grid, mode, padding_mode="border", align_corners=True)

    def pull(
        self,
        now: Tensor,
        before: Tensor,
        share: float,
        mode: str = "bicubic",
        bound: float | None = None,
    ) -> Tensor:
        """Pull something towards what it was in the frame before, where the flow can be trusted.

        Args:
            now: (1, C, H, W), floating.
            before: the same of the frame before.
            share: in [0, 1]; of what it was.
            mode: see `moved`.
            bound: a mean difference around a pixel at which the trust is 1 / e of what it is
                without; None does not look at differences.

        Returns:
            (1, C, H, W).
        """
        change = self.moved(before.to(now), mode) - now
        weight = share * self.trust.to(now)
        if bound is not None:
            apart = _blurred(change.mean(1, keepdim=True), _AROUND)
            weight = weight * torch.exp(-((apart / bound) ** 2))
        return torch.addcmul(now, weight, change)


def _checked(flow: Flow, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> Tensor:
    found = np.asarray(flow(first, second), np.float32)
    if found.shape != (*first.shape[:2], 2):
        raise ValueError(
            f"flow must return an array {(*first.shape[:2], 2)}, got shape {found.shape}"
        )
    return torch.from_numpy(found).movedim(-1, 0)[None]


def _places(height: int, width: int) -> Tensor:
    """The places of pixels themselves, (2, H, W)."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x, y])


def _planes(frame: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(frame)).movedim(-1, 0)[None] / 255


def _blurred(x: Tensor, radius: int = _RADIUS) -> Tensor:
    side = 2 * radius + 1
    padded = F.pad(x, (radius,) * 4, mode="replicate")
    return F.avg_pool2d(F.avg_pool2d(padded, (side, 1), 1), (1, side), 1)
