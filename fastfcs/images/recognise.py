"""Files recognised by their content: those that are no pictures for Pillow, or not as it sees them.

Pillow takes a camera's raw file, if it is a TIFF, for the thumbnail that comes first in it.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from io import BytesIO

from PIL import TiffImagePlugin, features

from .picture import PictureError

# Signatures of raw files that are no TIFFs with Pillow's, as (position, bytes).
_RAW: dict[str, tuple[int, bytes | tuple[bytes, ...]]] = {
    "CR2": (8, b"CR\x02"),
    "CR3": (4, b"ftypcrx "),
    "RAF": (0, b"FUJIFILMCCD-RAW"),
    "RW2": (0, b"IIU\0"),
    "ORF": (0, (b"IIRO", b"IIRS", b"MMOR")),
    "MRW": (0, b"\0MRM"),
    "X3F": (0, b"FOVb"),
    "CRW": (6, b"HEAPCCDR"),
}
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

_SUBFILE_TYPE, _BITS, _PHOTOMETRIC, _MAKER, _SUB_DIRECTORIES = 254, 258, 262, 271, 330
_SAMPLE_FORMAT, _DNG_VERSION = 339, 50706
_REDUCED = 1  # bit of the subfile type
_FLOATING = 3  # sample format
_SENSOR = (32803, 34892)  # photometric interpretations: colour filter array, linear raw


def check_content(data: bytes) -> None:
    """Check that a file is neither a camera's raw file nor of another known kind out of reach.

    Args:
        data: the content of the file.

    Raises:
        PictureError: it is a raw file, a HEIC picture, an AVIF picture that Pillow cannot decode,
            or a TIFF with floating-point samples.

    Examples:
        >>> from fastfcs.images.recognise import check_content
        >>> check_content(b"FUJIFILMCCD-RAW 0201")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        fastfcs.images.picture.PictureError: a camera's raw file (RAF); develop it to TIFF or ...
    """
    for kind, (start, signature) in _RAW.items():
        if data.startswith(signature, start):
            raise _raw_file(kind)
    brands = data[8 : int.from_bytes(data[:4], "big")] if data[4:8] == b"ftyp" else b""
    if brands.startswith(_HEIC_BRANDS) and b"avif" not in brands:
        raise PictureError("a HEIC picture; save it as JPEG, PNG or TIFF first")
    if b"avif" in brands and not features.check("avif"):
        raise PictureError("an AVIF picture, which this version of Pillow cannot decode")
    if data[:4] in TiffImagePlugin.PREFIXES and len(data) >= 16:
        _check_tiff(data)


def embedded_profile(data: bytes) -> bytes | None:
    """Return the ICC profile of a JPEG 2000 file, which Pillow does not.

    Args:
        data: the content of a file of any kind.

    Returns:
        The profile, or None.

    Examples:
        >>> from fastfcs.images.recognise import embedded_profile
        >>> embedded_profile(b"") is None
        True
    """
    if data[4:8] != b"jP  ":
        return None
    header = data[: data.find(b"jp2c")]
    start = header.find(b"colr\x02")  # method 2: a restricted ICC profile follows
    if start < 4:
        return None
    return header[start + 7 : start - 4 + int.from_bytes(header[start - 4 : start], "big")]


def coded_bits(data: bytes) -> int:
    """Return the bits per channel of a JPEG 2000 or AVIF file; 8 for files of another kind.

    Args:
        data: the content of the file.

    Returns:
        The bits per channel, of the first channel.

    Examples:
        >>> from fastfcs.images.recognise import coded_bits
        >>> coded_bits(b"")
        8
    """
    if data[4:8] == b"jP  " or data.startswith(b"\xff\x4f\xff\x51"):
        start = data.find(b"\xff\x4f\xff\x51")  # codestream, image and tile size
        return (data[start + 42] & 0x7F) + 1 if 0 <= start < len(data) - 42 else 8
    start = data.find(b"av1C")
    if data[4:8] == b"ftyp" and 0 <= start < len(data) - 6:
        return {0x40: 10, 0x60: 12}.get(data[start + 6] & 0x60, 8)
    return 8


def _check_tiff(data: bytes) -> None:
    first = _directory(data)
    if _DNG_VERSION in first:
        raise _raw_file("DNG")
    inner = first.get(_SUB_DIRECTORIES, ())
    starts = inner if isinstance(inner, tuple) else (inner,)
    directories = [first, *(_directory(data, start) for start in starts)]
    has_thumbnail = inner and first.get(_SUBFILE_TYPE, 0) & _REDUCED
    if has_thumbnail or any(tags.get(_PHOTOMETRIC) in _SENSOR for tags in directories):
        raise _raw_file(str(first.get(_MAKER, "TIFF")).strip("\0 "))
    if _FLOATING in first.get(_SAMPLE_FORMAT, ()):
        bits = max(first.get(_BITS, (1,)))
        raise PictureError(
            f"a TIFF with {bits}-bit floating-point samples; save it with 8 or 16 bits"
        )


def _directory(data: bytes, start: int | None = None) -> TiffImagePlugin.ImageFileDirectory_v2:
    """The tags of a directory of a TIFF, by default of the first; empty if it is damaged."""
    tags = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if data[2] == 43 else 8])  # 43: BigTIFF
    stream = BytesIO(data)
    stream.seek(tags.next if start is None else start)
    with suppress(OSError, struct.error):  # Pillow reports it
        tags.load(stream)
    return tags


def _raw_file(kind: str) -> PictureError:
    return PictureError(f"a camera's raw file ({kind}); develop it to TIFF or JPEG first")
