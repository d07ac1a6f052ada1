"""Clips whose motion is known: a camera moves over a large photograph, and one thing before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fastfcs.video import Motion

Frame = NDArray[np.uint8]  # (H, W, 3)


class Clip(NamedTuple):
    """Frames, and the motion from each to the one before; the first has none."""

    frames: list[Frame]
    motions: list[Motion | None]


# Camera moves: the place of the middle of the frame in the photograph, relative to half its sides,
# the angle in radians and the scale, at a time t, which is 0 at first and 1 after `LENGTH` frames.
LENGTH = 60
MOVES: dict[str, Callable[[float], tuple[float, float, float, float]]] = {
    "still": lambda t: (0, 0, 0, 1),
    "pan": lambda t: (0.3 * (2 * t - 1), 0.1 * (2 * t - 1), 0, 1),
    "zoom": lambda t: (0, 0, 0, 1 - 0.3 * t),
    "rotation": lambda t: (0, 0, 0.35 * (t - 0.5), 1),
}


def make_clip(
    photo: Tensor,
    move: str,
    count: int,
    size: tuple[int, int],
    *,
    moving: Tensor | None = None,
    noise: float = 2.0,
    light: float = 0.0,
    seed: int = 0,
) -> Clip:
    """Film a photograph.

    Args:
        photo: (3, H, W) in [0, 1].
        move: one of `MOVES`.
        count: number of frames.
        size: height and width of a frame.
        moving: a photograph of a round thing that moves from left to right before the other one.
        noise: standard deviation of the sensor's noise, in grey levels of 255.
        light: how much brighter than the first the last frame is, relatively.
        seed: of the noise.
    """
    rng = np.random.default_rng(seed)
    height, width = size
    extent = 0.6 * min(photo.shape[2] / width, photo.shape[1] / height)  # photo's pixels per pixel
    blurred = _reduced(photo, max(1.0, extent))
    places = _places(height, width)
    frames, motions = [], []
    before: tuple[Tensor, Tensor, Tensor] | None = None
    for index in range(count):
        t = index / LENGTH
        x, y, angle, scale = MOVES[move](t)
        middle = photo.new_tensor([(1 + x) * photo.shape[2] / 2, (1 + y) * photo.shape[1] / 2])
        camera = extent * scale * _rotation(angle), middle
        seen = _onto(places, camera, size)
        frame = _sampled(blurred, seen / photo.new_tensor([photo.shape[2], photo.shape[1]]))
        centre = photo.new_tensor([(0.2 + 0.5 * t) * width, (0.5 + 0.05 * np.sin(9 * t)) * height])
        offset = (places - centre) / (0.25 * height)
        inside = ((0.9 - offset.norm(dim=-1)) * 0.25 * height).clamp(0, 1)
        if moving is None:
            inside = torch.zeros_like(inside)
        else:
            frame = torch.lerp(frame, _sampled(moving, (offset + 1) / 2), inside)
        frame = frame * (1 + light * t) + torch.from_numpy(
            rng.normal(0, noise / 255, frame.shape)
        ).to(frame)
        frames.append((255 * frame.clamp(0, 1)).round().byte().movedim(0, -1).numpy())
        motions.append(_motion(places, seen, inside, centre, before, size))
        before = (torch.linalg.inv(camera[0]), middle, inside, centre)
    return Clip(frames, motions)


def _motion(places, seen, inside, centre, before, size) -> Motion | None:
    """Where pixels were in the frame before, trusted but near the border of the moving thing."""
    if before is None:
        return None
    height, width = size
    inverse, middle, inside_before, centre_before = before
    half = places.new_tensor([(width - 1) / 2, (height - 1) / 2])
    was = (seen - middle) @ inverse.T + half
    was = torch.where(inside[..., None] > 0.5, places + centre_before - centre, was)
    flow = (was - places).movedim(-1, 0)[None].float()
    exact = Motion(flow, torch.ones(1, 1, *size))
    then = exact.moved(inside_before[None, None].float(), "bilinear")[0, 0]
    edge = F.max_pool2d(((inside > 0) & (inside < 1)).float()[None, None], 5, 1, 2)[0, 0]
    within = ((was >= 1) & (was <= 2 * half - 1)).all(-1)
    same = ((inside > 0.5) == (then > 0.5)) & ((then > 0.99) | (then < 0.01))
    return Motion(flow, (within & same & (edge == 0)).float()[None, None])


def _places(height: int, width: int) -> Tensor:
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x, y], -1).double()


def _rotation(angle: float) -> Tensor:
    c, s = np.cos(angle), np.sin(angle)
    return torch.tensor([[c, -s], [s, c]], dtype=torch.float64)


def _onto(places: Tensor, camera: tuple[Tensor, Tensor], size: tuple[int, int]) -> Tensor:
    matrix, middle = camera
    half = places.new_tensor([(size[1] - 1) / 2, (size[0] - 1) / 2])
    return (places - half) @ matrix.T + middle


def _sampled(photo: Tensor, places: Tensor) -> Tensor:
    """The photo at places relative to its sides, (3, H, W)."""
    grid = (2 * places - 1)[None]
    photo = photo.to(grid)[None]
    return F.grid_sample(photo, grid, "bicubic", padding_mode="reflection", align_corners=False)[0]


def _reduced(photo: Tensor, scale: float) -> Tensor:
    size = [round(side / scale) for side in photo.shape[1:]]
    return F.interpolate(photo[None], size, mode="bicubic", antialias=True)[0].clamp(0, 1)
