"""Writing pictures."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from ..files import atomic
from .encode import encode
from .picture import Picture, conversion_notes, format_of, picture_errors


def write(picture: Picture, target: str | Path | BinaryIO, format: str | None = None) -> None:
    """Write a picture, its profile, alpha and EXIF.

    Args:
        target: a path, written under another name beside it and then renamed, so that it is whole
            or not there at all (an old file is replaced); or a binary stream.
        format: "JPEG", "PNG", "TIFF" or "WEBP"; by default that of the path's suffix.

    Raises:
        PictureError: a format that is none of these or cannot hold the picture's alpha (`conversion_notes`
            says what else is given up); a place that cannot be written.
    """
    if format is None:
        format = format_of(target) if isinstance(target, (str, Path)) else "PNG"
    conversion_notes(picture, format)
    if not isinstance(target, (str, Path)):
        target.write(encode(picture, format))
        return
    with picture_errors(str(target), "written"):
        data = encode(picture, format)
        with atomic(target) as partial:
            partial.write_bytes(data)
