"""Folders of numbered pictures, which stand for a video."""

from __future__ import annotations

import re
from pathlib import Path

from ..images import SUFFIXES, PictureError, format_of
from .container import VideoError


def numbered(folder: Path) -> list[Path]:
    """List the frames in a folder.

    Args:
        folder: a folder of pictures whose names contain their numbers; other files are ignored.

    Returns:
        The pictures in the order of their numbers, with or without leading zeros.

    Raises:
        VideoError: the folder contains no pictures.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from fastfcs.video.folder import numbered
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("f10.png", "f9.png", "notes.txt"):
        ...     _ = (folder / name).write_bytes(b"")
        >>> [path.name for path in numbered(folder)]
        ['f9.png', 'f10.png']
    """
    paths = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES
        and not path.name.startswith(".")
        and re.search(r"\d", path.stem)
        and path.is_file()
    ]
    if not paths:
        raise VideoError(f"{folder} must contain numbered pictures, got none")
    return sorted(paths, key=_numbers)


def _numbers(path: Path) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts if part]


def output_of(path: Path) -> str:
    """Tell the name of a restyled frame.

    Args:
        path: the frame.

    Returns:
        Its name, with the suffix .png if its own format cannot be written.

    Examples:
        >>> from pathlib import Path
        >>> from fastfcs.video.folder import output_of
        >>> output_of(Path("in/0001.bmp")), output_of(Path("in/0001.jpg"))
        ('0001.png', '0001.jpg')
    """
    try:
        format_of(path)
    except PictureError:
        return path.with_suffix(".png").name
    return path.name
