"""Reading and writing files, against independent libraries: pypng, tifffile and Pillow."""

from __future__ import annotations

import io
import itertools
import struct
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import png
import pytest
import tifffile
import torch
from PIL import Image, ImageCms, features

from fastfcs import images
from fastfcs.images import Picture, PictureError, read, write
from fastfcs.images.recognise import coded_bits

W, H = 23, 17
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (H, W, 3), dtype=np.uint8)
RGBA = RNG.integers(0, 256, (H, W, 4), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (H, W, 3), dtype=np.uint16)
DEEP_ALPHA = RNG.integers(0, 65536, (H, W, 4), dtype=np.uint16)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def encoded(array: np.ndarray, format: str, **options: object) -> io.BytesIO:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, format, **options)
    stream.seek(0)
    return stream


def png_16(array: np.ndarray, interlace: bool = False, **options: object) -> io.BytesIO:
    channels = array.shape[2]
    writer = png.Writer(
        W,
        H,
        greyscale=channels < 3,
        alpha=channels in (2, 4),
        bitdepth=16,
        interlace=interlace,
        **options,
    )
    stream = io.BytesIO()
    writer.write(stream, array.reshape(H, -1).tolist())
    stream.seek(0)
    return stream


def samples(picture: Picture, depth: int) -> np.ndarray:
    """The picture's samples as in the file, alpha included."""
    planes = picture.pixels
    if picture.alpha is not None:
        planes = torch.cat([planes, picture.alpha[None]])
    scaled = planes.permute(1, 2, 0).numpy() * (2**depth - 1)
    assert np.abs(scaled - scaled.round()).max() < 0.01
    return scaled.round().astype(int)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP"])
def test_reads_8_bit_exactly(format: str) -> None:
    picture = read(encoded(RGB, format))
    assert picture.pixels.dtype == torch.float32
    assert picture.size == (W, H)
    assert (picture.depth, picture.grey, picture.alpha, picture.format) == (8, False, None, format)
    np.testing.assert_array_equal(samples(picture, 8), RGB)


@pytest.mark.parametrize("interlace", [False, True])
def test_reads_16_bit_png_at_full_depth(interlace: bool) -> None:
    for array in (DEEP, DEEP_ALPHA):
        picture = read(png_16(array, interlace))
        assert (picture.depth, picture.grey) == (16, False)
        np.testing.assert_array_equal(samples(picture, 16), array)


def test_reads_16_bit_grey() -> None:
    grey = read(png_16(DEEP[..., :1]))
    assert (grey.depth, grey.grey, grey.alpha) == (16, True, None)
    np.testing.assert_array_equal(samples(grey, 16), DEEP[..., [0, 0, 0]])
    with_alpha = read(png_16(DEEP[..., :2]))
    assert (with_alpha.depth, with_alpha.grey) == (16, True)
    np.testing.assert_array_equal(samples(with_alpha, 16), DEEP[..., [0, 0, 0, 1]])


def test_a_transparent_colour_of_16_bits_is_compared_in_16_bits() -> None:
    array = DEEP.copy()
    array[0, 0] = (1000, 2000, 3000)
    array[0, 1] = (1001, 2000, 3000)  # the same high bytes
    picture = read(png_16(array, transparent=(1000, 2000, 3000)))
    assert picture.alpha is not None
    assert picture.alpha[0, 0] == 0
    assert picture.alpha[0, 1] == 1
    assert picture.alpha.sum() == H * W - 1


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize(
    "layout", [{}, {"compression": "zlib", "predictor": True}, {"tile": (16, 16)}]
)
def test_reads_16_bit_tiff_at_full_depth(byteorder: str, layout: dict) -> None:
    for array, kind in ((DEEP, "rgb"), (DEEP_ALPHA, "rgb"), (DEEP[..., 0], "minisblack")):
        stream = io.BytesIO()
        extra = {"extrasamples": ["unassalpha"]} if array.shape[-1] == 4 else {}
        tifffile.imwrite(stream, array, byteorder=byteorder, photometric=kind, **layout, **extra)
        stream.seek(0)
        picture = read(stream)
        assert (picture.depth, picture.grey) == (16, kind == "minisblack")
        want = array if array.ndim == 3 else np.repeat(array[..., None], 3, -1)
        np.testing.assert_array_equal(samples(picture, 16), want)


@pytest.mark.parametrize(
    "options",
    [
        {"planarconfig": "separate"},
        {"photometric": "miniswhite"},
        {"extrasamples": ["assocalpha"]},
    ],
)
def test_unsupported_16_bit_tiff_raises(options: dict) -> None:
    array = np.moveaxis(DEEP, 2, 0) if "planarconfig" in options else DEEP_ALPHA
    array = array[..., 0] if "photometric" in options else array
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, **{"photometric": "rgb", **options})
    stream.seek(0)
    with pytest.raises(PictureError, match="in this layout is not supported"):
        read(stream)


@pytest.mark.parametrize("array", [RGB.astype(np.float32) / 255, RGB[..., 0].astype(np.int32)])
def test_32_bits_raise(array: np.ndarray) -> None:
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, photometric="rgb" if array.ndim == 3 else "minisblack")
    stream.seek(0)
    with pytest.raises(PictureError, match=r"32-bit floating-point samples|not supported"):
        read(stream)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
@pytest.mark.parametrize("array", [DEEP, DEEP_ALPHA], ids=["rgb", "rgba"])
def test_writes_16_bits_that_others_read(tmp_path: Path, format: str, array: np.ndarray) -> None:
    path = tmp_path / f"out.{format.lower()}"
    original = read(png_16(array))
    write(original, path)
    if format == "PNG":
        width, height, rows, info = png.Reader(bytes=path.read_bytes()).asDirect()
        assert (width, height, info["bitdepth"]) == (W, H, 16)
        found = np.array([list(row) for row in rows]).reshape(array.shape)
    else:
        found = tifffile.imread(path)
        assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "jpg"])
@pytest.mark.parametrize("depth", [8, 16])
def test_profile_and_exif_survive(tmp_path: Path, suffix: str, depth: int) -> None:
    exif = Image.Exif()
    exif[274], exif[271], exif[256] = (
        6,
        "Maker",
        9999,
    )  # orientation; camera; a width that is not ours
    exif.get_ifd(0x8769).update({0x829A: 0.125, 0xA002: 9999})  # exposure; the old width
    exif.get_ifd(0x8825).update({1: "N"})
    picture = replace(read(encoded(RGB, "JPEG", icc_profile=SRGB, exif=exif)), depth=depth)
    assert picture.size == (H, W)  # rotated
    path = tmp_path / f"out.{suffix}"
    write(picture, path)
    with Image.open(path) as out:
        assert out.size == (H, W)
        assert out.info["icc_profile"] == SRGB
        tags = out.getexif()
        assert tags[271] == "Maker"
        assert tags.get(274, 1) == 1
        assert tags.get(256, H) == H
        assert tags.get_ifd(0x8769)[0x829A] == 0.125
        assert 0xA002 not in tags.get_ifd(0x8769)
        assert tags.get_ifd(0x8825)[1] == "N"
    again = read(path)
    assert again.exif is not None
    assert again.icc == SRGB
    if suffix in ("png", "tif"):
        torch.testing.assert_close(again.pixels, picture.pixels, rtol=0, atol=1e-6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    turned = {
        1: RGB,
        2: RGB[:, ::-1],
        3: RGB[::-1, ::-1],
        4: RGB[::-1],
        5: RGB.transpose(1, 0, 2),
        6: np.rot90(RGB, -1),
        7: np.rot90(RGB.transpose(1, 0, 2), 2),
        8: np.rot90(RGB),
    }[orientation]
    for format in ("PNG", "TIFF"):
        picture = read(encoded(RGB, format, exif=exif))
        np.testing.assert_array_equal(samples(picture, 8), turned)


def test_orientation_is_applied_to_16_bits() -> None:
    stream = io.BytesIO()
    tifffile.imwrite(stream, DEEP, photometric="rgb", extratags=[(274, "H", 1, 6, True)])
    stream.seek(0)
    np.testing.assert_array_equal(samples(read(stream), 16), np.rot90(DEEP, -1))


def test_alpha_of_every_kind() -> None:
    rgba = read(encoded(RGBA, "PNG"))
    np.testing.assert_array_equal(samples(rgba, 8), RGBA)
    la = read(encoded(RGBA[..., :2], "PNG"))
    assert la.grey
    np.testing.assert_array_equal(samples(la, 8), RGBA[..., [0, 0, 0, 1]])

    palette = Image.new("P", (4, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.putdata([0, 1, 0, 1])
    stream = io.BytesIO()
    palette.save(stream, "PNG", transparency=1)
    stream.seek(0)
    picture = read(stream)
    assert picture.alpha is not None
    assert picture.alpha.tolist() == [[1, 0, 1, 0]]
    assert picture.pixels[:, 0, 0].tolist() == [1, 0, 0]


def test_one_bit_and_grey_become_three_equal_channels() -> None:
    for mode in ("1", "L"):
        stream = io.BytesIO()
        Image.fromarray(RGB[..., 0]).convert(mode).save(stream, "PNG")
        stream.seek(0)
        picture = read(stream)
        assert picture.grey
        assert (picture.pixels[0] == picture.pixels[2]).all()


def test_cmyk_needs_a_profile() -> None:
    stream = io.BytesIO()
    Image.new("CMYK", (W, H)).save(stream, "JPEG")
    stream.seek(0)
    with pytest.raises(PictureError, match="CMYK without an ICC profile"):
        read(stream)


def cmyk_profile() -> bytes:
    """An ICC profile of four black inks: L* = 100 (1 - C)(1 - M)(1 - Y)(1 - K), a* = b* = 0."""
    ramp = bytes(range(256))
    corners = (bytes((0 if any(c) else 255, 128, 128)) for c in itertools.product((0, 1), repeat=4))
    identity = b"".join(struct.pack(">i", 65536 * (k % 4 == 0)) for k in range(9))
    lut = (
        b"mft1"
        + bytes(4)
        + bytes((4, 3, 2, 0))
        + identity
        + 4 * ramp
        + b"".join(corners)
        + 3 * ramp
    )
    header = (
        struct.pack(">4sI4s4s4s", b"", 0x02400000, b"prtr", b"CMYK", b"Lab ") + bytes(12) + b"acsp"
    )
    header += bytes(28) + struct.pack(">3i", 63190, 65536, 54061)  # illuminant D50
    header += bytes(124 - len(header))
    body = header + struct.pack(">I4sII", 1, b"A2B0", 144, len(lut)) + lut
    return struct.pack(">I", 4 + len(body)) + body


def test_cmyk_with_a_profile_becomes_srgb() -> None:
    stream = io.BytesIO()
    inks = Image.new("CMYK", (W, H), (0, 0, 0, 0))
    inks.paste((0, 0, 0, 255), (0, 0, W, H // 2))
    inks.save(stream, "TIFF", icc_profile=cmyk_profile())
    stream.seek(0)
    picture = read(stream)
    assert "CMYK converted to sRGB" in picture.notes[0]
    assert picture.icc is not None
    assert picture.icc[16:20] == b"RGB "
    assert picture.pixels[:, 0].max() < 0.01
    assert picture.pixels[:, -1].min() > 0.99


@pytest.mark.parametrize("suffix", ["png", "tiff", "webp"])
def test_alpha_is_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    write(read(encoded(RGBA, "PNG")), path)
    found = np.asarray(Image.open(path).convert("RGBA"))
    np.testing.assert_array_equal(found[..., 3], RGBA[..., 3])
    if suffix != "webp":
        np.testing.assert_array_equal(found, RGBA)


def test_what_a_format_cannot_hold_raises_or_is_reported(tmp_path: Path) -> None:
    transparent = read(encoded(RGBA, "PNG"))
    with pytest.raises(PictureError, match="JPEG cannot hold this picture's transparency"):
        write(transparent, tmp_path / "a.jpg")
    assert not list(tmp_path.iterdir())

    opaque = replace(transparent, alpha=torch.ones(H, W), depth=16)
    assert ["alpha" in opaque_loss for opaque_loss in images.conversion_notes(opaque, "JPEG")] == [
        True,
        False,
    ]
    assert "16 bits" in images.conversion_notes(opaque, "JPEG")[1]
    assert images.conversion_notes(opaque, "PNG") == images.conversion_notes(opaque, "TIFF") == []
    assert len(images.conversion_notes(opaque, "WEBP")) == 1
    with pytest.raises(PictureError, match="must end in one of"):
        write(opaque, tmp_path / "a.gif")


def test_jpeg_is_written_without_subsampling(tmp_path: Path) -> None:
    write(read(encoded(RGB, "PNG")), tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as image:
        assert all(layer[1:3] == (1, 1) for layer in image.layer)  # type: ignore[attr-defined]


def test_a_file_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    picture = read(encoded(RGB, "PNG"))

    def fail(*_: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        with pytest.raises(PictureError, match=r"a\.png cannot be written: disk full"):
            write(picture, path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert path.read_bytes() == b"old"
    write(picture, path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    np.testing.assert_array_equal(samples(read(path), 8), RGB)
    with pytest.raises(PictureError, match="cannot be written: No such file or directory"):
        write(picture, tmp_path / "missing" / "a.png")


def test_streams(tmp_path: Path) -> None:
    stream = io.BytesIO()
    write(read(encoded(RGB, "BMP")), stream)
    np.testing.assert_array_equal(np.asarray(Image.open(stream)), RGB)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP"])
def test_truncated_files(tmp_path: Path, format: str) -> None:
    whole = encoded(RNG.integers(0, 256, (99, 99, 3), dtype=np.uint8), format).getvalue()
    path = tmp_path / "cut"
    for part in (0, 10, len(whole) // 2, len(whole) - 200):
        path.write_bytes(whole[:part])
        with pytest.raises(PictureError) as caught:
            read(path)
        message = str(caught.value)
        assert message.startswith(str(path))
        assert "\n" not in message


def test_truncated_16_bits(tmp_path: Path) -> None:
    for stream in (png_16(DEEP), encoded(RGB, "PNG")):
        (tmp_path / "cut").write_bytes(stream.getvalue()[:-300])
        with pytest.raises(PictureError):
            read(tmp_path / "cut")


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = tmp_path / "text.jpg"
    text.write_text("no picture")
    with pytest.raises(PictureError, match=r"text\.jpg cannot be read: not a JPEG, PNG"):
        read(text)
    with pytest.raises(PictureError, match=r"gone\.jpg cannot be read: No such file or directory"):
        read(tmp_path / "gone.jpg")
    with pytest.raises(PictureError, match="cannot be read: Is a directory"):
        read(tmp_path)
    postscript = tmp_path / "a.eps"
    Image.fromarray(RGB).save(postscript)
    with pytest.raises(PictureError, match="cannot be read: not a JPEG"):
        read(postscript)
    for format in ("GIF", "PNG", "WEBP", "TIFF"):
        frames = encoded(RGB, format, save_all=True, append_images=[Image.fromarray(RGB[::-1])])
        with pytest.raises(PictureError, match="holds 2 pictures and must hold one"):
            read(frames)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", W * H // 3)
    with pytest.raises(PictureError, match="megapixels"):
        read(encoded(RGB, "PNG"))


@pytest.mark.parametrize(
    ("kind", "start"),
    [
        ("CR2", b"II*\0\x10\0\0\0CR\2\0" + bytes(20)),
        ("CR3", b"\0\0\0\x18ftypcrx \0\0\0\1crx isom"),
        ("RAF", b"FUJIFILMCCD-RAW 0201" + bytes(20)),
        ("RW2", b"IIU\0\x18\0\0\0" + bytes(20)),
        ("ORF", b"IIRO\x08\0\0\0" + bytes(20)),
    ],
)
def test_raw_files_are_named(tmp_path: Path, kind: str, start: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(start + bytes(99))
    raw = rf"a\.jpg cannot be read: a camera's raw file \({kind}\) that LibRaw cannot develop: \w"
    with pytest.raises(PictureError, match=raw):
        read(tmp_path / "a.jpg")


def tiff_with_inner(
    outer: dict, inner: dict, array: np.ndarray = RGB, small: np.ndarray = RGB[::2, ::2]
) -> io.BytesIO:
    """A TIFF whose first directory refers to another, as options of tifffile."""
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        writer.write(array, subifds=1, photometric="rgb", **outer)
        writer.write(small, **{"photometric": "rgb", **inner})
    stream.seek(0)
    return stream


def test_a_raw_file_is_not_taken_for_its_thumbnail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rawpy", None)
    bayer = RNG.integers(0, 4096, (64, 64), dtype=np.uint16)
    cfa = {"photometric": "cfa"}
    dng_version = (50706, "B", 4, b"\1\4\0\0", True)
    maker = (271, "s", 0, "NIKON", True)
    for kind, outer, inner, raw in (
        ("DNG", {"subfiletype": 1, "extratags": [dng_version]}, cfa, bayer),
        ("DNG", {"extratags": [dng_version]}, {}, RGB),  # developed, but still a raw file
        ("NIKON", {"subfiletype": 1, "extratags": [maker]}, cfa, bayer),
        ("NIKON", {"extratags": [maker]}, cfa, bayer),
        ("TIFF", {"subfiletype": 1}, {}, RGB),
        ("TIFF", {"extratags": [(271, "s", 0, " ", True)]}, cfa, bayer),
    ):
        with pytest.raises(PictureError, match=rf"a camera's raw file \({kind}\) needs rawpy"):
            read(tiff_with_inner(outer, inner, small=raw))


def test_a_pyramid_is_read_at_its_full_size() -> None:
    picture = read(tiff_with_inner({}, {"subfiletype": 1}))
    np.testing.assert_array_equal(samples(picture, 8), RGB)


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_floating_point_tiffs_are_named(kind: type) -> None:
    for array in (RGB, RGB[..., 0]):
        stream = io.BytesIO()
        tifffile.imwrite(
            stream, array.astype(kind), photometric="rgb" if array.ndim == 3 else "minisblack"
        )
        stream.seek(0)
        bits = 8 * np.dtype(kind).itemsize
        with pytest.raises(PictureError, match=f"a TIFF with {bits}-bit floating-point samples"):
            read(stream)


@pytest.mark.skipif(not features.check("jpg_2000"), reason="Pillow has no JPEG 2000")
def test_reads_jpeg_2000(tmp_path: Path) -> None:
    picture = read(encoded(RGBA, "JPEG2000", no_jp2=False))
    assert picture.format == "JPEG2000"
    np.testing.assert_array_equal(samples(picture, 8), RGBA)
    grey = np.arange(W * H, dtype=np.uint16).reshape(H, W) * 150
    picture = read(encoded(grey, "JPEG2000"))
    assert (picture.depth, picture.grey, picture.notes) == (16, True, ())
    np.testing.assert_array_equal(samples(picture, 16)[..., 0], grey)
    (tmp_path / "a.jp2").write_bytes(encoded(RGB, "JPEG2000").getvalue())
    assert [path.name for path in images.list_images(tmp_path)] == ["a.jp2"]


@pytest.mark.skipif(not features.check("jpg_2000"), reason="Pillow has no JPEG 2000")
def test_of_jpeg_2000_lost_bits_are_reported_and_the_profile_is_kept() -> None:
    data = encoded(RGB, "JPEG2000").getvalue()
    start = data.index(b"\xff\x4f\xff\x51")
    deep = bytearray(data)
    deep[start + 42] = 15  # 16 bits
    assert coded_bits(bytes(deep)) == 16
    assert coded_bits(data) == 8
    colour = data.index(b"colr") - 4
    length = int.from_bytes(data[colour : colour + 4], "big")
    box = struct.pack(">I4sBBB", 11 + len(SRGB), b"colr", 2, 0, 0) + SRGB
    header = data.index(b"jp2h") - 4
    size = int.from_bytes(data[header : header + 4], "big") + len(box) - length
    profiled = data[:header] + struct.pack(">I", size) + data[header + 4 : colour] + box
    picture = read(io.BytesIO(profiled + data[colour + length :]))
    assert picture.icc == SRGB
    np.testing.assert_array_equal(samples(picture, 8), RGB)


@pytest.mark.skipif(not features.check("avif"), reason="Pillow has no AVIF")
def test_reads_avif(monkeypatch: pytest.MonkeyPatch) -> None:
    flat = np.full((H, W, 3), (200, 90, 30), np.uint8)
    stream = encoded(flat, "AVIF", quality=100, subsampling="4:4:4", icc_profile=SRGB)
    picture = read(stream)
    assert (picture.format, picture.icc, picture.notes) == ("AVIF", SRGB, ())
    assert np.abs(samples(picture, 8) - flat).max() <= 2
    data = bytearray(stream.getvalue())
    data[data.index(b"av1C") + 6] |= 0x40
    assert coded_bits(bytes(data)) == 10
    monkeypatch.setattr(features, "check", lambda feature: feature != "avif")
    with pytest.raises(PictureError, match="an AVIF picture, which this version of Pillow"):
        read(io.BytesIO(stream.getvalue()))


def test_fit_keeps_the_aspect_and_never_enlarges() -> None:
    picture = read(encoded(RGBA, "PNG"))
    smaller = images.fit_picture(picture, 12)
    assert smaller.size == (12, 9)
    assert smaller.alpha is not None
    assert smaller.alpha.shape == (9, 12)
    assert smaller.pixels.min() >= 0
    assert smaller.pixels.max() <= 1
    assert torch.equal(images.fit_picture(picture, W).pixels, picture.pixels)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
@pytest.mark.parametrize("source", ["JPEG", "PNG"])
def test_pixels_per_inch_survive(tmp_path: Path, source: str, suffix: str) -> None:
    array = np.full((9, 8, 3), 90, np.uint8)
    picture = read(encoded(array, source, dpi=(300, 200)))
    assert picture.dpi == pytest.approx((300, 200), abs=0.01)
    for depth in (8, 16):
        path = tmp_path / f"{depth}{suffix}"
        write(replace(picture, depth=depth), path)
        assert Image.open(path).info["dpi"] == pytest.approx((300, 200), abs=0.02)
    exif = Image.Exif()
    exif[315] = "nobody"
    for options in ({}, {"exif": exif}):
        assert read(encoded(array, source, **options)).dpi is None
