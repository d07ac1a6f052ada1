"""EXIF, XMP, IPTC and resolution: how they are found in a file and which of them a result keeps.

`separate` cuts them out of a file before Pillow sees it. Pillow therefore cannot fail on them, and
the values are copied byte for byte, whatever their encoding, instead of decoded and encoded again.
Nothing in them is trusted: a value that cannot be read is dropped and reported, never the picture.
"""

from __future__ import annotations

import math
import re
import struct
import zlib
from dataclasses import dataclass, field, replace
from fractions import Fraction
from io import BytesIO
from typing import NamedTuple, TypeAlias, Union

from PIL import Image, ImageOps

Field: TypeAlias = tuple[int, bytes]
"""The type of a TIFF tag, and its values as they lie in the file."""

Directory: TypeAlias = dict[int, Union[Field, "Directory"]]
"""The tags of a TIFF directory; the value may be another directory."""

BYTE, SHORT, LONG, RATIONAL, UNDEFINED = 1, 3, 4, 5, 7  # types
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_NUMBERS = {1: "B", 3: "H", 4: "I", 5: "II", 6: "b", 8: "h", 9: "i", 10: "ii", 11: "f", 12: "d"}

# Of TIFF 6.0; the same in the other byte order, which Pillow accepts, too; raw files of Panasonic
# and Olympus, which are TIFFs otherwise.
_VERSIONS = 42, 42 << 8, 0x55, 0x4F52, 0x5352

_ORIENTATION, _RESOLUTION, _UNIT = 274, (282, 283), 296
_XMP, _IPTC, _PHOTOSHOP = 700, 33723, 34377
_EXIF, _GPS, _INTEROPERABILITY = 0x8769, 0x8825, 0xA005
_SUBDIRECTORIES = {0: (_EXIF, _GPS), _EXIF: (_INTEROPERABILITY,)}

# The first directory also describes the layout of the old file; these tags do not: titles, camera,
# software, date, author, computer, rating, copyright and the same as Windows stores them.
_FIRST = {
    *(269, 270, 271, 272, 285, 305, 306, 315, 316, 0x4746, 0x4749, 33432),
    *range(0x9C9B, 0x9CA0),
    *(_ORIENTATION, *_RESOLUTION, _UNIT),
}
# These describe the old file or refer to it: the camera's notes by offsets, areas by pixels.
_UNTRUE: dict[int, set[int]] = {
    _EXIF: {0x9101, 0x9102, 0x9214, 0x927C, 0xA002, 0xA003, 0xA214, 0xEA1C},
    _GPS: set(),
    _INTEROPERABILITY: {0x1001, 0x1002},
}

_INFLATED = 1 << 26  # bytes; a compressed chunk that holds more is not metadata
_SEGMENT = 65533  # bytes in a segment of JPEG
_JPEG_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_JPEG_EXTENDED_XMP = b"http://ns.adobe.com/xmp/extension/\0"
_JPEG_IPTC = b"Photoshop 3.0\0"
_PNG_XMP = b"XML:com.adobe.xmp"
_PNG_CUT = {b"eXIf", b"iCCP", b"iTXt", b"pHYs", b"tEXt", b"zTXt"}
_WEBP_EXIF, _WEBP_XMP = 0x08, 0x04  # flags
_XMP_ORIENTATION = re.compile(
    rb"""(\btiff:Orientation\s*=\s*["']|<tiff:Orientation(?:\s[^<>]*)?>)\s*(\d+)"""
)
_XMP_UNDEVELOPED = re.compile(rb"""(\bcrs:AlreadyApplied(?:\s*=\s*["']|>)\s*)False""")


@dataclass(frozen=True)
class Metadata:
    """Metadata that remain true of a restyled picture.

    Attributes:
        exif: an EXIF block that begins with "Exif", or None.
        xmp: an XMP packet in UTF-8, or None.
        iptc: an IPTC record, or None.
        dpi: pixels per inch, horizontally and vertically, or None.
        icc: the colour profile if it was cut out of the file too (PNG), or None.
        notes: sentences on unreadable metadata.

    Examples:
        >>> from fastfcs.images.metadata import Metadata
        >>> Metadata(dpi=(300, 300)).dpi
        (300, 300)
    """

    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    dpi: tuple[float, float] | None = None
    icc: bytes | None = None
    notes: tuple[str, ...] = ()


def separate(data: bytes) -> tuple[bytes, Metadata]:
    """Separate a file into its picture and its metadata.

    Args:
        data: the content of a file in any format.

    Returns:
        The file without metadata other than the orientation, and the metadata without the
        orientation.

    Examples:
        >>> from io import BytesIO
        >>> from PIL import Image
        >>> from fastfcs.images.metadata import separate
        >>> stream = BytesIO()
        >>> Image.new("RGB", (24, 16)).save(stream, "PNG", dpi=(300, 300))
        >>> picture, metadata = separate(stream.getvalue())
        >>> "dpi" in Image.open(BytesIO(picture)).info, round(metadata.dpi[0])
        (False, 300)
    """
    if data.startswith(b"\xff\xd8"):
        return _separate_jpeg(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _separate_png(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _separate_webp(data)
    if _Tiff.open(data):
        return _separate_tiff(data)
    if brands_of(data) & {b"avif", b"avis"}:
        return _separate_avif(data)
    parts = _Parts()
    if data.startswith(b"BM") and len(data) >= 46 and data[14] >= 40:
        parts.per_metre(*struct.unpack_from("<ii", data, 38))
    return data, parts.metadata()


def gather(*exif: bytes | None, xmp: bytes | None = None, iptc: bytes | None = None) -> Metadata:
    """Take over the metadata that a library has found in a file whose pixels it has turned upright.

    Args:
        exif: candidates for the EXIF block, of which the first that has tags counts.
        xmp: the XMP packet.
        iptc: the IPTC record.

    Returns:
        The metadata without the orientation.

    Examples:
        >>> from fastfcs.images.metadata import gather
        >>> gather(None, xmp=b"<x/>\\0\\0").xmp
        b'<x/>'
    """
    return _Parts(exif=[block or b"" for block in exif], xmp=xmp, iptc=iptc).metadata()


def raw_metadata(data: bytes) -> Metadata:
    """Find the metadata of a camera's raw file, whose pixels LibRaw turns upright.

    Args:
        data: the content of the file: a TIFF, a CR3, or another that contains a JPEG with EXIF.

    Returns:
        The metadata without the orientation, and without the resolution, which has no meaning
        before development. XMP says that its settings for developing the file are applied, lest a
        program applies them to the result.

    Examples:
        >>> from fastfcs.images.metadata import raw_metadata
        >>> raw_metadata(b"FUJIFILMCCD-RAW 0201").exif is None
        True
    """
    parts = _Parts()
    if brands_of(data) & {b"crx "}:
        parts.tags = _Tags()
        for name, box in ((0, b"CMT1"), (_EXIF, b"CMT2"), (_GPS, b"CMT4")):
            if tiff := _Tiff.open(data[data.find(box) + 4 :][:_SEGMENT]):
                parts.tags.add(tiff, name)
    elif tiff := _Tiff.open(data):
        _read_tiff(tiff, parts)
    elif (start := data.find(b"Exif\0\0")) >= 0:
        parts.exif.append(data[start : start + _SEGMENT])
    metadata = parts.metadata()
    xmp = metadata.xmp and _XMP_UNDEVELOPED.sub(rb"\g<1>True", metadata.xmp)
    return replace(metadata, xmp=xmp, dpi=None)


def brands_of(data: bytes) -> set[bytes]:
    """Return the brands of a file of ISO 14496-12, such as HEIC or AVIF.

    Args:
        data: the content of a file of any kind.

    Returns:
        The major brand and the compatible ones, of four bytes each; none for another kind.

    Examples:
        >>> from fastfcs.images.metadata import brands_of
        >>> sorted(brands_of(b"\\0\\0\\0\\x14ftypheic\\0\\0\\0\\0mif1"))
        [b'heic', b'mif1']
    """
    if data[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(data[:4], "big"), 256)
    return {data[8:12], *(data[k : k + 4] for k in range(16, end, 4))}


def turn_upright(image: Image.Image) -> Image.Image:
    """Apply the orientation of a PIL image, as `PIL.ImageOps.exif_transpose` does.

    Args:
        image: the PIL image. Its EXIF may be damaged.

    Returns:
        A copy that is upright, with the EXIF and XMP that remain true of it in its ``info``, byte
        for byte.

    Examples:
        >>> from PIL import Image
        >>> from fastfcs.images.metadata import turn_upright
        >>> image = Image.new("RGB", (24, 16))
        >>> image.getexif()[274] = 6
        >>> turn_upright(image).size
        (16, 24)
    """
    parts = _Parts(exif=[image.info.get("exif", b"")], xmp=image.info.get("xmp"))
    tags = _read_exif(*parts.exif)
    stored = tags.pop(_ORIENTATION)
    try:
        orientation = image.getexif().get(_ORIENTATION)  # may have been changed since
    except Exception:  # Pillow raises nearly any type on damaged EXIF
        orientation = stored
    bare = image.copy()
    named = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")
    bare.info = {key: value for key, value in image.info.items() if key not in named}
    bare.getexif()[_ORIENTATION] = orientation
    upright = ImageOps.exif_transpose(bare)
    blocks = {"exif": tags.pack(), "xmp": parts.metadata().xmp}
    upright.info |= {key: block for key, block in blocks.items() if block}
    return upright


def restrict(metadata: Metadata, format: str) -> Metadata:
    """Reduce metadata to those that a format can hold.

    Args:
        metadata: the metadata of a picture. Its EXIF may contain any tags.
        format: the format as Pillow names it.

    Returns:
        The metadata to be written, with a sentence in ``notes`` per loss. The EXIF block contains
        the resolution and no tag that would be untrue of the result.

    Examples:
        >>> from fastfcs.images.metadata import Metadata, restrict
        >>> restrict(Metadata(iptc=bytes(99)), "PNG").notes
        ('IPTC dropped: PNG has none',)
    """
    notes = []
    tags = _read_exif(metadata.exif or b"")
    for tag in (_ORIENTATION, *_RESOLUTION, _UNIT):
        tags.directory.pop(tag, None)
    dpi = metadata.dpi if metadata.dpi and all(map(_is_resolution, metadata.dpi)) else None
    if dpi:
        for tag, value in zip(_RESOLUTION, dpi, strict=True):
            ratio = Fraction(float(value)).limit_denominator(4000)  # both fit into 32 bits
            numbers = ratio.numerator, ratio.denominator
            tags.directory[tag] = RATIONAL, struct.pack(f"{tags.order}II", *numbers)
        tags.directory[_UNIT] = SHORT, struct.pack(f"{tags.order}H", 2)
    exif, xmp, iptc = tags.pack(), metadata.xmp, metadata.iptc
    if format == "JPEG":
        if dropped := tags.reduce(_SEGMENT):
            exif = tags.pack()
            tags_dropped = "1 EXIF tag" if dropped == 1 else f"{dropped} EXIF tags"
            notes.append(f"{tags_dropped} dropped: JPEG holds 64 KB of EXIF")
        if xmp and len(_JPEG_XMP) + len(xmp) > _SEGMENT:
            xmp = None
            notes.append("XMP dropped: JPEG holds 64 KB of XMP")
        if iptc and len(_iptc_segment(iptc)) > _SEGMENT:
            iptc = None
            notes.append("IPTC dropped: JPEG holds 64 KB of IPTC")
    elif iptc and format != "TIFF":
        iptc = None
        notes.append(f"IPTC dropped: {format} has none")
    return Metadata(exif, xmp, iptc, dpi, metadata.icc, tuple(notes))


def jpeg_segments(metadata: Metadata) -> bytes:
    """Pack XMP and IPTC for a JPEG.

    Args:
        metadata: the result of `restrict`.

    Returns:
        The application segments.

    Examples:
        >>> from fastfcs.images.metadata import Metadata, jpeg_segments
        >>> jpeg_segments(Metadata(xmp=b"<x/>"))[4:]
        b'http://ns.adobe.com/xap/1.0/\\x00<x/>'
    """
    segments = []
    if metadata.xmp:
        segments.append((0xE1, _JPEG_XMP + metadata.xmp))
    if metadata.iptc:
        segments.append((0xED, _iptc_segment(metadata.iptc)))
    return b"".join(_segment(marker, payload) for marker, payload in segments)


def png_text(metadata: Metadata) -> bytes | None:
    """Pack XMP for a PNG.

    Args:
        metadata: the result of `restrict`.

    Returns:
        The content of an iTXt chunk, uncompressed, or None if there is no XMP.

    Examples:
        >>> from fastfcs.images.metadata import Metadata, png_text
        >>> png_text(Metadata(xmp=b"<x/>"))
        b'XML:com.adobe.xmp\\x00\\x00\\x00\\x00\\x00<x/>'
    """
    return _PNG_XMP + bytes(5) + metadata.xmp if metadata.xmp else None


def tiff_directory(metadata: Metadata) -> tuple[str, Directory]:
    """Return the metadata as tags of a TIFF's first directory.

    Args:
        metadata: the result of `restrict`.

    Returns:
        The byte order of the tags, "<" or ">", and the tags.

    Examples:
        >>> from fastfcs.images.metadata import Metadata, tiff_directory
        >>> tiff_directory(Metadata(xmp=b"<x/>"))
        ('<', {700: (1, b'<x/>')})
    """
    tags = _read_exif(metadata.exif or b"")
    blocks = ((_XMP, BYTE, metadata.xmp), (_IPTC, UNDEFINED, metadata.iptc))
    tags.directory.update({tag: (kind, block) for tag, kind, block in blocks if block})
    return tags.order, tags.directory


def pack_directory(directory: Directory, order: str, offset: int) -> bytes:
    """Pack a directory of TIFF 6.0 with its values and the directories within it.

    Args:
        directory: the tags.
        order: "<" for little-endian or ">" for big-endian values.
        offset: position of the directory in the file, even, in bytes.

    Returns:
        The bytes from that position on, an even number.

    Examples:
        >>> from fastfcs.images.metadata import pack_directory
        >>> pack_directory({256: (3, b"\\x18\\0")}, "<", 8).hex(" ", 2)
        '0100 0001 0300 0100 0000 1800 0000 0000 0000'
    """
    start = offset + 2 + 12 * len(directory) + 4
    entries, values = bytearray(), bytearray()
    for tag, value in sorted(directory.items()):
        if isinstance(value, dict):
            kind, count = LONG, 1
            content = struct.pack(f"{order}I", start + len(values))
            values += pack_directory(value, order, start + len(values))
        else:
            kind, content = value
            count = len(content) // _SIZES[kind]
            if len(content) > 4:
                position = struct.pack(f"{order}I", start + len(values))
                values += content + bytes(len(content) % 2)
                content = position
        entries += struct.pack(f"{order}HHI", tag, kind, count) + content.ljust(4, b"\0")
    return bytes(struct.pack(f"{order}H", len(directory)) + entries + bytes(4) + values)


class _Entry(NamedTuple):
    tag: int
    kind: int
    length: int  # number of values
    inline: bytes  # the value, or its position


@dataclass
class _Tiff:
    """A TIFF structure, such as an EXIF block."""

    data: bytes
    order: str
    big: bool  # BigTIFF
    first: int  # position of the first directory

    @staticmethod
    def open(data: bytes) -> _Tiff | None:
        order = {b"II": "<", b"MM": ">"}.get(data[:2])
        if order is None or len(data) < 8:
            return None
        version, first = struct.unpack_from(f"{order}HI", data, 2)
        if version == 43 and len(data) >= 16:
            return _Tiff(data, order, True, struct.unpack_from(f"{order}Q", data, 8)[0])
        return _Tiff(data, order, False, first) if version in _VERSIONS else None

    @property
    def formats(self) -> tuple[struct.Struct, struct.Struct, struct.Struct]:
        """The layout of a directory's length, of an entry, and of a position."""
        formats = ("Q", "HHQ8s", "Q") if self.big else ("H", "HHI4s", "I")
        return (
            struct.Struct(self.order + formats[0]),
            struct.Struct(self.order + formats[1]),
            struct.Struct(self.order + formats[2]),
        )

    def entries(self, offset: int) -> tuple[list[_Entry], bool]:
        """The entries of a directory as far as the data go, and whether that is all of them."""
        length, entry, _ = self.formats
        start = offset + length.size
        if start > len(self.data):
            return [], False
        (count,) = length.unpack_from(self.data, offset)
        present = min(count, (len(self.data) - start) // entry.size, 0xFFFF)
        positions = range(start, start + present * entry.size, entry.size)
        entries = [_Entry(*entry.unpack_from(self.data, position)) for position in positions]
        return entries, present == count

    def value(self, entry: _Entry) -> bytes | None:
        size = _SIZES.get(entry.kind, 8 if self.big and entry.kind in (16, 17, 18) else 0)
        length = size * entry.length
        if length <= len(entry.inline):
            return entry.inline[:length] or None
        (offset,) = self.formats[2].unpack(entry.inline)
        return self.data[offset : offset + length] if offset + length <= len(self.data) else None


@dataclass
class _Tags:
    """The tags of an EXIF block that a result may keep."""

    order: str = "<"
    directory: Directory = field(default_factory=dict)
    unreadable: int = 0
    room: int = 0  # bytes; values that overlap could make a huge block of a small one

    def read(self, tiff: _Tiff) -> None:
        self.room = len(tiff.data)
        self.directory = self._read(tiff, 0, tiff.first)

    def add(self, tiff: _Tiff, name: int) -> None:
        """Add a directory that is a TIFF of its own."""
        self.order, self.room = tiff.order, len(tiff.data)
        inner = self._read(tiff, name, tiff.first)
        self.directory |= {name: inner} if name else inner

    def _read(self, tiff: _Tiff, name: int, offset: int) -> Directory:
        directory: Directory = {}
        entries, complete = tiff.entries(offset)
        self.unreadable += not complete
        for entry in entries:
            tag, pointer = entry.tag, entry.tag in _SUBDIRECTORIES.get(name, ())
            kept = tag in _FIRST if name == 0 else tag not in _UNTRUE[name]
            if tag in directory or not (kept or pointer) or entry.length == 0:
                continue
            value = tiff.value(entry) if entry.kind in _SIZES else None
            if value is None or len(value) > self.room:
                self.unreadable += 1
                continue
            self.room -= len(value)
            if not pointer:
                directory[tag] = entry.kind, value
            elif inner := self._read(tiff, tag, _position((entry.kind, value), self.order)):
                directory[tag] = inner
        return directory

    def pop(self, tag: int) -> float | None:
        """Remove a tag and return its number."""
        value = self.directory.pop(tag, None)
        return None if value is None or isinstance(value, dict) else _number(value, self.order)

    def pop_resolution(self) -> tuple[float, float] | None:
        """Remove the tags of the resolution and return it, in pixels per inch."""
        if _UNIT not in self.directory:
            self.directory[_UNIT] = SHORT, struct.pack(f"{self.order}H", 2)
        present = [tag for tag in _RESOLUTION if tag in self.directory]
        values = [self.pop(tag) for tag in present]
        unit = self.pop(_UNIT)
        if not values or unit == 1:  # 1: none, the values are a ratio
            return None
        inches = 1 if unit == 2 else 2.54 if unit == 3 else 0
        x, y = ((value or 0) * inches for value in (values[0], values[-1]))
        if _is_resolution(x) and _is_resolution(y):
            return x, y
        self.unreadable += 1
        return None

    def reduce(self, limit: int) -> int:
        """Remove the largest values until the block fits, and return how many."""
        excess = len(self.pack() or b"") - limit
        inner = [value for value in self.directory.values() if isinstance(value, dict)]
        sizes = [
            (12 + len(value[1]), tag, directory)
            for directory in (self.directory, *inner)
            for tag, value in directory.items()
            if not isinstance(value, dict)
        ]
        removed = 0
        for size, tag, directory in sorted(sizes, key=lambda place: -place[0]):
            if excess <= 0:
                break
            del directory[tag]
            excess -= size if size > 16 else 12
            removed += 1
        self.directory = {tag: value for tag, value in self.directory.items() if value}
        return removed

    def pack(self) -> bytes | None:
        """The EXIF block, or None if there are no tags."""
        if not self.directory:
            return None
        header = (b"II" if self.order == "<" else b"MM") + struct.pack(f"{self.order}HI", 42, 8)
        return b"Exif\0\0" + header + pack_directory(self.directory, self.order, 8)


def _number(value: Field, order: str) -> float | None:
    kind, content = value
    layout = struct.Struct(order + _NUMBERS.get(kind, "256x"))
    if kind not in _NUMBERS or len(content) < layout.size:
        return None
    number, denominator = (*layout.unpack_from(content), 1)[:2]
    return float(number / denominator) if denominator else None


def _position(value: Field, order: str) -> int:
    """The position that a pointer holds; one outside any file if it holds none."""
    number = _number((LONG if value[0] == 13 else value[0], value[1]), order)
    return int(number) if number is not None and 0 < number < 1 << 32 else 1 << 32


def _per_inch(per_metre: int) -> float:
    """Pixels per inch: the integer of which ``per_metre`` is the rounded value, if there is one."""
    inch = per_metre * 0.0254
    return round(inch) if round(round(inch) / 0.0254) == per_metre else inch


def _is_resolution(value: float) -> bool:
    return math.isfinite(value) and 0.1 <= value <= 1e6  # others are not meant


@dataclass
class _Parts:
    """The metadata found in a file, as they are there."""

    exif: list[bytes] = field(default_factory=list)  # candidates
    tags: _Tags | None = None  # the same, already read
    xmp: bytes | None = None
    iptc: bytes | None = None
    icc: bytes | None = None
    dpi: tuple[float, float] | None = None
    step: float = 0  # the rounding of dpi, in pixels per inch
    orientation: int = 1
    notes: list[str] = field(default_factory=list)

    def per_metre(self, x: int, y: int) -> None:
        self.dpi, self.step = (_per_inch(x), _per_inch(y)), 0.0254

    def metadata(self) -> Metadata:
        tags = self.tags or _read_exif(*self.exif)
        orientation = tags.pop(_ORIENTATION) if _ORIENTATION in tags.directory else None
        xmp = self._upright_xmp()
        if orientation is None:
            orientation = self.orientation  # of the XMP
        self.orientation = int(orientation) if orientation in range(1, 9) else 1
        exact = tags.pop_resolution()
        dpi = self.dpi if self.dpi and all(map(_is_resolution, self.dpi)) else None
        # The file's own field decides, but it is rounded; EXIF holds fractions.
        if exact and (
            dpi is None
            or all(abs(a - b) <= self.step / 2 + 1e-6 for a, b in zip(dpi, exact, strict=True))
        ):
            dpi = exact
        if tags.unreadable:
            plural = "s" if tags.unreadable > 1 else ""
            self.notes.append(f"{tags.unreadable} unreadable EXIF tag{plural} dropped")
        return Metadata(tags.pack(), xmp, self.iptc, dpi, self.icc, tuple(self.notes))

    def _upright_xmp(self) -> bytes | None:
        """The XMP for pixels that are upright; its orientation is kept for files without EXIF."""
        xmp = (self.xmp or b"").rstrip(b"\0")
        if not xmp:
            return None
        if b"\0" in xmp:
            self.notes.append("XMP dropped, as it is not in UTF-8")
            return None
        if match := _XMP_ORIENTATION.search(xmp):
            self.orientation = int(match[2][:9])
        return _XMP_ORIENTATION.sub(rb"\g<1>1", xmp)


def _read_exif(*blocks: bytes) -> _Tags:
    """The tags of the first block that has any."""
    tags = _Tags()
    for block in blocks:
        block = re.sub(rb"\A(Exif\0.)+", b"", block, flags=re.DOTALL)
        if tiff := _Tiff.open(block):
            tags = _Tags(tiff.order)
            tags.read(tiff)
        elif block.strip(b"\0"):
            tags = _Tags(unreadable=1)
        if tags.directory:
            break
    return tags


def _separate_jpeg(data: bytes) -> tuple[bytes, Metadata]:
    parts, rest, resources, position = _Parts(), [data[:2]], b"", 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        (length,) = struct.unpack_from(">H", data, position + 2)
        if marker in (0xD9, 0xDA) or length < 2:  # end of image; start of its data
            break
        end = position + 2 + length
        content = data[position + 4 : end]
        if marker == 0xE1:
            if content.startswith(_JPEG_XMP):
                parts.xmp = parts.xmp or content[len(_JPEG_XMP) :]
            elif content.startswith(_JPEG_EXTENDED_XMP):
                note = "the part of the XMP beyond 64 KB dropped"
                parts.notes += [note] * (note not in parts.notes)
            elif _Tiff.open(content.removeprefix(b"Exif\0\0")) or not parts.exif:
                parts.exif.append(content)
            else:  # the rest of a block that is too large for a segment
                parts.exif[-1] += content.removeprefix(b"Exif\0\0")
        elif marker == 0xED and content.startswith(_JPEG_IPTC):
            resources += content[len(_JPEG_IPTC) :]
        elif marker != 0xE2 or not content.startswith(b"MPF\0"):  # previews behind the picture
            rest.append(data[position:end])
            if marker == 0xE0 and content.startswith(b"JFIF\0") and len(content) >= 12:
                unit, x, y = struct.unpack_from(">BHH", content, 7)
                parts.step = {1: 1, 2: 2.54}.get(unit, 0)
                parts.dpi = (x * parts.step, y * parts.step) if parts.step else None
        position = end
    parts.iptc = _iptc(resources)
    metadata = parts.metadata()
    if parts.orientation != 1:
        rest.insert(1, _segment(0xE1, _orientation_block(parts.orientation)))
    return b"".join((*rest, data[position:])), metadata


def _separate_png(data: bytes) -> tuple[bytes, Metadata]:
    parts, rest, position = _Parts(), [data[:8]], 8
    raw: dict[bytes, bytes] = {}
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        content = data[position + 8 : end - 4] if kind in _PNG_CUT else b""
        name, _, value = content.partition(b"\0")
        if kind not in _PNG_CUT:
            rest.append(data[position:end])
        elif kind == b"eXIf":
            parts.exif.append(content)
        elif kind == b"pHYs":
            if len(content) == 9 and content[8] == 1:
                parts.per_metre(*struct.unpack(">II", content[:8]))
        elif kind == b"iCCP":
            parts.icc = _inflate(value[1:])
            if parts.icc is None:
                parts.notes.append("unreadable colour profile dropped")
        elif name == _PNG_XMP and kind == b"iTXt":
            text = value[2:].split(b"\0", 2)[-1]
            parts.xmp = _inflate(text) if value[:1] == b"\1" else text
        elif name.startswith(b"Raw profile type "):
            text = {b"tEXt": value, b"zTXt": value[1:]}.get(kind, value[2:].split(b"\0", 2)[-1])
            compressed = kind == b"zTXt" or (kind == b"iTXt" and value[:1] == b"\1")
            raw[name[17:].lower()] = (_inflate(text) if compressed else text) or b""
        position = end
    parts.exif += [_raw_profile(raw.get(name, b"")) for name in (b"exif", b"app1")]
    iptc = _raw_profile(raw.get(b"iptc", b""))
    parts.iptc = iptc if iptc.startswith(b"\x1c") else _iptc(iptc)
    parts.xmp = parts.xmp or _raw_profile(raw.get(b"xmp", b""))
    metadata = parts.metadata()
    if parts.orientation != 1:
        content = b"eXIf" + _orientation_block(parts.orientation)[6:]
        checksum = struct.pack(">I", zlib.crc32(content))
        rest.insert(2, struct.pack(">I", len(content) - 4) + content + checksum)
    return b"".join((*rest, data[position:])), metadata


def _separate_webp(data: bytes) -> tuple[bytes, Metadata]:
    parts, rest, position = _Parts(), [data[:12]], 12
    while position + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, position)
        end = position + 8 + length + length % 2
        content = data[position + 8 : position + 8 + length] if kind in (b"EXIF", b"XMP ") else b""
        if kind == b"EXIF":
            parts.exif.append(content)
        elif kind == b"XMP ":
            parts.xmp = parts.xmp or content
        else:
            rest.append(data[position:end])
        position = end
    metadata = parts.metadata()
    if len(rest) > 1 and rest[1].startswith(b"VP8X") and len(rest[1]) == 18:
        flags = rest[1][8] & ~(_WEBP_EXIF | _WEBP_XMP)
        if parts.orientation != 1:
            block = _orientation_block(parts.orientation)[6:]
            rest.append(b"EXIF" + struct.pack("<I", len(block)) + block)
            flags |= _WEBP_EXIF
        rest[1] = rest[1][:8] + bytes((flags,)) + rest[1][9:]
    joined = b"".join((*rest, data[position:]))
    size = struct.unpack_from("<I", data, 4)[0] + len(joined) - len(data)
    return joined[:4] + struct.pack("<I", max(size, 0)) + joined[8:], metadata


def _separate_avif(data: bytes) -> tuple[bytes, Metadata]:
    """Pillow encodes EXIF again when it opens such a file, so the block is looked up here."""
    Image.init()
    if "AVIF" not in Image.OPEN:  # needs Pillow 11.3
        return data, Metadata()
    # The entry of the EXIF block in the list of items, with the number of the item.
    exif = re.compile(rb"(infe(?:\x02...(..)|\x03...(....))..)Exif", re.DOTALL)
    match = exif.search(data)
    number = int.from_bytes(match[2] or match[3], "big") if match else -1
    rest = exif.sub(rb"\1skip", data)  # decoders ignore items of an unknown type
    info = Image.open(BytesIO(rest), formats=["AVIF"]).info
    parts = _Parts(exif=[_avif_item(data, number)], xmp=info.get("xmp"))
    return rest, parts.metadata()


def _avif_item(data: bytes, number: int) -> bytes:
    """The EXIF block in an item of ISO 14496-12, whose box "iloc" holds the items' positions."""
    position = data.find(b"iloc") + 4

    def take(size: int) -> int:
        nonlocal position
        position += size
        return int.from_bytes(data[position - size : position], "big")

    version, _, sizes = take(1), take(3), take(2)
    offset_size, length_size, base_size, index_size = (sizes >> k & 15 for k in (12, 8, 4, 0))
    wide = 4 if version == 2 else 2
    for _ in range(take(wide)):
        item, method = take(wide), take(2) & 15 if version else 0
        take(2)
        base, block = take(base_size), b""
        for _ in range(take(2)):
            take(index_size if version else 0)
            start, length = base + take(offset_size), take(length_size)
            block += data[start : start + length] if item == number else b""
        if item == number and method == 0:  # positions in the file
            return block[4 + int.from_bytes(block[:4], "big") :]
        if position > len(data):
            break
    return b""


def _separate_tiff(data: bytes) -> tuple[bytes, Metadata]:
    tiff = _Tiff.open(data)
    assert tiff is not None
    parts = _Parts()
    entries, complete = tiff.entries(tiff.first)
    if not complete:
        return data, parts.metadata()  # not a TIFF that anything reads
    cut = _FIRST | {_EXIF, _GPS, _XMP, _IPTC, _PHOTOSHOP}
    kept = [e for e in entries if e.tag not in cut and tiff.value(e) is not None]
    _read_tiff(tiff, parts)
    metadata = parts.metadata()
    length, layout, position = tiff.formats
    if parts.orientation != 1:
        inline = struct.pack(f"{tiff.order}H", parts.orientation).ljust(position.size, b"\0")
        kept.append(_Entry(_ORIENTATION, SHORT, 1, inline))
    following = tiff.first + length.size + layout.size * len(entries)
    directory = b"".join(
        (
            length.pack(len(kept)),
            *(layout.pack(*entry) for entry in sorted(kept)),
            data[following : following + position.size],  # position of the next directory
        )
    )
    start = len(data) + len(data) % 2
    if not tiff.big and start >= 1 << 32:
        return data, metadata
    where = 8 if tiff.big else 4
    parts_of_file = (
        data[:where],
        position.pack(start),
        data[where + position.size :],
        bytes(start - len(data)),
        directory,
    )
    return b"".join(parts_of_file), metadata


def _read_tiff(tiff: _Tiff, parts: _Parts) -> None:
    """Read the metadata in the first directory of a TIFF and in those it refers to."""
    blocks: dict[int, bytes] = {}
    for entry in tiff.entries(tiff.first)[0]:
        if entry.tag in (_XMP, _IPTC, _PHOTOSHOP):
            blocks.setdefault(entry.tag, tiff.value(entry) or b"")
    parts.xmp = blocks.get(_XMP)
    parts.iptc = blocks.get(_IPTC) or _iptc(blocks.get(_PHOTOSHOP, b""))
    parts.tags = _Tags(tiff.order)
    parts.tags.read(tiff)


def _orientation_block(orientation: int) -> bytes:
    block = _Tags("<", {_ORIENTATION: (SHORT, struct.pack("<H", orientation))}).pack()
    assert block is not None
    return block


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, 2 + len(content)) + content


def _iptc(resources: bytes) -> bytes | None:
    """The IPTC record among Photoshop's resources."""
    position = 0
    while resources[position : position + 4] == b"8BIM" and position + 12 <= len(resources):
        (number,) = struct.unpack_from(">H", resources, position + 4)
        position += 6 + (1 + resources[position + 6] + 1) // 2 * 2  # a name, of even length
        size = int.from_bytes(resources[position : position + 4], "big")
        content = resources[position + 4 : position + 4 + size]
        if number == 0x0404 and len(content) == size:
            return content or None
        position += 4 + size + size % 2
    return None


def _iptc_segment(iptc: bytes) -> bytes:
    """The content of a JPEG segment with one of Photoshop's resources."""
    resource = b"8BIM" + struct.pack(">HHI", 0x0404, 0, len(iptc))
    return _JPEG_IPTC + resource + iptc + bytes(len(iptc) % 2)


def _inflate(data: bytes) -> bytes | None:
    """The decompressed data, or None if they are damaged or too many."""
    inflater = zlib.decompressobj()
    try:
        inflated = inflater.decompress(data, _INFLATED)
    except zlib.error:
        return None
    return inflated if inflater.eof else None


def _raw_profile(text: bytes) -> bytes:
    """Metadata in hexadecimal digits after a name and a length, as ImageMagick writes them."""
    lines = text.strip().split(None, 2)
    try:
        return bytes.fromhex(lines[2].decode("ascii")) if len(lines) == 3 else b""
    except ValueError:
        return b""
