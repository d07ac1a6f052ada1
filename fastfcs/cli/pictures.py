"""Opening, masking and writing the pictures of a command, with notes for the user."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

    from ..images import Picture
    from ..stylizer import Stylizer

_SMALL_REGION = 0.001  # fraction of the picture


def message_console() -> Console:
    """Make the console for messages: standard error, with paths neither wrapped nor coloured.

    Returns:
        The console.

    Examples:
        >>> from fastfcs.cli.pictures import message_console
        >>> message_console().stderr
        True
    """
    from rich.console import Console

    return Console(stderr=True, soft_wrap=True, highlight=False, markup=False)


def open_picture(
    source: str | BinaryIO,
    max_size: int | None = None,
    more_notes: Callable[[Picture], list[str]] = lambda picture: [],
) -> tuple[Picture, list[str]]:
    """Read a picture and reduce it.

    Args:
        source: a file, or a binary stream.
        max_size: longer side, in pixels, to which a larger picture is reduced.
        more_notes: returns further notes on the picture before it is reduced.

    Returns:
        The picture, and notes for the user: what was converted, dropped or reduced.

    Raises:
        PictureError: the picture cannot be read.

    Examples:
        >>> from io import BytesIO
        >>> import torch
        >>> from fastfcs import images
        >>> from fastfcs.cli.pictures import open_picture
        >>> stream = BytesIO()
        >>> images.write(images.Picture(torch.rand(3, 20, 40)), stream)
        >>> _ = stream.seek(0)
        >>> picture, notes = open_picture(stream, max_size=20)
        >>> picture.size, notes
        ((20, 10), ['reduced from 40 x 20 to a longer side of 20 pixels'])
    """
    from .. import images

    picture = images.read(source)
    notes = [*picture.notes, *more_notes(picture), *reduction_notes(picture, max_size)]
    return picture if max_size is None else images.fit_picture(picture, max_size), notes


def open_content(
    source: str, target: str, max_size: int | None = None
) -> tuple[Picture, list[str]]:
    """Read the picture to restyle, as `open_picture` does.

    Args:
        source: a file, or - for standard input.
        target: the output, a file or - for standard output (PNG).
        max_size: see `open_picture`.

    Returns:
        The picture, and notes that include what the format of ``target`` cannot hold.

    Raises:
        PictureError: the picture cannot be read, or the format cannot hold its transparency.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import torch
        >>> from fastfcs import images
        >>> from fastfcs.cli.pictures import open_content
        >>> source = str(Path(tempfile.mkdtemp()) / "deep.png")
        >>> images.write(images.Picture(torch.rand(3, 16, 16), depth=16), source)
        >>> open_content(source, "out.jpg")[1]
        ['16 bits per channel reduced to 8: JPEG is written with no more']
    """
    from .. import images

    format = "PNG" if target == "-" else images.format_of(target)
    return open_picture(
        sys.stdin.buffer if source == "-" else source,
        max_size,
        lambda picture: images.conversion_notes(picture, format),
    )


def open_style(path: str, max_size: int | None = None) -> tuple[Picture, list[str]]:
    """Read a style picture, as `open_picture` does.

    Args:
        path: a file.
        max_size: see `open_picture`.

    Returns:
        The picture, and notes that include whether it is very small.

    Raises:
        PictureError: the picture cannot be read.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import torch
        >>> from fastfcs import images
        >>> from fastfcs.cli.pictures import open_style
        >>> path = str(Path(tempfile.mkdtemp()) / "style.png")
        >>> images.write(images.Picture(torch.rand(3, 16, 16)), path)
        >>> picture, notes = open_style(path)
        >>> picture.size, notes
        ((16, 16), ['only 16 x 16 pixels: a style this small has unreliable strokes and colours'])
    """
    return open_picture(path, max_size, _size_notes)


def _size_notes(style: Picture) -> list[str]:
    from ..stylizer import SMALL_STYLE

    width, height = style.size
    note = f"only {width} x {height} pixels: a style this small has unreliable strokes and colours"
    return [note] if min(style.size) < SMALL_STYLE else []


def reduction_notes(picture: Picture, max_size: int | None) -> list[str]:
    """Report whether a picture is reduced.

    Args:
        picture: before it is reduced.
        max_size: its longer side, in pixels, afterwards; None never reduces it.

    Returns:
        One note, or none.

    Examples:
        >>> import torch
        >>> from fastfcs.cli.pictures import reduction_notes
        >>> from fastfcs.images import Picture
        >>> reduction_notes(Picture(torch.rand(3, 20, 40)), 32)
        ['reduced from 40 x 20 to a longer side of 32 pixels']
    """
    if max_size is None or max(picture.size) <= max_size:
        return []
    width, height = picture.size
    return [f"reduced from {width} x {height} to a longer side of {max_size} pixels"]


class Mask(NamedTuple):
    """The regions of one picture, as read from a file.

    Attributes:
        path: the file, for errors.
        names: the names of the R regions, for notes.
        regions: masks (R, H, W).
        notes: notes for the user.

    Examples:
        >>> import torch
        >>> from fastfcs.cli.pictures import Mask
        >>> Mask("mask.png", ("red",), torch.ones(1, 16, 24)).notes
        ()
    """

    path: str
    names: tuple[str, ...]
    regions: Tensor
    notes: tuple[str, ...] = ()


def open_masks(content: str, style: str) -> tuple[Mask, Mask]:
    """Read the masks of a content and a style, as `fastfcs.read_regions` does.

    Args:
        content: a file, the mask of the content.
        style: a file, the mask of the style.

    Returns:
        Both masks; the content's has a note if they have no effect.

    Raises:
        PictureError: a file cannot be read.
        ValueError: see `fastfcs.read_regions`.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from fastfcs.cli.pictures import open_masks
        >>> path = str(Path(tempfile.mkdtemp()) / "black.png")
        >>> Image.new("L", (24, 16)).save(path)
        >>> open_masks(path, path)[0].notes
        ('its mask has one region and therefore no effect',)
    """
    from ..regions import read_regions

    names, *both = read_regions(content, style)
    is_whole = len(names) == 1 and all(regions.all() for regions in both)
    notes = ("its mask has one region and therefore no effect",) if is_whole else ()
    return Mask(content, names, both[0], notes), Mask(style, names, both[1])


def fit_mask(mask: Mask, picture: Picture) -> tuple[Tensor, list[str]]:
    """Bring a mask to the size of its picture.

    Args:
        mask: the mask.
        picture: the picture it belongs to, of H x W pixels.

    Returns:
        The masks (R, H, W) of the regions, and notes, also if their size has changed or a region is
        very small.

    Raises:
        ValueError: the aspect ratios differ by more than the rounding of either size.

    Examples:
        >>> import torch
        >>> from fastfcs.cli.pictures import Mask, fit_mask
        >>> from fastfcs.images import Picture
        >>> mask = Mask("mask.png", ("red", "blue"), torch.ones(2, 8, 12) / 2)
        >>> masks, notes = fit_mask(mask, Picture(torch.rand(3, 16, 24)))
        >>> masks.shape, notes
        (torch.Size([2, 16, 24]), ['its mask was resized to 24 x 16'])
    """
    from ..regions import resize

    width, height = picture.size
    rows, columns = mask.regions.shape[1:]
    # There is a scale at which both sides of the smaller one fit to within a pixel.
    if abs(columns * height - rows * width) > max(columns + rows, width + height):
        raise ValueError(
            f"{mask.path} must have its picture's aspect ratio, {width} x {height}, "
            f"got {columns} x {rows}"
        )
    notes = list(mask.notes)
    if (rows, columns) != (height, width):
        notes.append(f"its mask was resized to {width} x {height}")
    shares = mask.regions.mean((1, 2)).tolist()
    notes += [
        f"its region {name} is only {share:.2%} of it"
        for name, share in zip(mask.names, shares, strict=True)
        if share < _SMALL_REGION
    ]
    return resize(mask.regions, (height, width)), notes


def set_style(
    stylizer: Stylizer,
    styles: Sequence[str],
    blend: Sequence[float] | None = None,
    mask: Mask | None = None,
) -> list[str]:
    """Set pictures or presets as the style of a stylizer.

    Args:
        stylizer: the stylizer.
        styles: files, or names of presets.
        blend: weights of several styles; equal by default.
        mask: the regions of a single style.

    Returns:
        Notes for the user.

    Raises:
        PictureError: a picture cannot be read.
        ValueError: see `fastfcs.Stylizer.set_style`.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import torch
        >>> from fastfcs import Stylizer, images
        >>> from fastfcs.cli.pictures import set_style
        >>> path = str(Path(tempfile.mkdtemp()) / "style.png")
        >>> images.write(images.Picture(torch.rand(3, 100, 100)), path)
        >>> set_style(Stylizer(weights="tiny"), [path])
        []
    """
    from .. import presets

    images: list[Any] = []
    notes: list[str] = []
    regions = mask.regions if mask else None
    for style in styles:
        if presets.find(style) is not None:
            images.append(style)
            continue
        picture, picture_notes = open_style(style)
        picture_notes += reduction_notes(picture, stylizer.style_size)  # by the stylizer
        if mask:
            regions, mask_notes = fit_mask(mask, picture)
            picture_notes += mask_notes
        notes += [f"{style}: {note}" for note in picture_notes]
        images.append(picture)
    if len(images) > 1 and blend is None:
        blend = [1.0] * len(images)
    stylizer.set_style(images, blend=blend, regions=regions)
    return notes


def write_result(picture: Picture, target: str) -> None:
    """Write a restyled picture.

    Args:
        picture: the result, with the content's metadata.
        target: a file, or - for standard output (PNG).

    Raises:
        PictureError: the file cannot be written.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import torch
        >>> from fastfcs import images
        >>> from fastfcs.cli.pictures import write_result
        >>> target = str(Path(tempfile.mkdtemp()) / "out.png")
        >>> write_result(images.Picture(torch.zeros(3, 16, 16)), target)
        >>> images.read(target).pixels.amax().item()
        0.0
    """
    from .. import images

    images.write(picture, sys.stdout.buffer if target == "-" else target)
