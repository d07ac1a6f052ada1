"""HEIC, AVIF, JPEG XL and raw files, against pictures and encoders of other projects."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
import skimage.data
import tifffile
import torch
from click.testing import CliRunner
from PIL import Image, features
from test_colour import P3

from fastfcs.cli import cli
from fastfcs.cli.jobs import plan
from fastfcs.images import Picture, PictureError, cicp, conversion_notes, format_of, read, write
from fastfcs.images.colour import to_srgb
from fastfcs.images.metadata import raw_metadata
from fastfcs.images.recognise import recognise

FILES = Path(__file__).parent / "files"
PHOTO = np.asarray(Image.fromarray(skimage.data.chelsea()).resize((96, 64)))
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/">Jos\xc3\xa9</x:xmpmeta>'
HAS_JXL = find_spec("pyjpegxl") is not None
jxl_only = pytest.mark.skipif(not HAS_JXL, reason="pyjpegxl is not installed")
NEW_FORMATS = [
    pytest.param("AVIF", marks=pytest.mark.skipif(not features.check("avif"), reason="no AVIF")),
    "HEIF",
    pytest.param("JXL", marks=jxl_only),
]


def exif_block() -> bytes:
    exif = Image.Exif()
    exif[271], exif[315] = "Maker", "Jos\u00e9"
    exif.get_ifd(0x8769)[0x829A] = 0.125
    exif.get_ifd(0x8825)[1] = "N"
    return exif.tobytes()


def heic(array: np.ndarray = PHOTO, **options: Any) -> bytes:
    """A file that pillow-heif has encoded."""
    stream = io.BytesIO()
    mode = {3: "RGB", 4: "RGBA"}[array.shape[2]] + (";16" if array.dtype == np.uint16 else "")
    pillow_heif.encode(mode, array.shape[1::-1], array.tobytes(), stream, **options)
    return stream.getvalue()


def dng(array: np.ndarray, orientation: int = 1, *tags: tuple) -> bytes:
    """A raw file of an RGGB sensor whose colours are those of sRGB, in a light like tungsten's.

    Args:
        array: (H, W, 3), linear, in [0, 1].
        orientation: as in EXIF.
        *tags: further tags, as tifffile takes them.
    """
    light = array * (1, 0.5, 0.25)
    bayer = light[..., 1].copy()
    bayer[::2, ::2], bayer[1::2, 1::2] = light[::2, ::2, 0], light[1::2, 1::2, 2]
    matrix = 3.2406, -1.5372, -0.4986, -0.9689, 1.8758, 0.0415, 0.0557, -0.2040, 1.0570
    rationals = [n for value in matrix for n in (round(value * 10000), 10000)]
    stream = io.BytesIO()
    tifffile.imwrite(
        stream,
        (bayer * 65535).round().astype(np.uint16),
        photometric="cfa",
        extratags=[
            (271, "s", 0, "Maker", True),
            (274, "H", 1, orientation, True),
            (33421, "H", 2, (2, 2), True),
            (33422, "B", 4, bytes((0, 1, 1, 2)), True),
            (50706, "B", 4, b"\1\4\0\0", True),
            (50708, "s", 0, "Maker Camera", True),
            (50721, 10, 9, rationals, True),
            (50728, 5, 3, (1, 1, 1, 2, 1, 4), True),
            (50778, "H", 1, 21, True),
            *tags,
        ],
    )
    return stream.getvalue()


def parse(data: bytes) -> Picture:
    return read(io.BytesIO(data))


def written(picture: Picture, format: str) -> bytes:
    stream = io.BytesIO()
    write(picture, stream, format)
    return stream.getvalue()


def difference(picture: Picture, pixels: np.ndarray) -> float:
    """Mean difference, in grey levels of 8 bits."""
    found = picture.pixels.permute(1, 2, 0).numpy() * 255
    return float(np.abs(found - pixels.astype(float)).mean())


@pytest.mark.parametrize(
    ("file", "module", "sentence"),
    [
        ("rgba-10-bits.heif", "pillow_heif", "HEIC needs pillow-heif"),
        ("exif-xmp.jxl", "pyjpegxl", r"JPEG XL needs pyjpegxl \(Python 3\.11 or newer, x86-64\)"),
        ("dc120.kdc", "rawpy", r"a camera's raw file \(Eastman Kodak Company\) needs rawpy"),
    ],
)
def test_a_missing_package_is_named(
    file: str, module: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(PictureError) as caught:
        read(FILES / file)
    caught.match(rf"{file} cannot be read: {sentence}; pip install 'fastfcs\[camera\]'$")
    if module != "rawpy":
        with pytest.raises(PictureError, match=rf"out\S+ cannot be written: {sentence}; pip"):
            format_of(f"out{Path(file).suffix}")


def test_writing_avif_needs_a_new_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda feature: False)
    with pytest.raises(PictureError, match=r"a\.avif cannot be written: AVIF needs Pillow 11\.3"):
        format_of("a.avif")


def test_other_files_do_not_import_the_packages() -> None:
    program = """
import io, sys
from PIL import Image
import fastfcs
from fastfcs import images
for format in ("JPEG", "PNG", "TIFF"):
    stream = io.BytesIO()
    Image.new("RGB", (24, 16)).save(stream, format)
    images.write(images.read(io.BytesIO(stream.getvalue())), io.BytesIO(), format)
assert not {"pillow_heif", "pyjpegxl", "rawpy"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_metadata_of_a_heic_file() -> None:
    picture = read(FILES / "exif-xmp-iptc.heic")
    assert (picture.size, picture.format, picture.depth, picture.grey) == (
        (64, 64),
        "HEIF",
        8,
        True,
    )
    assert picture.exif is not None
    assert picture.xmp is not None
    assert picture.xmp.startswith(b"<?xpacket begin")
    assert picture.iptc is not None
    assert picture.notes == ()
    exif = Image.Exif()
    exif.load(picture.exif)
    assert exif[271] == "SONY"
    again = parse(written(picture, "JPEG"))
    assert (again.exif, again.xmp, again.iptc) == (picture.exif, picture.xmp, picture.iptc)
    assert conversion_notes(picture, "HEIF") == ["IPTC dropped: HEIF has none"]


def test_ten_bits_become_sixteen() -> None:
    picture = read(FILES / "rgba-10-bits.heif")
    assert (picture.size, picture.depth, picture.samples.dtype) == ((29, 100), 16, torch.uint16)
    eight = np.asarray(pillow_heif.open_heif(FILES / "rgba-10-bits.heif"))
    assert difference(picture, eight[..., :3]) < 1
    assert picture.alpha is not None
    assert np.abs(picture.alpha.numpy() * 255 - eight[..., 3]).max() <= 1
    assert len(np.unique(picture.samples.numpy())) > 256
    white = parse(heic(np.full((64, 64, 3), 65535, np.uint16)))
    assert white.samples.numpy().min() > 65400
    assert white.samples.numpy().max() == 65535


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_heic_file_is_turned_once(orientation: int) -> None:
    exif = Image.Exif()
    exif[274], exif[271] = orientation, "Maker"
    picture = parse(heic(exif=exif.tobytes(), quality=90))  # pillow-heif adds the box irot
    turned = np.rot90(PHOTO, {1: 0, 3: 2, 6: -1, 8: 1}[orientation])
    assert picture.size == turned.shape[1::-1]
    assert difference(picture, turned) < 4
    assert picture.exif is not None
    kept = Image.Exif()
    kept.load(picture.exif)
    assert dict(kept) == {271: "Maker"}


def test_of_several_pictures_the_primary_one_is_read() -> None:
    first, second = np.zeros((64, 64, 3), np.uint8), np.full((64, 96, 3), 255, np.uint8)
    file = pillow_heif.from_bytes("RGB", (64, 64), first.tobytes())
    file.add_frombytes("RGB", (96, 64), second.tobytes())
    stream = io.BytesIO()
    file.save(stream, primary_index=1)
    assert parse(stream.getvalue()).size == (96, 64)


def test_code_points_become_a_profile() -> None:
    p3, notes = cicp.profile(12, 13)
    assert notes == []
    colours = torch.rand(3, 24, 24, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(to_srgb(colours, p3), to_srgb(colours, P3), rtol=0, atol=2e-3)
    for primaries, transfer in ((9, 1), (1, 4), (1, 5), (1, 8)):
        icc, notes = cicp.profile(primaries, transfer)
        assert icc is not None
        assert notes == []
        assert not torch.equal(to_srgb(colours, icc), colours)
    for primaries, transfer in ((1, 13), (1, 1), (2, 2), (6, 6)):
        assert cicp.profile(primaries, transfer) == (None, [])
    assert "primaries 10" in cicp.profile(10, 13)[1][0]
    assert "HDR curve (HLG)" in cicp.profile(9, 18)[1][0]
    assert "curve 17" in cicp.profile(1, 17)[1][0]


def test_display_p3_without_a_profile() -> None:
    plain = parse(heic(quality=100))
    assert plain.icc is None
    picture = parse(heic(quality=100, color_primaries=12, transfer_characteristics=13))
    assert picture.icc is not None
    assert picture.notes == ()
    expected = to_srgb(plain.pixels, P3)
    assert (picture.srgb - expected).abs().mean() < 0.01
    assert (picture.srgb - plain.srgb).abs().mean() > 0.01


@pytest.mark.skipif(not features.check("avif"), reason="Pillow has no AVIF")
def test_display_p3_in_avif() -> None:
    stream = io.BytesIO()
    Image.fromarray(PHOTO).save(stream, "AVIF")
    data = bytearray(stream.getvalue())
    start = data.index(b"colrnclx") + 8
    assert parse(bytes(data)).icc is None
    struct.pack_into(">HH", data, start, 12, 13)
    picture = parse(bytes(data))
    assert picture.icc == cicp.profile(12, 13)[0]
    struct.pack_into(">HH", data, start, 9, 16)
    assert "HDR curve (PQ)" in parse(bytes(data)).notes[0]


@jxl_only
def test_a_jpeg_xl_file_with_16_bits() -> None:
    import pyjpegxl

    picture = read(FILES / "rgba-16-bits.jxl")
    assert (picture.size, picture.format, picture.depth) == ((40, 50), "JXL", 16)
    assert picture.alpha is not None
    _, samples = pyjpegxl.decode_to_numpy((FILES / "rgba-16-bits.jxl").read_bytes())
    np.testing.assert_array_equal(picture.samples.permute(1, 2, 0).numpy(), samples[..., :3])


@jxl_only
def test_the_metadata_of_a_jpeg_xl_file() -> None:
    picture = read(FILES / "exif-xmp.jxl")
    assert picture.dpi == (300, 300)
    assert picture.exif is not None
    assert picture.xmp is not None
    assert picture.xmp.startswith(b"<?xpacket begin")
    assert picture.notes == ()


@jxl_only
def test_jpeg_xl_of_grey_and_of_floats() -> None:
    import pyjpegxl

    grey = parse(pyjpegxl.encode_from_numpy(np.ascontiguousarray(PHOTO[..., :1]), lossless=True))
    assert (grey.grey, grey.samples.dtype, grey.notes) == (True, torch.uint8, ())
    np.testing.assert_array_equal(grey.samples[1].numpy(), PHOTO[..., 0])
    with pytest.raises(PictureError, match="JPEG XL with 32-bit samples; save it with 8 or 16"):
        parse(pyjpegxl.encode_from_numpy(PHOTO.astype(np.float32) / 255))


@pytest.mark.parametrize("format", NEW_FORMATS)
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("depth", [8, 16])
def test_formats_are_written_and_read(format: str, alpha: bool, depth: int) -> None:
    pixels = torch.from_numpy(PHOTO.copy()).permute(2, 0, 1) / 255
    ramp = torch.linspace(0, 1, 96).expand(64, -1).contiguous() if alpha else None
    plain = Picture(pixels, ramp, icc=P3, exif=exif_block(), xmp=XMP, dpi=(300, 200), depth=depth)
    picture = parse(written(plain, format))
    bits = {"AVIF": 8, "HEIF": 10, "JXL": 16}[format]
    lost = [f"16 bits per channel reduced to {bits}: {format} is written with no more"]
    assert conversion_notes(plain, format) == (lost if depth > bits else [])
    assert (picture.format, picture.notes) == (format, ())
    assert picture.depth == (depth if bits > 8 else 8)
    assert difference(picture, PHOTO) < (4 if format == "HEIF" else 3)
    assert (picture.icc, picture.xmp, picture.dpi) == (P3, XMP, (300, 200))
    exif = Image.Exif()
    assert picture.exif is not None
    exif.load(picture.exif)
    assert exif[271] == "Maker"
    assert exif.get_ifd(0x8769)[0x829A] == 0.125
    assert exif.get_ifd(0x8825)[1] == "N"
    assert (picture.alpha is not None) == alpha
    if ramp is not None:
        assert picture.alpha is not None
        assert (picture.alpha - ramp).abs().max() < 0.05


def test_others_read_what_is_written() -> None:
    picture = Picture(torch.from_numpy(PHOTO.copy()).permute(2, 0, 1), icc=P3, exif=exif_block())
    file = pillow_heif.open_heif(written(picture, "HEIF"))
    assert (file.info["icc_profile"], file.size) == (P3, (96, 64))
    assert np.abs(np.asarray(file).astype(int) - PHOTO).mean() < 4
    if features.check("avif"):
        image = Image.open(io.BytesIO(written(picture, "AVIF")))
        assert (image.format, image.info["icc_profile"]) == ("AVIF", P3)
        assert image.getexif()[271] == "Maker"


def test_a_raw_file_of_a_camera() -> None:
    picture = read(FILES / "dc120.kdc")
    assert (picture.size, picture.format, picture.depth) == ((1301, 976), "RAW", 16)
    assert picture.samples.dtype == torch.uint16
    assert picture.icc is None
    assert picture.notes == (
        "raw file (Eastman Kodak Company) developed with the camera's white balance",
    )
    exif = Image.Exif()
    assert picture.exif is not None
    exif.load(picture.exif)
    assert exif[272] == "Kodak DC120 ZOOM Digital Camera"
    # A colour chart on a sheet of paper: the sheet, a green and a yellow patch.
    places = (500, 1000), (505, 230), (505, 510)
    paper, green, yellow = (picture.pixels[:, y, x] for y, x in places)
    assert paper.min() > 0.6
    assert green[1] > 1.5 * green[[0, 2]].max()
    assert yellow[:2].min() > 2 * yellow[2]


def test_development_is_that_of_srgb_in_the_camera_s_white_balance() -> None:
    scene = np.zeros((64, 96, 3))
    scene[:] = (0.18, 0.18, 0.18)
    scene[:, 48:] = (0.5, 0.1, 0.05)
    picture = parse(dng(scene))
    assert picture.depth == 16
    expected = 1.055 * scene ** (1 / 2.4) - 0.055
    for x in (20, 76):
        found = picture.pixels[:, 32, x].numpy()
        np.testing.assert_allclose(found, expected[32, x], atol=0.02)


def test_a_raw_file_is_turned_once_and_keeps_its_metadata() -> None:
    scene = np.full((64, 96, 3), 0.1)
    scene[:20, :30] = 0.9
    xmp = b'<x crs:AlreadyApplied="False"><crs:AlreadyApplied>False</crs:AlreadyApplied></x>'
    tags = (700, 1, len(xmp), xmp, True), (306, "s", 0, "2024:05:06 07:08:09", True)
    picture = parse(dng(scene, 6, *tags))
    assert picture.size == (64, 96)
    assert picture.pixels[:, 10, -10].min() > 0.8
    assert picture.pixels[:, 10, 10].max() < 0.5
    assert picture.xmp == xmp.replace(b"False", b"True")
    assert picture.dpi is None
    exif = Image.Exif()
    assert picture.exif is not None
    exif.load(picture.exif)
    assert {271: "Maker", 306: "2024:05:06 07:08:09"}.items() <= exif.items()
    assert 274 not in exif


def test_the_metadata_of_cr3_and_of_files_with_a_jpeg() -> None:
    exif = Image.Exif()
    exif[271] = "Canon"
    first = exif.tobytes()[6:]
    inner = Image.Exif()
    inner[0x829A] = 0.125
    boxes = b"CMT1" + first + b"CMT2" + inner.tobytes()[6:]
    block = raw_metadata(b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + boxes).exif
    assert block is not None
    found = Image.Exif()
    found.load(block)
    assert found[271] == "Canon"
    assert found.get_ifd(0x8769)[0x829A] == 0.125
    raf = raw_metadata(b"FUJIFILMCCD-RAW 0201" + bytes(80) + exif.tobytes() + bytes(99)).exif
    assert raf is not None
    found = Image.Exif()
    found.load(raf)
    assert found[271] == "Canon"


def samples_of_each_kind() -> dict[str, bytes]:
    """Files that each package decodes."""
    files = {
        "photo.heic": heic(),
        "deep.heif": (FILES / "rgba-10-bits.heif").read_bytes(),
        "dc120.kdc": (FILES / "dc120.kdc").read_bytes(),
        "photo.dng": dng(np.full((64, 96, 3), 0.2)),
    }
    if HAS_JXL:
        files["deep.jxl"] = (FILES / "rgba-16-bits.jxl").read_bytes()
    return files


@pytest.mark.parametrize("name", samples_of_each_kind())
def test_truncated_and_damaged_files(name: str, tmp_path: Path) -> None:
    whole = samples_of_each_kind()[name]
    path = tmp_path / name
    for part in (20, len(whole) // 10, len(whole) // 2, len(whole) - 20):
        path.write_bytes(whole[:part])
        with pytest.raises(PictureError) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path} cannot be read: ")
        assert "\n" not in str(caught.value)
    rng = np.random.default_rng(0)
    for _ in range(20):
        damaged = bytearray(whole)
        for place in rng.integers(12, len(whole), 4):
            damaged[place] = rng.integers(256)
        try:
            parse(bytes(damaged))
        except PictureError as error:
            assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize("name", samples_of_each_kind())
def test_huge_pictures_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(PictureError, match="megapixels, the limit"):
        parse(samples_of_each_kind()[name])


def test_names_of_outputs(tmp_path: Path) -> None:
    contents = ["a.heic", "b.avif", "c.DNG", "d.nef", *(["e.jxl"] if HAS_JXL else [])]
    names = [Path(target).name for _, target in plan(contents, str(tmp_path), False)]
    assert names == ["a.heic", "b.avif", "c.png", "d.png", "e.jxl"][: len(contents)]


def test_brands_and_signatures() -> None:
    assert recognise(b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(20)) == "HEIF"
    assert recognise(b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif" + bytes(20)) is None
    assert recognise(b"\0\0\0\x14ftypisom\0\0\0\0mp42" + bytes(20)) is None
    assert recognise(b"\xff\x0a" + bytes(20)) == "JXL"


@pytest.mark.parametrize("suffix", ["png", "heic", "avif", pytest.param("jxl", marks=jxl_only)])
@pytest.mark.parametrize("content", ["photo.heic", "photo.dng"])
def test_the_command(
    content: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(content).write_bytes(samples_of_each_kind()[content])
    Image.fromarray(skimage.data.coffee()).resize((144, 96)).save("style.png")
    args = [content, "--style", "style.png", "--photoreal", "-o", f"out.{suffix}"]
    result = CliRunner().invoke(cli, ["stylize", *args, "--weights", "tiny", "--no-refine"])
    assert result.exit_code == 0, result.output
    picture = read(f"out.{suffix}")
    assert picture.size == (96, 64)
    deep = content.endswith("dng") and suffix != "avif"
    assert picture.depth == (16 if deep else 8)


def test_samples_are_those_of_the_package() -> None:
    for samples, width in (
        (read(FILES / "dc120.kdc").samples, 1301),
        (parse(heic(np.full((64, 64, 3), 65535, np.uint16))).samples, 64),
    ):
        assert samples.dtype == torch.uint16
        assert samples.stride() == (1, 3 * width, 3)
