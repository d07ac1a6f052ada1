"""Region masks of a content and a style: one flat colour per region, the same in both masks.

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
from .losses import resize_masks

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
"""The colours of regions by name, RGB in [0, 1]."""

# A colour appears in a mask only if it fills a square of _SIDE pixels, since the blurred border
# between two other colours is thinner. A square filled by a colour that is far from all of COLOURS
# is a mistake in the mask. Colour differences are the maximum over the three channels.
_SIDE = 5
_NEAR = 0.1  # still the same colour: JPEG and resizing blur masks
_FAR = 0.25  # none of the colours
_FLAT = 0.02  # a single colour


class Regions(NamedTuple):
    """The regions that the masks of a content and a style have in common.

    Attributes:
        colours: the names of the R regions, in the order of `COLOURS`.
        content: (R, H, W) float32, 1 inside each region of the content and 0 outside.
        style: (R, H', W') float32, the same for the style.

    Examples:
        >>> import torch
        >>> from fastfcs.regions import Regions
        >>> regions = Regions(("blue",), torch.ones(1, 16, 24), torch.ones(1, 20, 20))
        >>> regions.colours, regions.style.shape
        (('blue',), torch.Size([1, 20, 20]))
    """

    colours: tuple[str, ...]
    content: Tensor
    style: Tensor


def read_regions(content: str | Path, style: str | Path) -> Regions:
    """Read the masks of a content and a style.

    A colour may be slightly off. It counts only if it fills a flat area somewhere, not if it only
    appears where two others blur into each other. Every pixel belongs to the nearest colour that
    counts in its mask. Pixels of a colour that the other mask lacks belong to no region.

    Args:
        content: picture file, the mask of the content.
        style: picture file, the mask of the style.

    Returns:
        The masks of the regions that both have.

    Raises:
        PictureError: a file cannot be read.
        ValueError: the masks have no colour in common, or one has a flat area of another colour.

    Examples:
        >>> from pathlib import Path
        >>> import torch
        >>> from fastfcs import images, read_regions
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "mask.png"
        >>> pixels = torch.zeros(3, 16, 24)
        >>> pixels[2, :, 8:] = 1
        >>> images.write(images.Picture(pixels), file)
        >>> regions = read_regions(file, file)
        >>> regions.colours, regions.content.mean((1, 2))
        (('blue', 'black'), tensor([0.6667, 0.3333]))
    """
    masks = [_read_mask(path) for path in (content, style)]
    colours = tuple(colour for colour in COLOURS if all(colour in mask for mask in masks))
    if not colours:
        of_content, of_style = (
            f"{', '.join(mask) or 'none of ' + ', '.join(COLOURS)} in {path}"
            for mask, path in zip(masks, (content, style), strict=True)
        )
        raise ValueError(f"masks must have colours in common, got {of_content} and {of_style}")
    return Regions(colours, *(torch.stack([mask[c] for c in colours]).float() for mask in masks))


def resize(masks: Tensor, size: Sequence[int]) -> Tensor:
    """Resize masks: each new pixel holds the fraction of its area that the region covers.

    Args:
        masks: (R, H, W), floating.
        size: the new height H' and width W', in pixels.

    Returns:
        (R, H', W').

    Examples:
        >>> import torch
        >>> from fastfcs.regions import resize
        >>> resize(torch.tensor([[[1.0, 1.0, 1.0, 0.0]]]), (1, 2))
        tensor([[[1.0000, 0.5000]]])
    """
    # Clamped to the input's range, which rounding may leave by an ulp; values outside [0, 1] are
    # kept for `check_regions` to report.
    return resize_masks(masks, size).clamp(masks.min(), masks.max())


def _read_mask(path: str | Path) -> dict[str, Tensor]:
    """The mask (H, W) of each colour that a picture has."""
    pixels = images.read(path).pixels
    pure = torch.tensor(list(COLOURS.values())).view(len(COLOURS), 3, 1, 1)
    distances = (pixels - pure).abs().amax(1)  # (9, H, W)
    near = (distances < _NEAR).float()
    far = (distances > _FAR).all(0, keepdim=True).float()
    mistakes = _full_squares(far) & (_spread(pixels) < _FLAT)
    if mistakes.any():
        y, x = mistakes[0].nonzero()[0].tolist()
        r, g, b = (255 * pixels[:, y + _SIDE // 2, x + _SIDE // 2]).round().int().tolist()
        raise ValueError(
            f"masks must have flat areas only of {', '.join(COLOURS)}, "
            f"got RGB ({r}, {g}, {b}) in {path}"
        )
    appears = _full_squares(near).flatten(1).any(1)
    nearest = distances.where(appears.view(-1, 1, 1), torch.inf).argmin(0)
    return {name: nearest == k for k, name in enumerate(COLOURS) if appears[k]}


def _full_squares(masks: Tensor) -> Tensor:
    """Which squares of `_SIDE` pixels are entirely in a mask: (R, H, W) -> (R, H - 4, W - 4)."""
    return F.avg_pool2d(masks, _SIDE, stride=1) > 1 - 1e-6


def _spread(pixels: Tensor) -> Tensor:
    """The largest difference within each square of `_SIDE`: (3, H, W) -> (1, H - 4, W - 4)."""
    high, low = (F.max_pool2d(sign * pixels, _SIDE, stride=1) for sign in (1, -1))
    return (high + low).amax(0, keepdim=True)
