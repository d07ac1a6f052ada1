"""Messages, and the pictures that a command reads from and writes to files or streams."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

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


def open_content(
    source: str, target: str, max_size: int | None = None
) -> tuple[Picture, list[str]]:
    """Read the picture to restyle, as `fastfcs.restyling.open_content` does.

    Args:
        source: a file, or - for standard input.
        target: the output, a file or - for standard output (PNG).
        max_size: longer side, in pixels, to which a larger picture is reduced.

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
    from .. import images, restyling

    format = "PNG" if target == "-" else images.format_of(target)
    stream = sys.stdin.buffer if source == "-" else source
    return restyling.open_content(stream, format, max_size)


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
