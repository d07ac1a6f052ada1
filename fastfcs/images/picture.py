"""A picture in memory, and which formats hold what of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from torch import Tensor

READABLE = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP")
WRITABLE = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
}
SUFFIXES = {*WRITABLE, ".bmp", ".gif"}
"""Suffixes by which pictures are found in a folder; a file named by itself may have any."""

HOLDS_ALPHA = {"PNG", "TIFF", "WEBP"}
HOLDS_16_BITS = {"PNG", "TIFF"}
OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "PNG": {},
    "TIFF": {},
    "WEBP": {"quality": 95},
}


class PictureError(ValueError):
    """A picture that cannot be read or written; the message is one sentence that names the file."""


@dataclass(frozen=True)
class Picture:
    """A picture in memory.

    Attributes:
        pixels: (3, H, W) float32 in [0, 1], in the encoding of ``icc`` (sRGB if None); grey is
            three equal channels.
        alpha: (H, W) float32 in [0, 1], or None if the picture has no transparency.
        icc: RGB profile, or None.
        exif: tags, orientation removed, or None.
        dpi: pixels an inch, across and down, as JPEG and PNG say beside EXIF, or None.
        grey: whether the file held no colour.
        depth: bits a channel, 8 or 16.
        format: the file's, as Pillow names it ("JPEG", "PNG" ...).
        notes: sentences on what was changed or given up in reading.
    """

    pixels: Tensor
    alpha: Tensor | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None
    grey: bool = False
    depth: int = 8
    format: str = "PNG"
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.pixels.shape[2], self.pixels.shape[1]


def format_of(path: str | Path) -> str:
    """The format that a suffix stands for; raises PictureError if it cannot be written."""
    suffix = Path(path).suffix.lower()
    if suffix not in WRITABLE:
        raise PictureError(f"{path} must end in one of {', '.join(WRITABLE)}")
    return WRITABLE[suffix]


def conversion_notes(picture: Picture, format: str) -> list[str]:
    """Sentences on what is given up by writing the picture in a format.

    Raises:
        PictureError: the picture is transparent somewhere and the format cannot say so.
    """
    if format not in OPTIONS:
        raise PictureError(f"format must be one of {', '.join(OPTIONS)}, not {format!r}")
    found = []
    if picture.alpha is not None and format not in HOLDS_ALPHA:
        if picture.alpha.min() < 1:
            raise PictureError(
                f"{format} cannot hold this picture's transparency; PNG, TIFF and WebP can"
            )
        found.append(f"alpha channel, opaque everywhere, left out: {format} has none")
    if picture.depth == 16 and format not in HOLDS_16_BITS:
        found.append(f"16 bits a channel written as 8: {format} holds no more")
    return found


def style_notes(picture: Picture) -> list[str]:
    """Sentences on what a picture has that a style does without."""
    if picture.alpha is None or picture.alpha.min() == 1:
        return []
    return ["its transparency is ignored: a style is taken from all of its pixels"]


def list_images(folder: str | Path) -> list[Path]:
    """The pictures below a folder, sorted by path, as absolute paths.

    Raises:
        ValueError: not a folder, or no picture in it.
    """
    folder = Path(folder).resolve()
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not found:
        raise ValueError(f"content and style must be folders with pictures in them, not {folder}")
    return found


@contextmanager
def picture_errors(name: str, verb: str = "read") -> Iterator[None]:
    """Whatever Pillow raises, which on a damaged file is nearly anything, as a PictureError."""
    try:
        yield
    except PictureError as error:
        if str(error).startswith(name):
            raise
        raise PictureError(f"{name}: {error}") from error
    except UnidentifiedImageError as error:
        raise PictureError(f"{name} is not a JPEG, PNG, TIFF, WebP, BMP or GIF picture") from error
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise PictureError(f"{name} has more than {limit} megapixels, the limit") from error
    except MemoryError as error:
        raise PictureError(f"{name} cannot be {verb}: not enough memory") from error
    except Exception as error:
        raise PictureError(f"{name} cannot be {verb}: {reason(error)}") from error


def reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0].rstrip(".")
