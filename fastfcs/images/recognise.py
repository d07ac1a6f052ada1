"""Files recognised by their content: those that are no pictures for Pillow, or not as it sees them.

Pillow takes a camera's raw file, if it is a TIFF, for the thumbnail that comes first in it.
Suffixes do not count: people rename files, and streams have none.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from io import BytesIO

from PIL import TiffImagePlugin, features

from .metadata import brands_of
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
    "IIQ": (8, (b"IIIITwaR", b"IIIICwaR", b"MMMMRawT", b"MMMMRawC")),
}
_HEIF_BRANDS = {
    *(b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
}
_JXL = b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"  # the bare codestream; in a container

_SUBFILE_TYPE, _BITS, _PHOTOMETRIC, _MAKER, _SUB_DIRECTORIES = 254, 258, 262, 271, 330
_EXTENTS = (273, 279), (324, 325)  # positions and lengths of strips, of tiles
_SAMPLE_FORMAT, _DNG_VERSION = 339, 50706
_REDUCED = 1  # bit of the subfile type
_FLOATING = 3  # sample format
_SENSOR = (32803, 34892)  # photometric interpretations: colour filter array, linear raw


def recognise(data: bytes) -> str | None:
    """Tell which package must read a file.

    Args:
        data: the content of the file.

    Returns:
        "HEIF", "JXL", or the kind of a camera's raw file: "CR2", "DNG" ..., or the camera's maker
        where no signature tells. None if Pillow reads the file, or nothing does.

    Raises:
        PictureError: it is an AVIF picture that Pillow cannot decode, or a TIFF with floating-point
            samples.

    Examples:
        >>> from fastfcs.images.recognise import recognise
        >>> recognise(b"FUJIFILMCCD-RAW 0201"), recognise(b"\\x89PNG\\r\\n")
        ('RAF', None)
    """
    for kind, (start, signature) in _RAW.items():
        if data.startswith(signature, start):
            return kind
    if data.startswith(_JXL):
        return "JXL"
    brands = brands_of(data)
    if brands & {b"avif", b"avis"}:
        if not features.check("avif"):
            raise PictureError("an AVIF picture, which this version of Pillow cannot decode")
    elif brands & _HEIF_BRANDS:
        return "HEIF"
    if data[:4] in TiffImagePlugin.PREFIXES and len(data) >= 16:
        return _raw_tiff(data)
    return None


def is_cut(data: bytes) -> bool:
    """Tell whether a TIFF ends before its pixels do, which LibRaw replaces by others.

    Args:
        data: the content of a file.

    Returns:
        Whether strips or tiles of any of its directories lie beyond its end.

    Examples:
        >>> from io import BytesIO
        >>> from PIL import Image
        >>> from fastfcs.images.recognise import is_cut
        >>> stream = BytesIO()
        >>> Image.new("RGB", (24, 16)).save(stream, "TIFF", strip_size=16 * 24 * 3)
        >>> is_cut(stream.getvalue()), is_cut(stream.getvalue()[:-1])
        (False, True)
    """
    if data[:4] not in TiffImagePlugin.PREFIXES or len(data) < 16:
        return False
    starts: list[int | None] = [None]
    seen: set[int | None] = {0}
    while starts:
        start = starts.pop()
        if start in seen:
            continue
        seen.add(start)
        tags = _directory(data, start)
        for positions, lengths in _EXTENTS:
            pairs = zip(_numbers(tags, positions), _numbers(tags, lengths), strict=False)
            if any(position + length > len(data) for position, length in pairs):
                return True
        starts += [tags.next, *_numbers(tags, _SUB_DIRECTORIES)]
    return False


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


def code_points(data: bytes) -> tuple[int, int] | None:
    """Return the code points (ITU-T H.273) that an AVIF file gives for its colours.

    Args:
        data: the content of a file of any kind.

    Returns:
        Those of the primaries and of the transfer characteristics, or None.

    Examples:
        >>> from fastfcs.images.recognise import code_points
        >>> code_points(b"\\0\\0\\0\\x10ftypavif" + bytes(20) + b"colrnclx\\0\\x0c\\0\\x0d\\0\\x06")
        (12, 13)
    """
    start = data.find(b"colrnclx") + 8
    if b"avif" not in brands_of(data) or not 8 <= start <= len(data) - 4:
        return None
    primaries, transfer = struct.unpack_from(">HH", data, start)
    return primaries, transfer


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


def _raw_tiff(data: bytes) -> str | None:
    """The kind of a raw file that is a TIFF, or None if it is no raw file."""
    first = _directory(data)
    if _DNG_VERSION in first:
        return "DNG"
    inner = _numbers(first, _SUB_DIRECTORIES)
    directories = [first, *(_directory(data, start) for start in inner)]
    has_thumbnail = inner and first.get(_SUBFILE_TYPE, 0) & _REDUCED
    if has_thumbnail or any(tags.get(_PHOTOMETRIC) in _SENSOR for tags in directories):
        return str(first.get(_MAKER, "")).strip("\0 ") or "TIFF"
    if _FLOATING in first.get(_SAMPLE_FORMAT, ()):
        bits = max(first.get(_BITS, (1,)))
        raise PictureError(
            f"a TIFF with {bits}-bit floating-point samples; save it with 8 or 16 bits"
        )
    return None


def _numbers(tags: TiffImagePlugin.ImageFileDirectory_v2, tag: int) -> tuple[int, ...]:
    values = tags.get(tag, ())
    return values if isinstance(values, tuple) else (values,)


def _directory(data: bytes, start: int | None = None) -> TiffImagePlugin.ImageFileDirectory_v2:
    """The tags of a directory of a TIFF, by default of the first; empty if it is damaged."""
    tags = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if data[2] == 43 else 8])  # 43: BigTIFF
    stream = BytesIO(data)
    stream.seek(tags.next if start is None else start)
    with suppress(OSError, struct.error):  # Pillow reports it
        tags.load(stream)
    return tags
