"""Region masks of a content and a style: one flat colour or label per region, the same in both.

The colours are those of Luan et al., "Deep Photo Style Transfer" (CVPR 2017). Labels are the small
integers of a segmentation, as the values of a grey picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from . import images
from .images import Picture
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

_GREY = list(COLOURS).index("grey")
_OPPOSITES = ((0, 5), (1, 8), (2, 3), (4, 7))  # indices of colours whose mixture is grey

_NEAR = 0.1  # still the same colour: JPEG and resizing blur masks; maximum over the three channels
_FAR = 0.25  # none of the colours
# A colour appears in a mask only if it fills a square of _SIDE pixels. Eight of the colours are
# corners of the RGB cube, which no mixture of others comes near. A blurred border may pass through
# grey, halfway between opposite corners, and through colours that no mask may have. Those must also
# be flat, equal in 8 bits over a square of _FLAT_SIDE: a border is not, nor is the point at which
# four areas meet, even after a blur with a radius of 20 pixels.
_SIDE, _FLAT_SIDE = 5, 7
_FLAT = 0.5 / 255
_LABELS = 64  # labels are smaller; a mask of black, grey and white has values from 102 on


class Regions(NamedTuple):
    """The regions that the masks of a content and a style have in common.

    Attributes:
        colours: the names of the R regions, in the order of `COLOURS`, or "label 0", "label 1", ...
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

    Masks of colours: a colour may be slightly off. It counts if it fills an area somewhere, not if
    it only appears where two others blur into each other. Every pixel belongs to the nearest colour
    that counts in its mask.

    Masks of labels: grey pictures, not JPEG, of values below 64 with 8 or 16 bits. The largest
    value of that depth, 255 or 65535, marks pixels without a label.

    Pixels of a region that the other mask lacks belong to no region, and neither do pixels whose
    alpha is below 1/2. Values are taken as they are stored, whatever the colour profile.

    Args:
        content: picture file, the mask of the content.
        style: picture file, the mask of the style.

    Returns:
        The masks of the regions that both have.

    Raises:
        PictureError: a file cannot be read.
        ValueError: the masks have no region in common, one has a flat area of another colour, or
            one has colours and the other labels.

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
    paths = content, style
    pictures = [images.read(path, labels=True) for path in paths]
    labels = [_labels(picture) for picture in pictures]
    if any(of_mask is not None and of_mask.amax() > 0 for of_mask in labels):
        masks = [_label_masks(of_mask) for of_mask in labels if of_mask is not None]
        if len(masks) == 1:
            kinds = ["colours" if of_mask is None else "labels" for of_mask in labels]
            raise ValueError(
                "masks must both have colours or both have labels, "
                f"got {kinds[0]} in {content} and {kinds[1]} in {style}"
            )
    else:
        masks = [_colour_masks(*pair) for pair in zip(pictures, paths, strict=True)]
    names = tuple(name for name in masks[0] if name in masks[1])
    if not names:
        of_content, of_style = (
            f"{', '.join(mask) or 'none of ' + ', '.join(COLOURS)} in {path}"
            for mask, path in zip(masks, paths, strict=True)
        )
        raise ValueError(f"masks must have regions in common, got {of_content} and {of_style}")
    return Regions(names, *(torch.stack([mask[name] for name in names]).float() for mask in masks))


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


def _labels(picture: Picture) -> Tensor | None:
    """The labels (H, W) of a mask, -1 at pixels without one, or None if it is not one of labels.

    A mask that is black throughout may be either and has the label 0.
    """
    if picture.format == "JPEG" or (picture.pixels != picture.pixels[:1]).any():
        return None
    values = (picture.pixels[0] * (2**picture.depth - 1)).round().int()
    is_white = picture.pixels[0] == 1
    visible = _visible(picture)
    labels = values.where(visible & ~is_white, -1)
    is_black_and_white = labels.amax() <= 0 and (visible & is_white).any()
    return None if is_black_and_white or labels.amax() >= _LABELS else labels


def _label_masks(labels: Tensor) -> dict[str, Tensor]:
    """The mask (H, W) of each label."""
    return {f"label {k}": labels == k for k in labels.unique().tolist() if k >= 0}


def _colour_masks(picture: Picture, path: str | Path) -> dict[str, Tensor]:
    """The mask (H, W) of each colour that a picture has."""
    pixels, visible = picture.pixels, _visible(picture)
    pure = torch.tensor(list(COLOURS.values())).view(len(COLOURS), 3, 1, 1)
    distances = torch.stack([(pixels - colour).abs().amax(0) for colour in pure])  # (9, H, W)
    flat = _flat(pixels)
    mistakes = flat & visible & (distances > _FAR).all(0)
    if mistakes.any():
        y, x = mistakes.nonzero()[0].tolist()
        r, g, b = (255 * pixels[:, y, x]).round().int().tolist()
        raise ValueError(
            f"masks must have flat areas only of {', '.join(COLOURS)}, or labels below {_LABELS} "
            f"as grey values, got RGB ({r}, {g}, {b}) in {path}"
        )
    near = visible & (distances < _NEAR)
    appears = _full_squares(near)
    if any(appears[k] and appears[opposite] for k, opposite in _OPPOSITES):
        appears[_GREY] = (flat & near[_GREY]).any()
    nearest = distances.where(appears.view(-1, 1, 1), torch.inf).argmin(0)
    return {name: visible & (nearest == k) for k, name in enumerate(COLOURS) if appears[k]}


def _visible(picture: Picture) -> Tensor:
    """Whether a pixel may belong to a region, (H, W)."""
    if picture.alpha is None:
        return torch.ones_like(picture.pixels[0], dtype=torch.bool)
    return picture.alpha >= 0.5


def _full_squares(masks: Tensor) -> Tensor:
    """Whether each mask holds an entire square of `_SIDE` pixels: (R, H, W) -> (R,)."""
    return ~_largest(~masks, _SIDE).flatten(1).all(1)


def _flat(pixels: Tensor) -> Tensor:
    """Whether a pixel is the centre of a flat square of `_FLAT_SIDE`: (3, H, W) -> (H, W)."""
    high, low = (_largest(sign * pixels, _FLAT_SIDE) for sign in (1, -1))
    return (high + low).amax(0) < _FLAT


def _largest(planes: Tensor, side: int) -> Tensor:
    """The largest value in the square around each pixel, (R, H, W); faster than max pooling."""
    for axis in (1, 2):
        size, before = planes.shape[axis], planes
        planes = planes.clone()
        for shift in range(1, min(side // 2 + 1, size)):
            for start, other in ((0, shift), (shift, 0)):
                part = planes.narrow(axis, start, size - shift)
                torch.maximum(part, before.narrow(axis, other, size - shift), out=part)
    return planes
