"""Opening, masking and writing the pictures of a command, with notes for the user."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

    from ..images import Picture


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
        ['16 bits per channel reduced to 8: JPEG holds no more']
    """
    from .. import images

    format = "PNG" if target == "-" else images.format_of(target)
    return open_picture(
        sys.stdin.buffer if source == "-" else source,
        max_size,
        lambda picture: images.conversion_notes(picture, format),
    )


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


def fit_masks(masks: Tensor, picture: Picture) -> tuple[Tensor, list[str]]:
    """Bring masks to the size of their picture.

    Args:
        masks: (R, H, W).
        picture: the picture they belong to, of H' x W' pixels.

    Returns:
        The masks (R, H', W'), and a note if their size has changed.

    Examples:
        >>> import torch
        >>> from fastfcs.cli.pictures import fit_masks
        >>> from fastfcs.images import Picture
        >>> masks, notes = fit_masks(torch.ones(2, 8, 8), Picture(torch.rand(3, 16, 24)))
        >>> masks.shape, notes
        (torch.Size([2, 16, 24]), ['its mask was resized to 24 x 16'])
    """
    from ..regions import resize

    width, height = picture.size
    notes = [f"its mask was resized to {width} x {height}"]
    return resize(masks, (height, width)), [] if masks.shape[1:] == (height, width) else notes


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
