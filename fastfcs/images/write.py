"""Writing pictures."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from ..files import atomic
from .encode import encode
from .picture import Picture, conversion_notes, format_of, picture_errors


def write(picture: Picture, target: str | Path | BinaryIO, format: str | None = None) -> None:
    """Write a picture with its colour profile, alpha and metadata.

    Args:
        picture: the picture. `conversion_notes` lists the losses of a format.
        target: a file, which is written atomically and replaces an existing one; or a binary
            stream.
        format: one of the values of `WRITABLE`; by default that of the file's suffix, and PNG for
            a stream.

    Raises:
        PictureError: the format is none of these, needs a package that is missing or cannot hold
            the picture's transparency, or the file cannot be written.

    Examples:
        >>> from fastfcs.images import Picture, write
        >>> from io import BytesIO
        >>> import torch
        >>> from fastfcs.images import read
        >>> stream = BytesIO()
        >>> write(Picture(torch.rand(3, 16, 24), depth=16), stream)
        >>> _ = stream.seek(0)
        >>> picture = read(stream)
        >>> picture.size, picture.depth
        ((24, 16), 16)
    """
    if format is None:
        format = format_of(target) if isinstance(target, (str, Path)) else "PNG"
    conversion_notes(picture, format)  # raises if the format cannot hold the picture
    if not isinstance(target, (str, Path)):
        target.write(encode(picture, format))
        return
    with picture_errors(str(target), "written"):
        data = encode(picture, format)
        with atomic(target) as partial:
            partial.write_bytes(data)
