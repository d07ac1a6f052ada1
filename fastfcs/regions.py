"""Region masks of a content/style pair: one flat colour a region, the same colour in both.

The colours are those of Luan et al., "Deep Photo Style Transfer" (CVPR 2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from . import images

COLOURS = {
    "blue": (0, 0, 1),
    "green": (0, 1, 0),
    "black": (0, 0, 0),
    "white": (1, 1, 1),
    "red": (1, 0, 0),
    "yellow": (1, 1, 0),
    "grey": (0.5, 0.5, 0.5),
    "light blue": (0, 1, 1),
    "purple": (1, 0, 1),
}

_NEAR = 0.1  # of a pure colour, the largest difference of a channel: JPEG and resizing blur masks
_FLAT = 5  # a colour appears where a square of so many pixels has it: a blurred border is thinner
_FAR = 0.25  # from all pure colours: where such a square is, and of one colour, it is a mistake
_ONE = 0.02  # the largest difference within one colour


class Regions(NamedTuple):
    """The regions that both pictures of a pair have.

    Attributes:
        colours: their names, R of them, in the order of `COLOURS`.
        content: (R, H, W) float32, 1 inside each region of the content and 0 outside.
        style: (R, H', W'), likewise.
    """

    colours: tuple[str, ...]
    content: Tensor
    style: Tensor


def read_regions(content: str | Path, style: str | Path) -> Regions:
    """Read the two masks of a pair.

    A colour counts where it is flat, not where two others blur into it, and may be a little off;
    every pixel then belongs to the nearest colour that counts in its mask. Pixels whose region the
    other mask lacks are in no region of the result.

    Raises:
        PictureError: a file that is not a picture.
        ValueError: the masks have no colour in common, or one has a flat area of another colour.
    """
    found = [_read(path) for path in (content, style)]
    colours = tuple(colour for colour in COLOURS if all(colour in mask for mask in found))
    if not colours:
        names = [
            f"{', '.join(mask) or 'none of ' + ', '.join(COLOURS)} in {p}"
            for mask, p in zip(found, (content, style), strict=True)
        ]
        raise ValueError(f"masks must have colours in common, not {names[0]} and {names[1]}")
    return Regions(colours, *(torch.stack([mask[c] for c in colours]).float() for mask in found))


def resize(masks: Tensor, size: Sequence[int]) -> Tensor:
    """Masks (R, H, W) at another size (H', W'): the share of each new pixel that is covered."""
    # Rounding may leave their range by an ulp; what is outside [0, 1] stays so, to be refused.
    return F.interpolate(masks[None], list(size), mode="area")[0].clamp(masks.min(), masks.max())


def _read(path: str | Path) -> dict[str, Tensor]:
    """The mask (H, W) of each colour that a picture has."""
    picture = images.read(path).pixels
    pure = torch.tensor(list(COLOURS.values())).view(len(COLOURS), 3, 1, 1)
    distances = (picture - pure).abs().amax(1)  # (9, H, W)
    near = (distances < _NEAR).float()
    far = (distances > _FAR).all(0, keepdim=True).float()
    unlike = _within(far) & (_spread(picture) < _ONE)
    if unlike.any():
        y, x = unlike[0].nonzero()[0].tolist()
        r, g, b = (255 * picture[:, y + _FLAT // 2, x + _FLAT // 2]).round().int().tolist()
        raise ValueError(
            f"masks must have flat areas of {', '.join(COLOURS)} alone, "
            f"not of the RGB colour ({r}, {g}, {b}) as {path} has"
        )
    appears = _within(near).flatten(1).any(1)
    nearest = distances.where(appears.view(-1, 1, 1), torch.inf).argmin(0)
    return {name: nearest == k for k, name in enumerate(COLOURS) if appears[k]}


def _within(masks: Tensor) -> Tensor:
    """Which squares of `_FLAT` pixels, (R, H - 4, W - 4), masks (R, H, W) cover wholly."""
    return F.avg_pool2d(masks, _FLAT, stride=1) > 1 - 1e-6


def _spread(picture: Tensor) -> Tensor:
    """The largest difference within each such square of (3, H, W): (1, H - 4, W - 4)."""
    high, low = (F.max_pool2d(sign * picture, _FLAT, stride=1) for sign in (1, -1))
    return (high + low).amax(0, keepdim=True)
