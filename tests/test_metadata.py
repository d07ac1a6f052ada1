"""EXIF, XMP, IPTC, resolution and large profiles, between files that Pillow or these tests make."""

from __future__ import annotations

import io
import struct
import time
import warnings
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageCms, IptcImagePlugin, features

from fastfcs.images import Picture, conversion_notes, read, write
from fastfcs.images.metadata import Metadata, restrict, separate, turn_upright

SIDE = 16
PIXELS = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
FORMATS = ("JPEG", "PNG", "TIFF", "WEBP")
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1}
XMP = (
    b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:'
    b'meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
    b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" rdf:about="" %b><x>Jos\xc3\xa9</x>%b'
    b'</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)
PLAIN_XMP = XMP % (b"", b"")
IPTC = b"\x1c\x02\x00\x00\x02\x00\x04" + b"\x1c\x02\x69\x00\x05Title"  # version; headline


def file(format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, format, **options)
    return stream.getvalue()


def parse(data: bytes) -> Picture:
    return read(io.BytesIO(data))


def written(picture: Picture, format: str) -> bytes:
    stream = io.BytesIO()
    write(picture, stream, format)
    return stream.getvalue()


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


Tag = tuple[int, bytes]


def directory(tags: dict[int, Tag], order: str, offset: int) -> bytes:
    """A TIFF directory at an offset; the test's own writer."""
    start = offset + 6 + 12 * len(tags)
    entries, values = b"", b""
    for tag, (kind, value) in sorted(tags.items()):
        content = value.ljust(4, b"\0")
        if len(value) > 4:
            content = struct.pack(f"{order}I", start + len(values))
            values += value + bytes(len(value) % 2)
        entries += struct.pack(f"{order}HHI", tag, kind, len(value) // SIZES[kind]) + content
    return struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + values


def exif(
    tags: dict[int, Tag],
    camera: dict[int, Tag] | None = None,
    gps: dict[int, Tag] | None = None,
    order: str = "<",
) -> bytes:
    """An EXIF block whose subdirectories precede the first directory."""
    header = b"II*\0" if order == "<" else b"MM\0*"
    body = b""
    for pointer, inner in ((0x8769, camera), (0x8825, gps)):
        if inner is not None:
            tags = {**tags, pointer: (4, struct.pack(f"{order}I", 8 + len(body)))}
            body += directory(inner, order, 8 + len(body))
    first = 8 + len(body)
    return (
        b"Exif\0\0"
        + header
        + struct.pack(f"{order}I", first)
        + body
        + directory(tags, order, first)
    )


def number(value: int, kind: str = "H", order: str = "<") -> Tag:
    return {"H": 3, "I": 4}[kind], struct.pack(order + kind, value)


def rational(numerator: int, denominator: int = 1, order: str = "<") -> Tag:
    return 5, struct.pack(f"{order}II", numerator, denominator)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "shift-jis"])
def test_bytes_survive_in_any_encoding(format: str, encoding: str, order: str) -> None:
    text = "写真家" if encoding == "shift-jis" else "© 2024 José"
    owner = text.encode(encoding) + b"\0"
    comment = b"UNICODE\0" + "é".encode("utf-16-le" if order == "<" else "utf-16-be")
    block = exif(
        {
            33432: (2, owner),
            315: (2, owner),
            0x9C9B: (1, "é\0".encode("utf-16-le")),
            256: (2, b"x"),
        },
        {0x9286: (7, comment), 0xA432: (5, bytes(32)), 0x829A: (2, b"odd\0"), 0xA002: number(9)},
        {2: (5, struct.pack(f"{order}6I", 52, 1, 30, 1, 0, 0)), 29: (3, bytes(2))},
        order,
    )
    picture = parse(file("JPEG", exif=block))
    assert picture.notes == ()
    again = parse(written(picture, format))
    assert again.exif == picture.exif
    assert again.exif is not None
    assert 0xA002 not in opened(written(picture, format)).getexif().get_ifd(0x8769)
    tags = opened(written(picture, format)).getexif()
    for tag in (33432, 315):  # Pillow reads Latin-1
        assert tags[tag].encode("latin-1") == owner[:-1]
    assert tags[0x9C9B] == "é\0".encode("utf-16-le")
    camera, gps = tags.get_ifd(0x8769), tags.get_ifd(0x8825)
    assert camera[0x9286] == comment
    assert camera[0x829A] == "odd"
    assert [(v.numerator, v.denominator) for v in camera[0xA432]] == [(0, 0)] * 4
    assert [(v.numerator, v.denominator) for v in gps[2]] == [(52, 1), (30, 1), (0, 0)]
    assert 256 not in tags or tags[256] == SIDE
    if format == "TIFF":
        with tifffile.TiffFile(io.BytesIO(written(picture, format))) as tif:
            assert tif.byteorder == order
            np.testing.assert_array_equal(tif.asarray(), opened(written(picture, "PNG")))


def test_only_tags_that_stay_true_survive() -> None:
    kept = {tag: (2, b"kept\0") for tag in (270, 271, 272, 305, 306, 315, 316, 33432)}
    layout = {
        258: number(8),
        259: number(6),
        262: number(6),
        513: number(9),
        50341: (7, b"PrintIM"),
    }
    block = exif(
        {**kept, **layout, 0x4746: number(5)}, {0x927C: (7, b"maker"), 0x9003: (2, b"2024")}
    )
    found = parse(file("JPEG", exif=block)).exif
    image = Image.Exif()
    assert found is not None
    image.load(found)
    assert set(image) == {*kept, 0x4746, 0x8769}
    assert set(image.get_ifd(0x8769)) == {0x9003}


def test_interoperability_survives() -> None:
    inner = directory({1: (2, b"R03\0"), 0x1001: number(99)}, "<", 8)
    camera = directory({0xA005: number(8, "I"), 0xA001: number(65535)}, "<", 8 + len(inner))
    first = 8 + len(inner) + len(camera)
    pointer = directory({0x8769: number(8 + len(inner), "I")}, "<", first)
    block = b"Exif\0\0II*\0" + struct.pack("<I", first) + inner + camera + pointer
    tags = opened(written(parse(file("PNG", exif=block)), "JPEG")).getexif()
    assert tags.get_ifd(0x8769)[0xA001] == 65535
    assert tags.get_ifd(0xA005) == {1: "R03"}


VALID = exif(
    {
        270: (2, b"A description that is longer than four bytes\0"),
        271: (2, b"Maker\0"),
        282: rational(300),
        283: rational(300),
        296: number(2),
        315: (2, "José\0".encode()),
        0x4746: number(4),
    },
    {0x829A: rational(1, 125), 0x9286: (7, b"ASCII\0\0\0comment"), 0x9003: (2, b"2024:05:06\0")},
    {1: (2, b"N\0"), 2: (5, struct.pack("<6I", 52, 1, 30, 1, 0, 1))},
)


def mutations(count: int, seed: int) -> list[bytes]:
    """Damaged copies of VALID: flips, cuts, and numbers that lead nowhere or back."""
    rng = np.random.default_rng(seed)
    mutants = []
    for k in range(count):
        block = bytearray(VALID)
        if k % 4 == 0:
            for position in rng.integers(6, len(block), 1 + k % 8):
                block[position] ^= 1 << rng.integers(8)
        elif k % 4 == 1:
            del block[rng.integers(0, len(block)) :]
        elif k % 4 == 2:  # a 16-bit field: type, length of a directory
            position = 6 + 2 * rng.integers(0, (len(block) - 8) // 2)
            block[position : position + 2] = struct.pack("<H", rng.choice([0, 2, 5, 13, 65535]))
        else:  # a 32-bit field: count, position; 8 and the like make loops
            position = 6 + 2 * rng.integers(2, (len(block) - 10) // 2)
            value = rng.choice([0, 1, 8, len(block) - 8, 65535, 2**31, 2**32 - 1])
            block[position : position + 4] = struct.pack("<I", value)
        mutants.append(bytes(block))
    return mutants


def damaged_tiffs(count: int) -> list[bytes]:
    """TIFFs with damaged metadata and sound pixels."""
    whole = file("TIFF", exif=VALID)
    (first,) = struct.unpack_from("<I", whole, 4)
    (length,) = struct.unpack_from("<H", whole, first)
    places = []
    for position in range(first + 2, first + 2 + 12 * length, 12):
        tag, _, _, where = struct.unpack_from("<HHII", whole, position)
        if tag in (270, 271, 282, 283, 296, 315, 0x4746, 0x8769, 0x8825):
            places += range(position + 2, position + 12)
        if tag in (0x8769, 0x8825):
            (inner,) = struct.unpack_from("<H", whole, where)
            places += range(where, where + 2 + 12 * inner)
    assert len(places) > 120
    rng = np.random.default_rng(4)
    mutants = []
    for k in range(count):
        mutant = bytearray(whole)
        for place in rng.choice(places, 1 + k % 6):
            mutant[place] = rng.choice([0, 1, 8, 255, rng.integers(256)])
        mutants.append(bytes(mutant))
    return mutants


@pytest.mark.parametrize(
    ("format", "count"), [("JPEG", 170), ("PNG", 50), ("WEBP", 50), ("TIFF", 50)]
)
def test_damaged_exif_never_costs_the_picture(format: str, count: int) -> None:
    pixels = parse(file(format)).pixels
    files = (
        damaged_tiffs(count)
        if format == "TIFF"
        else [file(format, exif=block) for block in mutations(count, seed=count)]
    )
    noted = 0
    for k, data in enumerate(files):
        start = time.perf_counter()
        picture = parse(data)
        assert time.perf_counter() - start < 1
        assert torch.equal(picture.pixels, pixels)
        assert all("unreadable EXIF" in note for note in picture.notes)
        noted += bool(picture.notes)
        target = FORMATS[k % 4]
        result = written(picture, target)
        again = parse(result)
        assert again.exif == picture.exif
        assert again.notes == ()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of values whose type is not the usual one
            tags = opened(result).getexif()
            assert all(tags.get_ifd(pointer) is not None for pointer in (0x8769, 0x8825))
            assert list(tags.items()) is not None
    assert noted > count / 4


def turned(block: bytes, format: str = "JPEG") -> bool:
    """Whether a file with this EXIF is shown turned by orientation 6; nothing else is allowed."""
    upright, found = parse(file(format)).pixels, parse(file(format, exif=block)).pixels
    if torch.equal(found, torch.rot90(upright, -1, (1, 2))):
        return True
    assert torch.equal(found, upright)
    return False


@pytest.mark.parametrize("format", FORMATS[:2] + FORMATS[3:])
def test_orientation_is_read_from_odd_blocks(format: str) -> None:
    for order in "<>":
        six = {274: number(6, order=order)}
        assert turned(exif(six, order=order), format)
        assert turned(exif({**six, 282: (2, b"300\0")}, order=order), format)
        assert turned(exif({**six, 0x8769: number(1 << 20, "I", order)}, order=order), format)
        assert turned(exif(six, order=order)[:-4], format)  # no position of the next directory
        assert turned(exif({274: number(6, "I", order)}, order=order), format)
        assert not turned(exif({274: (2, b"6\0")}, order=order), format)
        assert not turned(exif({274: number(9, order=order)}, order=order), format)
    loop = exif({274: number(6), 0x8769: number(8, "I"), 0x8825: number(8, "I")})
    loop = loop[:-4] + struct.pack("<I", 8)  # the next directory is the first one again
    assert turned(loop, format)


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, 2 + len(content)) + content


def with_segments(*segments: bytes) -> bytes:
    plain = file("JPEG")
    return plain[:2] + b"".join(segments) + plain[2:]


def test_odd_exif_segments() -> None:
    six = exif({274: number(6), 315: (2, b"author\0")})
    upright = parse(file("JPEG")).pixels
    for segments in (
        [six[6:]],  # without "Exif"
        [b"Exif\0\0" + six],  # twice
        [b"Exif\0\0", six],  # an empty one first
        [b"Exif\0\0junk that is nothing", six],
        [six, exif({274: number(3)})],
        [six[:40], b"Exif\0\0" + six[40:]],  # one block in two segments
    ):
        picture = parse(with_segments(*(segment(0xE1, content) for content in segments)))
        assert torch.equal(picture.pixels, torch.rot90(upright, -1, (1, 2)))
        assert picture.exif is not None
        assert b"author" in picture.exif
        assert picture.notes == ()
    assert parse(with_segments(segment(0xE1, b"Exif\0\0"))).notes == ()
    junk = parse(with_segments(b"\xff\xff", segment(0xE1, b"Exif\0\0junk that is nothing")))
    assert junk.notes == ("1 unreadable EXIF tag dropped",)


def test_unreadable_tags_are_dropped_and_reported() -> None:
    ascii_resolution = {282: (2, b"300\0"), 283: (2, b"300\0"), 296: number(2)}
    picture = parse(file("JPEG", exif=exif({**ascii_resolution, 315: (2, b"author\0")})))
    assert picture.notes == ("1 unreadable EXIF tag dropped",)
    assert picture.dpi is None
    assert opened(written(picture, "TIFF")).getexif()[315] == "author"
    block = bytearray(exif({270: (2, b"description\0"), 315: (2, b"author\0")}))
    block[6 + 8 + 2 + 4 : 6 + 8 + 2 + 8] = b"\xff" * 4  # the length of the first tag
    picture = parse(file("PNG", exif=bytes(block)))
    assert picture.notes == ("1 unreadable EXIF tag dropped",)
    assert dict(opened(written(picture, "WEBP")).getexif()) == {315: "author"}


def test_values_that_overlap_do_not_grow() -> None:
    value = struct.pack("<II", 50000, 8)
    entries = b"".join(struct.pack("<HH", tag, 7) + value for tag in range(0xB000, 0xB000 + 4000))
    inner = struct.pack("<H", 4000) + entries
    block = b"Exif\0\0II*\0" + struct.pack("<I", 8 + len(inner)) + inner
    block += directory({0x8769: number(8, "I")}, "<", 8 + len(inner))
    start = time.perf_counter()
    picture = parse(file("JPEG", exif=block))
    assert len(picture.exif or b"") <= 2 * len(block)
    assert picture.notes == ("4000 unreadable EXIF tags dropped",)
    assert time.perf_counter() - start < 1


def test_too_large_for_jpeg() -> None:
    block = exif({270: (2, b"a" * 60000), 305: (2, b"b" * 9000), 315: (2, b"author\0")})
    long_xmp = XMP % (b"", b" " * 66000)
    picture = replace(parse(file("PNG", exif=block)), xmp=long_xmp, iptc=IPTC + bytes(70000))
    assert conversion_notes(picture, "JPEG") == [
        "1 EXIF tag dropped: JPEG holds 64 KB of EXIF",
        "XMP dropped: JPEG holds 64 KB of XMP",
        "IPTC dropped: JPEG holds 64 KB of IPTC",
    ]
    tags = opened(written(picture, "JPEG")).getexif()
    assert set(tags) == {305, 315}
    assert conversion_notes(picture, "TIFF") == []
    for format in ("PNG", "TIFF", "WEBP"):
        again = parse(written(picture, format))
        assert again.exif == picture.exif
        assert again.xmp == long_xmp
        assert opened(written(picture, format)).getexif()[270] == "a" * 60000


def test_largest_metadata_that_jpeg_holds() -> None:
    room = 65533 - len(exif({315: (2, b"")}))
    for size, notes in ((room // 2 * 2, 0), (room // 2 * 2 + 2, 1)):
        metadata = restrict(Metadata(exif({315: (2, b"a" * size)})), "JPEG")
        assert len(metadata.notes) == notes
    xmp = b"<" + b"x" * (65533 - 29 - 1)
    picture = Picture(torch.rand(3, 16, 16), xmp=xmp)
    assert conversion_notes(picture, "JPEG") == []
    assert opened(written(picture, "JPEG")).info["xmp"] == xmp
    assert len(conversion_notes(replace(picture, xmp=xmp + b"x"), "JPEG")) == 1


def jfif(unit: int, x: int, y: int) -> bytes:
    plain = bytearray(file("JPEG"))
    struct.pack_into(">BHH", plain, 2 + 4 + 7, unit, x, y)
    return bytes(plain)


def tiff(**options: object) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, PIXELS, photometric="rgb", **options)
    return stream.getvalue()


RESOLUTION = {282: rational(1200, 7), 283: rational(300), 296: number(2)}
CENTIMETRES = {282: rational(11811, 100), 283: rational(11811, 100), 296: number(3)}
SOURCES: dict[str, tuple[Callable[[], bytes], tuple[float, float] | None]] = {
    "JFIF, inches": (lambda: jfif(1, 300, 150), (300, 150)),
    "JFIF, centimetres": (lambda: jfif(2, 118, 118), (299.72, 299.72)),
    "JFIF, ratio": (lambda: jfif(0, 300, 300), None),
    "JPEG": (lambda: file("JPEG"), None),
    "JPEG, EXIF without resolution": (lambda: file("JPEG", exif=exif({315: (2, b"a\0")})), None),
    "JPEG, EXIF": (lambda: file("JPEG", exif=exif(RESOLUTION)), (1200 / 7, 300)),
    "JPEG, EXIF, cm": (lambda: file("JPEG", exif=exif(CENTIMETRES)), (300, 300)),
    "JPEG, JFIF before EXIF": (lambda: file("JPEG", dpi=(90, 90), exif=exif(RESOLUTION)), (90, 90)),
    "EXIF refines JFIF": (
        lambda: file("JPEG", dpi=(171, 300), exif=exif(RESOLUTION)),
        (1200 / 7, 300),
    ),
    "EXIF, denominator 0": (lambda: file("JPEG", exif=exif({282: rational(72, 0)})), None),
    "EXIF, ratio": (lambda: file("JPEG", exif=exif({**RESOLUTION, 296: number(1)})), None),
    "PNG": (lambda: file("PNG", dpi=(300, 72)), (300, 72)),
    "PNG, none": (lambda: file("PNG"), None),
    "BMP": (lambda: file("BMP", dpi=(300, 150)), (300, 150)),
    "BMP, none": (lambda: file("BMP", dpi=(0, 0)), None),
    "GIF": (lambda: file("GIF"), None),
    "TIFF": (lambda: tiff(resolution=(300, 150), resolutionunit=2), (300, 150)),
    "TIFF, cm": (lambda: tiff(resolution=(118.11, 118.11), resolutionunit=3), (300, 300)),
    "TIFF, none": (lambda: tiff(), None),
    "BigTIFF": (lambda: tiff(resolution=(300, 150), resolutionunit=2, bigtiff=True), (300, 150)),
    "WebP": (lambda: file("WEBP", exif=exif(RESOLUTION)), (1200 / 7, 300)),
    "WebP, none": (lambda: file("WEBP"), None),
}


@pytest.mark.parametrize("source", SOURCES)
def test_pixels_per_inch(source: str) -> None:
    data, want = SOURCES[source]
    picture = parse(data())
    assert picture.dpi == (want and pytest.approx(want, abs=0.01))
    for depth in (8, 16):
        for format in FORMATS:
            result = written(replace(picture, depth=depth), format)
            assert parse(result).dpi == (want and pytest.approx(want, abs=0.01))
            image = opened(result)
            tags = image.getexif()
            if want is None:
                assert 282 not in tags
                assert image.info.get("jfif_unit", 0) == 0
                assert "dpi" not in image.info or format in ("JPEG", "TIFF")  # Pillow's invention
                continue
            assert (tags[282], tags[283], tags[296]) == pytest.approx((*want, 2), abs=0.01)
            if format == "JPEG":
                assert image.info["jfif_density"] == tuple(map(round, want))
                assert image.info["jfif_unit"] == 1
            elif format != "WEBP":
                assert image.info["dpi"] == pytest.approx(want, abs=0.02)


def test_a_chain_of_formats_does_not_drift() -> None:
    picture = parse(tiff(resolution=(300, 300), resolutionunit=2))
    for format in ("PNG", "JPEG", "TIFF", "WEBP", "PNG", "TIFF"):
        picture = parse(written(picture, format))
    assert picture.dpi == (300, 300)
    for dpi in ((0, 0), (float("nan"), 72), (1e9, 1e9), (1e6, 1e6), (0.1, 0.1)):
        for format in FORMATS:
            again = parse(written(replace(picture, dpi=dpi), format)).dpi
            assert again == (pytest.approx(dpi) if dpi[0] in (1e6, 0.1) else None)


def png_chunks(data: bytes) -> dict[bytes, bytes]:
    chunks, position = {}, 8
    while position < len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        chunks[kind] = data[position + 8 : position + 8 + length]
        assert (
            zlib.crc32(kind + chunks[kind])
            == struct.unpack_from(">I", data, position + 8 + length)[0]
        )
        position += 12 + length
    return chunks


def with_chunk(kind: bytes, content: bytes) -> bytes:
    plain = file("PNG")
    chunk = struct.pack(">I", len(content)) + kind + content
    return plain[:33] + chunk + struct.pack(">I", zlib.crc32(kind + content)) + plain[33:]


def tiff_with(*extra: tuple[int, int, int, bytes, bool]) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, PIXELS, photometric="rgb", extratags=extra)
    return stream.getvalue()


def resources(iptc: bytes) -> bytes:
    """Photoshop's resources, with others around the record."""
    other = b"8BIM\x03\xed\x00\x00" + struct.pack(">I", 16) + bytes(16)
    named = b"8BIM\x04\x0b\x04name\x00" + struct.pack(">I", 3) + b"url\0"
    record = b"8BIM\x04\x04\x00\x00" + struct.pack(">I", len(iptc)) + iptc
    return other + named + record + bytes(len(iptc) % 2) + other


def raw_profile(name: bytes, content: bytes) -> bytes:
    text = b"\n%b\n%8d\n%b\n" % (name, len(content), content.hex().encode())
    return b"Raw profile type %b\0\0" % name + zlib.compress(text)


XMP_SOURCES: dict[str, Callable[[bytes], bytes]] = {
    "JPEG": lambda xmp: with_segments(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp)),
    "PNG": lambda xmp: with_chunk(b"iTXt", b"XML:com.adobe.xmp" + bytes(5) + xmp),
    "PNG, compressed": lambda xmp: with_chunk(
        b"iTXt", b"XML:com.adobe.xmp\0\1\0en\0Titel\0" + zlib.compress(xmp)
    ),
    "PNG, ImageMagick": lambda xmp: with_chunk(b"zTXt", raw_profile(b"xmp", xmp)),
    "TIFF": lambda xmp: tiff_with((700, 1, len(xmp), xmp, True)),
    "WebP": lambda xmp: file("WEBP", xmp=xmp),
}
IPTC_SOURCES: dict[str, Callable[[bytes], bytes]] = {
    "JPEG": lambda iptc: with_segments(segment(0xED, b"Photoshop 3.0\0" + resources(iptc))),
    "JPEG, two segments": lambda iptc: with_segments(
        *(
            segment(0xED, b"Photoshop 3.0\0" + part)
            for part in (resources(iptc)[:60], resources(iptc)[60:])
        )
    ),
    "TIFF": lambda iptc: tiff_with((33723, 7, len(iptc), iptc, True)),
    "TIFF, Photoshop": lambda iptc: tiff_with(
        (34377, 1, len(resources(iptc)), resources(iptc), True)
    ),
    "PNG, ImageMagick": lambda iptc: with_chunk(b"zTXt", raw_profile(b"iptc", resources(iptc))),
}


@pytest.mark.parametrize("source", XMP_SOURCES)
def test_xmp_survives(source: str) -> None:
    picture = parse(XMP_SOURCES[source](PLAIN_XMP))
    assert picture.xmp == PLAIN_XMP
    assert picture.notes == ()
    for depth in (8, 16):
        for format in FORMATS:
            result = written(replace(picture, depth=depth), format)
            assert opened(result).info["xmp"] == PLAIN_XMP
            assert parse(result).xmp == PLAIN_XMP
            if format == "PNG":
                assert png_chunks(result)[b"iTXt"] == b"XML:com.adobe.xmp" + bytes(5) + PLAIN_XMP


@pytest.mark.parametrize("source", IPTC_SOURCES)
def test_iptc_survives(source: str) -> None:
    picture = parse(IPTC_SOURCES[source](IPTC))
    assert picture.iptc == IPTC
    for format in ("JPEG", "TIFF"):
        result = written(picture, format)
        assert conversion_notes(picture, format) == []
        assert parse(result).iptc == IPTC
        if format == "TIFF":
            with tifffile.TiffFile(io.BytesIO(result)) as tif:
                assert tif.pages[0].tags[33723].value == IPTC
        else:
            image = opened(result)
            assert image.info["photoshop"] == {0x0404: IPTC}
            assert IptcImagePlugin.getiptcinfo(image)[2, 105] == b"Title"
    for format in ("PNG", "WEBP"):
        assert conversion_notes(picture, format) == [f"IPTC dropped: {format} has none"]
        assert parse(written(picture, format)).iptc is None


@pytest.mark.parametrize("source", XMP_SOURCES)
@pytest.mark.parametrize(
    ("attribute", "element"),
    [
        (b'tiff:Orientation="%d"', b""),
        (b"tiff:Orientation = '%d'", b""),
        (b"", b"<tiff:Orientation>%d</tiff:Orientation>"),
        (b"", b'<tiff:Orientation xml:lang="x">\n%d</tiff:Orientation>'),
    ],
)
def test_xmp_does_not_turn_a_picture_twice(source: str, attribute: bytes, element: bytes) -> None:
    def xmp(orientation: int) -> bytes:
        parts = (part % orientation if part else b"" for part in (attribute, element))
        return XMP % tuple(parts)

    data = XMP_SOURCES[source](xmp(6))
    picture = parse(data)  # as Pillow does for a file whose EXIF has no orientation
    upright = parse(XMP_SOURCES[source](PLAIN_XMP)).pixels
    assert torch.equal(picture.pixels, torch.rot90(upright, -1, (1, 2)))
    assert (picture.xmp or b"").replace(b"\n", b"") == xmp(1).replace(b"\n", b"")
    assert torch.equal(parse(written(picture, "PNG")).pixels, picture.pixels)
    if source == "JPEG":
        block = segment(0xE1, exif({274: number(1)}))
        decided = parse(data[:2] + block + data[2:])
        assert torch.equal(decided.pixels, upright)
        assert decided.xmp == picture.xmp


def test_odd_xmp_and_iptc_cost_nothing() -> None:
    extended = segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(40))
    adobe = b"http://ns.adobe.com/xap/1.0/\0"
    picture = parse(with_segments(segment(0xE1, adobe + PLAIN_XMP + b"\0"), extended, extended))
    assert picture.xmp == PLAIN_XMP
    assert picture.notes == ("the part of the XMP beyond 64 KB dropped",)
    wide = parse(with_segments(segment(0xE1, adobe + "<x>".encode("utf-16"))))
    assert (wide.xmp, wide.notes) == (None, ("XMP dropped, as it is not in UTF-8",))
    whole = resources(IPTC)
    for cut in range(len(whole)):
        found = parse(with_segments(segment(0xED, b"Photoshop 3.0\0" + whole[:cut]))).iptc
        assert found in (None, IPTC)
    for kind, content in (
        (b"iTXt", b"XML:com.adobe.xmp"),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(PLAIN_XMP)[:-9]),
        (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n 4\nzz")),
        (b"tEXt", b"Raw profile type iptc\0"),
        (b"eXIf", b""),
        (b"pHYs", b"\0"),
        (b"tEXt", b""),
    ):
        picture = parse(with_chunk(kind, content))
        assert (picture.exif, picture.xmp, picture.iptc, picture.dpi) == (None, None, None, None)
    damaged = bytearray(with_chunk(b"eXIf", VALID[6:]))
    damaged[45] ^= 1  # the checksum is wrong
    assert torch.equal(parse(bytes(damaged)).pixels, parse(file("PNG")).pixels)


def test_exif_of_imagemagick_in_png() -> None:
    block = exif({274: number(6), 315: (2, b"author\0")})
    picture = parse(with_chunk(b"zTXt", raw_profile(b"exif", block)))
    assert torch.equal(picture.pixels, torch.rot90(parse(file("PNG")).pixels, -1, (1, 2)))
    assert opened(written(picture, "PNG")).getexif()[315] == "author"


@pytest.mark.skipif(not features.check("avif"), reason="Pillow has no AVIF")
def test_avif() -> None:
    # Pillow encodes an EXIF block that has an orientation again, so this one is put in place of it.
    block = exif({**RESOLUTION, 274: number(3), 315: (2, "José\0".encode())})
    data = file("AVIF", exif=exif({274: number(6), 315: (2, b"x" * 99)}), xmp=PLAIN_XMP)
    start = data.index(b"II*\0")
    data = data[:start] + block[6:] + data[start + len(block) - 6 :]
    damaged = [b"junk", *(block[6 : 6 + k] for k in range(0, len(block) - 6, 9))]
    for junk in (None, *damaged):
        changed = bytearray(data)
        if junk is not None:
            changed[start : start + len(block) - 6] = junk.ljust(len(block) - 6, b"\xff")
        rest, metadata = separate(bytes(changed))
        assert opened(rest).getexif()[274] == 6  # the format's own
        assert metadata.xmp == PLAIN_XMP
        if junk in (None, b"junk"):
            assert bool(metadata.notes) == (junk is not None)
        if junk is None:
            assert "José".encode() in (metadata.exif or b"")
            assert metadata.dpi == pytest.approx((1200 / 7, 300))


def test_pil_images_are_turned_whatever_their_exif() -> None:
    upright = opened(file("JPEG"))
    for tags in ({}, {282: (2, b"300\0")}):
        block = exif({**tags, 274: number(6), 315: (2, "José\0".encode())})
        found = turn_upright(
            opened(file("JPEG", exif=block, xmp=XMP % (b'tiff:Orientation="6"', b"")))
        )
        np.testing.assert_array_equal(found, np.rot90(upright, -1))
        assert "José".encode() in found.info["exif"]
        assert 274 not in found.getexif()
        assert found.info["xmp"] == XMP % (b'tiff:Orientation="1"', b"")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for block in mutations(80, seed=5):
            if block[6:10] == b"II*\0":  # Pillow opens no JPEG whose EXIF begins otherwise
                found = turn_upright(opened(file("JPEG", exif=block)))
                np.testing.assert_array_equal(found, upright)


def test_the_previews_of_a_photograph_are_left_out() -> None:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(
        stream, "MPO", save_all=True, append_images=[Image.fromarray(PIXELS[::-1])], exif=VALID
    )
    assert Image.open(io.BytesIO(stream.getvalue())).n_frames == 2
    picture = parse(stream.getvalue())
    assert picture.format == "JPEG"
    assert torch.equal(picture.pixels, parse(file("JPEG")).pixels)
    assert picture.dpi == (300, 300)


def large_profile(size: int) -> bytes:
    """sRGB, with a private tag of incompressible bytes."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile += np.random.default_rng(0).bytes(size)
    struct.pack_into(">I", profile, 0, len(profile))
    return bytes(profile)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("format", FORMATS)
def test_large_profiles_and_xmp_can_be_read_again(format: str, depth: int) -> None:
    from PIL import PngImagePlugin

    limits = PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
    icc, xmp = large_profile(1_200_000), XMP % (b"", b"x" * 2_000_000)
    picture = Picture(
        torch.rand(3, 16, 16), icc=icc, xmp=xmp, exif=VALID, dpi=(300, 300), depth=depth
    )
    again = parse(written(picture, format))
    assert again.icc == icc
    assert again.xmp == (None if format == "JPEG" else xmp)
    assert again.dpi == (300, 300)
    assert again.exif is not None
    assert again.depth == (depth if format in ("PNG", "TIFF") else 8)
    assert limits == (PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY)


def test_both_encoders_of_png_write_the_same_chunks() -> None:
    icc = large_profile(100)
    picture = Picture(
        torch.rand(3, 16, 16), icc=icc, xmp=PLAIN_XMP, exif=VALID, dpi=(300, 200), depth=8
    )
    shallow, deep = (png_chunks(written(replace(picture, depth=d), "PNG")) for d in (8, 16))
    for kind in (b"eXIf", b"iTXt", b"pHYs"):
        assert shallow[kind] == deep[kind]
    profiles = [zlib.decompress(chunks[b"iCCP"][13:]) for chunks in (shallow, deep)]
    assert profiles == [icc, icc]


def test_a_damaged_profile_is_dropped_and_reported() -> None:
    picture = parse(with_chunk(b"iCCP", b"profile\0\0" + zlib.compress(large_profile(99))[:-50]))
    assert picture.icc is None
    assert picture.notes == ("unreadable colour profile dropped",)


def test_metadata_of_every_kind_together(tmp_path: Path) -> None:
    picture = Picture(
        torch.rand(3, 16, 24), exif=VALID, xmp=PLAIN_XMP, iptc=IPTC, dpi=(240, 240), icc=None
    )
    for suffix in ("jpg", "tif"):
        path = tmp_path / f"a.{suffix}"
        write(picture, path)
        again = read(path)
        assert (again.xmp, again.iptc, again.dpi) == (PLAIN_XMP, IPTC, (240, 240))
        tags = opened(path.read_bytes()).getexif()
        assert (tags[282], tags[315]) == (240, "JosÃ©")  # UTF-8 that Pillow takes for Latin-1
        picture = again
