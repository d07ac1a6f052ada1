"""`fastfcs stylize` on files as people bring them: what must come out, and what must be said.

Each kind has more tests elsewhere (test_colour, test_fill, test_images, test_metadata,
test_regions, test_scenes); here the command runs as it stands.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import png
import pytest
import skimage.color
import skimage.data
import tifffile
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image
from test_colour import P3

from fastfcs.cli import cli

PHOTO = np.asarray(Image.fromarray(skimage.data.chelsea()).resize((96, 64)))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(skimage.data.coffee()).resize((144, 96)).save("coffee.png")
    return tmp_path


def stylize(content: str, *args: str, output: str = "out.png") -> Result:
    options = ["--style", "coffee.png", "--weights", "tiny", "-o", output, "--force"]
    return CliRunner().invoke(cli, ["stylize", content, *options, *args])


def pixels(path: str) -> NDArray[np.uint8]:
    return np.asarray(Image.open(path).convert("RGB"))


def difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Mean Delta E 2000 of two sRGB pictures."""
    lab = [skimage.color.rgb2lab(x) for x in (a, b)]
    return float(skimage.color.deltaE_ciede2000(*lab).mean())


def exif_jpeg(path: str, tag: int, kind: int, value: bytes) -> None:
    """A JPEG with one EXIF tag whose value is stored after the directory."""
    entry = struct.pack("<HHII", tag, kind, len(value), 26)
    block = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + entry + bytes(4) + value
    Image.fromarray(PHOTO).save(path, exif=block)


def test_a_display_p3_photograph(folder: Path) -> None:
    from PIL import ImageCms

    dull = (PHOTO // 2 + 60).astype(np.uint8)
    srgb = ImageCms.createProfile("sRGB")
    (folder / "p3.icc").write_bytes(P3)
    p3 = ImageCms.profileToProfile(Image.fromarray(dull), srgb, "p3.icc", outputMode="RGB")
    p3.save("p3.png", icc_profile=P3)
    Image.fromarray(dull).save("srgb.png")
    assert stylize("p3.png", "--photoreal", output="a.png").exit_code == 0
    assert stylize("srgb.png", "--photoreal", output="b.png").exit_code == 0
    result = Image.open("a.png")
    assert result.info["icc_profile"] == P3
    back = ImageCms.profileToProfile(result, "p3.icc", srgb, outputMode="RGB")
    assert difference(np.asarray(back), pixels("b.png")) < 2


@pytest.mark.parametrize("args", [[], ["--photoreal"]])
def test_what_a_cutout_hides_does_not_matter(folder: Path, args: list[str]) -> None:
    alpha = np.zeros((64, 96, 1), np.uint8)
    alpha[12:52, 20:70] = 255
    for name, hidden in (("black", 0), ("white", 255)):
        content = np.where(alpha > 0, PHOTO, hidden).astype(np.uint8)
        Image.fromarray(np.concatenate([content, alpha], 2)).save(f"{name}.png")
        result = stylize(f"{name}.png", *args, output=f"{name}-out.png")
        assert result.exit_code == 0, result.output
        assert "nearly black" not in result.stderr
    results = [np.asarray(Image.open(f"{name}-out.png")) for name in ("black", "white")]
    visible = alpha[..., 0] > 0
    np.testing.assert_array_equal(results[0][visible], results[1][visible])
    np.testing.assert_array_equal(results[0][..., 3:], alpha)


def test_a_raw_file_is_no_thumbnail(folder: Path) -> None:
    with tifffile.TiffWriter("photo.dng") as tiff:
        version = (50706, "B", 4, b"\1\4\0\0", True)
        tiff.write(PHOTO, photometric="rgb", subfiletype=1, subifds=1, extratags=[version])
        tiff.write(np.zeros((200, 300), np.uint16), photometric="minisblack", subfiletype=0)
    result = stylize("photo.dng")
    assert result.exit_code == 2
    assert "photo.dng cannot be read: " in result.stderr
    assert "raw file" in result.stderr
    assert not Path("out.png").exists()


def test_exif_in_utf8(folder: Path) -> None:
    text = "© 2024 José".encode() + b"\0"
    exif_jpeg("copyright.jpg", 0x8298, 2, text)
    assert stylize("copyright.jpg", output="out.jpg").exit_code == 0
    assert text in Path("out.jpg").read_bytes()


def test_a_damaged_tag_does_not_cost_the_picture(folder: Path) -> None:
    exif_jpeg("odd.jpg", 282, 2, b"seventy-two\0")
    result = stylize("odd.jpg", output="out.jpg")
    assert result.exit_code == 0
    assert "EXIF tag dropped" in result.stderr
    assert Image.open("out.jpg").size == (96, 64)


def test_a_portrait_mask_of_a_landscape(folder: Path) -> None:
    Image.fromarray(PHOTO).save("photo.png")
    mask = np.zeros((96, 64, 3), np.uint8)
    mask[:48] = 255
    Image.fromarray(mask).save("turned.png")
    Image.fromarray(mask.transpose(1, 0, 2)).resize((144, 96), 0).save("mask.png")
    result = stylize("photo.png", "--mask", "turned.png", "mask.png")
    assert result.exit_code == 2
    assert "turned.png must have its picture's aspect ratio, 96 x 64, got 64 x 96" in result.stderr


def test_a_label_mask(folder: Path) -> None:
    Image.fromarray(PHOTO).save("photo.png")
    labels = np.zeros((64, 96), np.uint8)
    labels[:, 48:] = 1
    Image.fromarray(labels).save("labels.png")
    Image.fromarray(labels).resize((144, 96), 0).save("style-labels.png")
    assert stylize("photo.png", output="plain.png").exit_code == 0
    result = stylize("photo.png", "--mask", "labels.png", "style-labels.png")
    assert result.exit_code == 0, result.output
    assert "no effect" not in result.stderr
    assert difference(pixels("plain.png"), pixels("out.png")) > 1


def test_sixteen_bits_of_grey(folder: Path) -> None:
    from fastfcs import Stylizer

    ramp = np.linspace(0, 65535, 64 * 96).reshape(64, 96).astype(np.uint16)
    with Path("grey.png").open("wb") as file:
        png.Writer(96, 64, greyscale=True, bitdepth=16).write(file, ramp.tolist())
    grey = Image.open("grey.png")
    assert grey.mode.startswith("I")
    content = Image.fromarray((ramp // 257).astype(np.uint8))
    style = Image.open("coffee.png")
    stylizer = Stylizer(style, weights="tiny", refine=False, constraint="photoreal")
    result = np.asarray(stylizer(grey)).astype(int)
    assert np.abs(result - np.asarray(stylizer(content)).astype(int)).mean() < 2


def test_the_resolution_of_a_scan(folder: Path) -> None:
    Image.fromarray(PHOTO).save("scan.tif", dpi=(300, 300))
    assert stylize("scan.tif").exit_code == 0
    assert Image.open("out.png").info["dpi"] == pytest.approx((300, 300), abs=0.01)


def test_a_floating_point_tiff_is_named(folder: Path) -> None:
    tifffile.imwrite("float.tif", PHOTO.astype(np.float32) / 255, photometric="rgb")
    result = stylize("float.tif")
    assert result.exit_code == 2
    assert "float.tif cannot be read: " in result.stderr
    assert "floating-point" in result.stderr


def test_a_night_is_reported_and_stays_dark(folder: Path) -> None:
    Image.fromarray((PHOTO * 0.12).astype(np.uint8)).save("night.png")
    result = stylize("night.png", "--photoreal")
    assert result.exit_code == 0
    assert "night.png: 100% of it is nearly black and stays dark" in result.stderr
    assert skimage.color.rgb2lab(pixels("out.png"))[..., 0].mean() < 20
    assert "nearly black" not in stylize("night.png").stderr  # a painting does as it likes


def test_a_tiny_style_is_reported_and_makes_no_rim(folder: Path) -> None:
    Image.fromarray(skimage.data.astronaut()).resize((160, 160)).save("photo.png")
    Image.open("coffee.png").resize((48, 32)).save("icon.png")
    args = ["--style", "icon.png", "-o", "out.png"]
    result = CliRunner().invoke(cli, ["stylize", "photo.png", *args])
    assert result.exit_code == 0
    assert "icon.png: only 48 x 32 pixels" in result.stderr
    change = np.abs(pixels("out.png").astype(float) - pixels("photo.png")).mean(2)
    rim = np.ones(change.shape, bool)
    rim[6:-6, 6:-6] = False
    inside = np.zeros(change.shape, bool)
    inside[6:-6, 6:-6] = True
    inside[24:-24, 24:-24] = False
    assert change[rim].mean() < 1.5 * change[inside].mean()
