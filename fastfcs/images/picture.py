"""A picture in memory, and which of its properties each file format can hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError, features
from torch import Tensor

from .colour import to_srgb
from .extra import PACKAGES, require
from .metadata import Metadata, restrict
from .samples import to_floats

READABLE = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP", "AVIF", "JPEG2000", "HEIF", "JXL", "RAW")
"""Formats that can be read, as Pillow and its plugins name them; "RAW" for a camera's raw files.

The last three need packages of the extra ``camera``."""

WRITABLE = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
    ".avif": "AVIF",
    ".heic": "HEIF",
    ".heif": "HEIF",
    ".hif": "HEIF",
    ".jxl": "JXL",
}
"""The format that each suffix of an output file stands for."""

RAW_SUFFIXES = {
    *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".gpr", ".iiq", ".kdc"),
    *(".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".rwl", ".sr2"),
    *(".srf", ".srw", ".x3f"),
}
"""Suffixes of cameras' raw files."""

SUFFIXES = {
    *WRITABLE,
    *RAW_SUFFIXES,
    *(".bmp", ".gif", ".jp2", ".j2k", ".jpx", ".j2c", ".jpf"),
}
"""Suffixes by which pictures in a folder are recognised; a file named explicitly may have any."""

HOLDS_ALPHA = {"PNG", "TIFF", "WEBP", "AVIF", "HEIF", "JXL"}
HOLDS_BITS = {"PNG": 16, "TIFF": 16, "JXL": 16, "HEIF": 10}  # others: 8
SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "PNG": {},
    "TIFF": {},
    "WEBP": {"quality": 95},
    "AVIF": {"quality": 90, "subsampling": "4:4:4"},
    "HEIF": {"quality": 65},  # 4:2:0, as phones write it: many programs read nothing else
    "JXL": {"quality": 95},
}


class PictureError(ValueError):
    """Raised if a picture cannot be read or written; the message is one sentence.

    Examples:
        >>> from fastfcs import images
        >>> images.read("gone.png")
        Traceback (most recent call last):
        fastfcs.images.picture.PictureError: gone.png cannot be read: No such file or directory
    """


@dataclass(frozen=True)
class Picture:
    """A picture in memory.

    Attributes:
        samples: (3, H, W) in the encoding of ``icc`` (sRGB if None): uint8 or uint16 as in a file,
            or float32 in [0, 1]. A grey picture has three equal channels.
        alpha: (H, W) float32 in [0, 1], or None if the picture has no transparency.
        icc: RGB colour profile, or None.
        exif: EXIF block, or None; writing drops its orientation and resolution.
        xmp: XMP packet, UTF-8, or None.
        iptc: IPTC record, or None.
        dpi: pixels per inch, horizontally and vertically, or None; each format stores them in a
            field of its own and in EXIF.
        grey: whether the file has no colour.
        depth: bits per channel of the file, 8 or 16.
        format: the file's format, one of `READABLE`.
        notes: sentences on what reading converted or dropped.

    Examples:
        >>> from fastfcs.images import Picture
        >>> import torch
        >>> Picture(torch.rand(3, 16, 24)).size
        (24, 16)
    """

    samples: Tensor
    alpha: Tensor | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    dpi: tuple[float, float] | None = None
    grey: bool = False
    depth: int = 8
    format: str = "PNG"
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, in pixels."""
        return self.samples.shape[2], self.samples.shape[1]

    @property
    def pixels(self) -> Tensor:
        """The samples as float32 in [0, 1], (3, H, W)."""
        return to_floats(self.samples)

    @property
    def srgb(self) -> Tensor:
        """The pixels converted to sRGB, (3, H, W), for comparison with those of other pictures."""
        return to_srgb(self.pixels, self.icc, self.depth)


def format_of(path: str | Path) -> str:
    """Infer the format of an output file from its suffix.

    Args:
        path: the file; it need not exist.

    Returns:
        One of the values of `WRITABLE`.

    Raises:
        PictureError: the suffix is not among `WRITABLE`, or a package for its format is missing.

    Examples:
        >>> from fastfcs.images import format_of
        >>> format_of("photo.JPG")
        'JPEG'
    """
    suffix = Path(path).suffix.lower()
    if suffix not in WRITABLE:
        raise PictureError(f"{path} must end in one of {', '.join(WRITABLE)}")
    with picture_errors(str(path), "written"):
        _check_writable(WRITABLE[suffix])
    return WRITABLE[suffix]


def conversion_notes(picture: Picture, format: str) -> list[str]:
    """Report what is lost by writing a picture in a format.

    Args:
        picture: the picture to be written.
        format: one of the values of `WRITABLE`.

    Returns:
        One sentence per loss.

    Raises:
        PictureError: the format is none of these, a package for it is missing, or the picture is
            transparent somewhere and the format has no alpha.

    Examples:
        >>> from fastfcs.images import Picture, conversion_notes
        >>> import torch
        >>> conversion_notes(Picture(torch.rand(3, 16, 24), depth=16), "JPEG")
        ['16 bits per channel reduced to 8: JPEG is written with no more']
    """
    _check_writable(format)
    notes = []
    if picture.alpha is not None and format not in HOLDS_ALPHA:
        if picture.alpha.min() < 1:
            raise PictureError(
                f"{format} cannot hold this picture's transparency; PNG, TIFF, WebP, AVIF, HEIC "
                "and JPEG XL can"
            )
        notes.append(f"opaque alpha channel dropped: {format} has none")
    bits = HOLDS_BITS.get(format, 8)
    if picture.depth > bits:
        notes.append(f"16 bits per channel reduced to {bits}: {format} is written with no more")
    return [*notes, *metadata_for(picture, format).notes]


def metadata_for(picture: Picture, format: str) -> Metadata:
    """Return the metadata of a picture that a format can hold.

    Args:
        picture: the picture.
        format: the format as Pillow names it.

    Returns:
        The metadata to be written, with a sentence in ``notes`` per loss.

    Examples:
        >>> from fastfcs.images.picture import Picture, metadata_for
        >>> import torch
        >>> metadata_for(Picture(torch.rand(3, 16, 24), xmp=b"<x/>"), "PNG").xmp
        b'<x/>'
    """
    return restrict(
        Metadata(picture.exif, picture.xmp, picture.iptc, picture.dpi, picture.icc), format
    )


@contextmanager
def picture_errors(name: str, verb: str = "read") -> Iterator[None]:
    """Raise all errors as a `PictureError`; Pillow raises nearly any type on a damaged file.

    Args:
        name: the file's name, for the message.
        verb: past participle of the attempt, for the message.

    Yields:
        Nothing; the block reads or writes the file.

    Raises:
        PictureError: the block raised anything.

    Examples:
        >>> from fastfcs.images.picture import picture_errors
        >>> with picture_errors("photo.jpg"):
        ...     raise SyntaxError("broken header.")
        Traceback (most recent call last):
        fastfcs.images.picture.PictureError: photo.jpg cannot be read: broken header
    """
    try:
        yield
    except Exception as error:
        raise PictureError(f"{name} cannot be {verb}: {_reason(error)}") from error


def _check_writable(format: str) -> None:
    if format not in SAVE_OPTIONS:
        raise PictureError(f"format must be one of {', '.join(SAVE_OPTIONS)}, got {format!r}")
    if format == "AVIF" and not features.check("avif"):
        raise PictureError("AVIF needs Pillow 11.3 or newer")
    if format in PACKAGES:
        try:
            require(format)
        except ImportError as error:
            raise PictureError(str(error)) from error


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return (
            "not a JPEG, PNG, TIFF, WebP, AVIF, HEIC, JPEG XL, JPEG 2000, BMP, GIF or raw picture"
        )
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6} megapixels, the limit"
    if isinstance(error, MemoryError):
        return "not enough memory"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).splitlines()[0].rstrip(".")
