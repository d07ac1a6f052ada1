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
    """The console for messages: standard error, where paths are neither wrapped nor coloured."""
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
        more_notes: notes on the picture before it is reduced.

    Returns:
        The picture, and notes for the user: what was converted, dropped or reduced.

    Raises:
        PictureError: the picture cannot be read.
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
    """
    from .. import images

    format = "PNG" if target == "-" else images.format_of(target)
    return open_picture(
        sys.stdin.buffer if source == "-" else source,
        max_size,
        lambda picture: images.conversion_notes(picture, format),
    )


def open_style(path: str, max_size: int | None = None) -> tuple[Picture, list[str]]:
    """Read a style picture, as `open_picture` does; the notes include what is ignored of it."""
    from .. import images

    return open_picture(path, max_size, images.style_notes)


def reduction_notes(picture: Picture, max_size: int | None) -> list[str]:
    """Report that a picture is reduced to a longer side of ``max_size`` pixels, if it is."""
    if max_size is None or max(picture.size) <= max_size:
        return []
    width, height = picture.size
    return [f"reduced from {width} x {height} to a longer side of {max_size} pixels"]


def fit_masks(masks: Tensor, picture: Picture) -> tuple[Tensor, list[str]]:
    """Bring masks (R, H, W) to the size of their picture, with a note if that changes them."""
    from ..regions import resize

    width, height = picture.size
    notes = [f"its mask was resized to {width} x {height}"]
    return resize(masks, (height, width)), [] if masks.shape[1:] == (height, width) else notes


def write_result(picture: Picture, pixels: Tensor, target: str) -> None:
    """Write restyled pixels (3, H, W) with the metadata of their picture; - is standard output."""
    from dataclasses import replace

    from .. import images

    destination = sys.stdout.buffer if target == "-" else target
    images.write(replace(picture, pixels=pixels), destination)
