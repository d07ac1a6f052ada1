"""Cuts of a video, and one look per scene.

A cut is a frame that differs from the one before far more than frames have differed lately, in its
colours as well as pixel by pixel, and that is not a flash: the frames after it differ, too. Frames
are compared as thumbnails, so that neither noise nor the movement of small things counts. A cut
between scenes of like colours needs no other look, and is no cut here. Dissolves are not cuts,
either: both scenes share a look, made for frames of both.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import median
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ..images import Picture
from ..look import Look, representatives
from ..stylizer import LOOK_SIZE

THUMBNAIL = 32
"""Longer side of a thumbnail, in pixels."""

_DIFFERENT = 0.06  # mean absolute difference of thumbnails in [0, 1], at a cut
_RECOLOURED = 0.035  # mean difference of the quantiles of their colours, at a cut
_TIMES = 2.5  # that a cut differs more than frames lately
_LATELY = 12  # frames
_FLASH = 3  # frames that a flash may last
_CANDIDATES, _REPRESENTATIVES = 16, 3  # frames per scene, to choose from and chosen

_GAIN = 1.03  # at most
_NOISE, _CHROMA_NOISE = 4 / 255, 0.5  # its size, and the share that is not grey
_SAMPLES, _BISECTIONS = 20_000, 8


class Scene(NamedTuple):
    """The frames from one cut to the next.

    Attributes:
        start: index of the first frame.
        pictures: a few of its frames that represent it.

    Examples:
        >>> from fastfcs.video.scenes import Scene
        >>> Scene(24, []).start
        24
    """

    start: int
    pictures: list[Picture]


Frame: TypeAlias = Callable[[int], Picture]
"""A function that returns a frame, reduced to this longer side in pixels."""


def find_scenes(frames: Iterable[Frame]) -> Iterator[Scene]:
    """Find the scenes of a video, in memory that does not grow with their length.

    Args:
        frames: all frames, in order.

    Yields:
        Every scene, once it is over.

    Examples:
        >>> import torch
        >>> from fastfcs.images import Picture
        >>> from fastfcs.video.scenes import find_scenes
        >>> day, night = (Picture(torch.full((3, 18, 32), grey)) for grey in (0.7, 0.2))
        >>> frames = [lambda side: day] * 12 + [lambda side: night] * 8
        >>> [scene.start for scene in find_scenes(frames)]
        [0, 12]
    """
    scene, last = _Candidates(0), None
    lately: deque[float] = deque(maxlen=_LATELY)
    cut: _Candidates | None = None  # the scene that begins if a difference was no flash
    before: Tensor | None = None  # the frame before it
    for index, frame in enumerate(frames):
        thumbnail = frame(THUMBNAIL).srgb
        change = 0.0 if last is None else _difference(thumbnail, last)
        usual = median(lately) if lately else 0.0
        is_sudden = cut is None and change > max(_DIFFERENT, _TIMES * usual)
        if is_sudden and last is not None and _recolouring(thumbnail, last) > _RECOLOURED:
            cut, before = _Candidates(index), last
        lately.append(change)
        if cut is not None and before is not None:
            if _difference(thumbnail, before) < _DIFFERENT:
                cut = None
            elif index - cut.start == _FLASH:
                yield scene.chosen()
                scene, cut = cut, None
        (cut or scene).add(index, frame)
        last = thumbnail
    yield from (each.chosen() for each in (scene, cut) if each is not None and each.frames)


class _Candidates:
    """Some frames of a scene, evenly spaced."""

    def __init__(self, start: int) -> None:
        self.start, self._stride = start, 1
        self.frames: list[Picture] = []

    def add(self, index: int, frame: Frame) -> None:
        if (index - self.start) % self._stride == 0:
            self.frames.append(frame(LOOK_SIZE))
            if len(self.frames) > _CANDIDATES:
                self._stride *= 2
                self.frames = self.frames[::2]

    def chosen(self) -> Scene:
        chosen = representatives(self.frames, _REPRESENTATIVES)
        return Scene(self.start, [self.frames[k] for k in chosen])


def calmed(look: Look, pictures: Sequence[Picture]) -> Look:
    """Bound how much a look amplifies what flickers in a video: noise, and fine detail that moves.

    A look c + u(c) with more contrast than the scene amplifies both. Then u is mixed with its mean
    over the scene, which amplifies nothing, as far as necessary.

    Args:
        look: the look.
        pictures: some frames of the scene.

    Returns:
        A look that amplifies noise, and the differences between neighbouring pixels, by at most
        3 %, in the root mean square.

    Examples:
        >>> import torch
        >>> from fastfcs.images import Picture
        >>> from fastfcs.look import Look
        >>> from fastfcs.video.scenes import calmed
        >>> harsh = Look(2 * Look.identity(9).grid - 0.5)
        >>> calm = calmed(harsh, [Picture(0.4 + 0.2 * torch.rand(3, 16, 24))])
        >>> 1.0 < (calm.grid[0, 4, 4, 5] - calm.grid[0, 4, 4, 4]).item() * 8 < 1.1
        True
    """
    pairs = _noisy_pairs(pictures), _neighbours(pictures)
    colours, _ = pairs[0]
    mean = (look.map(colours) - colours).mean(1, keepdim=True)
    even = look.identity(look.points).grid + mean[..., None]

    def mixed(share: float) -> Look:
        return Look(torch.lerp(look.grid, even, share))

    def is_harsh(look: Look) -> bool:
        changes = ((look.map(x) - look.map(y), x - y) for x, y in pairs)
        return any(bool(after.norm() > _GAIN * before.norm()) for after, before in changes)

    if not is_harsh(look):
        return look
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if is_harsh(mixed(middle)) else (low, middle)
    return mixed(high)


def _noisy_pairs(pictures: Sequence[Picture]) -> tuple[Tensor, Tensor]:
    """Colours of pictures without and with noise, (3, n, 1) each."""
    random = np.random.default_rng(0)
    colours = torch.cat([picture.srgb.flatten(1) for picture in pictures], 1)
    chosen = torch.from_numpy(random.integers(colours.shape[1], size=_SAMPLES))
    colours = colours[:, chosen, None]
    noise, grey = (
        torch.from_numpy(random.standard_normal((channels, _SAMPLES, 1))).to(colours)
        for channels in (3, 1)
    )
    return colours, (colours + _NOISE * torch.lerp(grey, noise, _CHROMA_NOISE)).clamp(0, 1)


def _neighbours(pictures: Sequence[Picture]) -> tuple[Tensor, Tensor]:
    """Colours of pixels, and of those to their right, (3, n, 1) each."""
    planes = [picture.srgb for picture in pictures]
    return (
        torch.cat([plane[:, :, :-1].flatten(1) for plane in planes], 1)[..., None],
        torch.cat([plane[:, :, 1:].flatten(1) for plane in planes], 1)[..., None],
    )


class Looks:
    """The looks of all scenes.

    Args:
        starts: index of the first frame of every scene, increasing from 0.
        looks: one per scene.

    Examples:
        >>> from fastfcs.look import Look
        >>> from fastfcs.video.scenes import Looks
        >>> day, night = Look.identity(2), Look.identity(3)
        >>> looks = Looks([0, 24], [day, night])
        >>> looks.of(23) is day, looks.of(24) is night
        (True, True)
    """

    def __init__(self, starts: Sequence[int], looks: Sequence[Look]) -> None:
        self.starts, self.looks = list(starts), list(looks)

    def of(self, index: int) -> Look:
        """The look of a frame, by its index."""
        return self.looks[bisect_right(self.starts, index) - 1]


def _recolouring(first: Tensor, second: Tensor) -> float:
    """The mean difference of all quantiles of each channel."""
    quantiles = (thumbnail.flatten(1).sort(1).values for thumbnail in (first, second))
    return _difference(*quantiles)


def _difference(first: Tensor, second: Tensor) -> float:
    return (first - second).abs().mean().item()
