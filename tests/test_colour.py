"""Colour profiles, against LittleCMS: small profiles made here, and pictures restyled in them."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from pictures import noise, stretched_photo
from PIL import Image, ImageCms
from skimage.color import deltaE_ciede2000, rgb2lab
from torch import Tensor

from fastfcs import Stylizer, images, read_regions
from fastfcs.cli import cli
from fastfcs.images import Picture
from fastfcs.images.colour import from_srgb, to_srgb
from fastfcs.training.data import read_pixels

D50 = np.array([0.9642, 1, 0.8249])
BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
D65 = (0.3127, 0.3290)
SRGB_XY = (0.64, 0.33), (0.30, 0.60), (0.15, 0.06)
P3_XY = (0.68, 0.32), (0.265, 0.69), (0.15, 0.06)
ADOBE_XY = (0.64, 0.33), (0.21, 0.71), (0.15, 0.06)
PROPHOTO_XY = (0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001)
P3_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def gamma(value: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(value * 256)) + bytes(2)


def table(samples: Sequence[float]) -> bytes:
    integers = np.round(np.asarray(samples) * 65535).astype(">u2").tobytes()
    return b"curv" + bytes(4) + struct.pack(">I", len(samples)) + integers


def parametric(kind: int, *values: float) -> bytes:
    fixed = struct.pack(f">{len(values)}i", *(round(v * 65536) for v in values))
    return b"para" + bytes(4) + struct.pack(">HH", kind, 0) + fixed


LINEAR = b"curv" + bytes(8)


def xyz(values: Sequence[float]) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(v * 65536) for v in values))


def profile(space: bytes, connection: bytes = b"XYZ ", **tags: bytes) -> bytes:
    """An ICC profile of version 4 with these tags."""
    text = b"mluc" + bytes(4) + struct.pack(">IIHHII", 1, 12, 0x656E, 0x5553, 2, 28) + b"\0x"
    tags = {"desc": text, "cprt": text, "wtpt": xyz(D50), **tags}
    start = 132 + 12 * len(tags)
    directory, body = struct.pack(">I", len(tags)), b""
    for name, tag in tags.items():
        directory += struct.pack(">4sII", name.encode(), start + len(body), len(tag))
        body += tag + bytes(-len(tag) % 4)
    header = struct.pack(">4sI4s4s4s", b"", 0x04200000, b"mntr", space, connection) + bytes(12)
    header += b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    header += bytes(124 - len(header))
    return struct.pack(">I", start + len(body)) + header + directory + body


def rgb(primaries: Sequence[tuple[float, float]], curve: bytes, white: tuple = D65) -> bytes:
    """A profile of a matrix, adapted to D50 by Bradford's transform, and one curve."""

    def to_xyz(xy: tuple[float, float]) -> np.ndarray:
        return np.array([xy[0] / xy[1], 1, (1 - sum(xy)) / xy[1]])

    columns = np.stack([to_xyz(xy) for xy in primaries], 1)
    columns = columns * np.linalg.solve(columns, to_xyz(white))
    gain = (BRADFORD @ D50) / (BRADFORD @ to_xyz(white))
    columns = np.linalg.solve(BRADFORD, gain[:, None] * (BRADFORD @ columns))
    tags = {f"{c}XYZ": xyz(columns[:, k]) for k, c in enumerate("rgb")}
    return profile(b"RGB ", **tags, **{f"{c}TRC": curve for c in "rgb"})


RAMP = np.linspace(0, 1, 1024)
P3 = rgb(P3_XY, parametric(3, *P3_CURVE))
ADOBE = rgb(ADOBE_XY, gamma(563 / 256))
PROPHOTO = rgb(PROPHOTO_XY, gamma(1.8), (0.3457, 0.3585))
LINEAR_RGB = rgb(SRGB_XY, LINEAR)
PROFILES = {
    "display p3": P3,
    "adobe": ADOBE,
    "prophoto": PROPHOTO,
    "linear": LINEAR_RGB,
    "table": rgb(P3_XY, table(RAMP**2.2)),
    "para 0": rgb(P3_XY, parametric(0, 2.2)),
    "para 1": rgb(P3_XY, parametric(1, 2.0, 0.9, 0.1)),
    "para 2": rgb(P3_XY, parametric(2, 2.0, 0.9, 0.05, 0.01)),
    "para 4": rgb(P3_XY, parametric(4, *P3_CURVE, 0.001, 0.001)),
}
WIDE = ["display p3", "adobe", "prophoto"]
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def grid() -> np.ndarray:
    """Colours (1, 17^3, 3), uint8."""
    steps = np.linspace(0, 255, 17).round().astype(np.uint8)
    return np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3)


def littlecms(
    array: np.ndarray,
    source: bytes | None,
    target: bytes | None,
    intent: ImageCms.Intent = ImageCms.Intent.RELATIVE_COLORIMETRIC,  # leaves black where it is
) -> np.ndarray:
    """Colours (H, W, 3) uint8 of one profile in another; None is sRGB."""
    opened = [ImageCms.ImageCmsProfile(io.BytesIO(p)) if p else SRGB for p in (source, target)]
    image = ImageCms.profileToProfile(Image.fromarray(array), *opened, intent, "RGB")
    return np.asarray(image)


def as_tensor(array: np.ndarray) -> Tensor:
    return images.from_samples(array)


def levels(x: Tensor) -> np.ndarray:
    return 255 * x.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("name", PROFILES)
def test_both_directions_agree_with_littlecms(name: str) -> None:
    icc, colours = PROFILES[name], grid()
    found = levels(to_srgb(as_tensor(colours), icc))
    assert np.abs(found - littlecms(colours, icc, None)).max() < 1  # LittleCMS rounds to levels
    # Grey at the start, so that nothing is outside sRGB and the way back is LittleCMS's.
    grey = torch.full((3, 1, colours.shape[1]), 0.5)
    found = levels(from_srgb(as_tensor(colours), icc, grey))
    assert np.abs(found - littlecms(colours, None, icc)).max() < 2


@pytest.mark.parametrize("name", PROFILES)
def test_unchanged_colours_come_back_bit_for_bit(name: str) -> None:
    pixels = torch.rand(3, 301, 251)  # several strips, the last one shorter
    srgb = to_srgb(pixels, PROFILES[name])
    assert not torch.equal(srgb, pixels)
    assert torch.equal(from_srgb(srgb, PROFILES[name], pixels), pixels)
    assert torch.equal(from_srgb(srgb.mT.contiguous().mT, PROFILES[name], pixels), pixels)


@pytest.mark.parametrize("name", WIDE)
def test_colours_outside_srgb_stay_outside_after_a_small_change(name: str) -> None:
    icc = PROFILES[name]
    green = torch.tensor([0.0, 1.0, 0.0]).view(3, 1, 1)
    srgb = to_srgb(green, icc)
    changed = from_srgb(srgb + torch.tensor([0.02, -0.02, 0.0]).view(3, 1, 1), icc, green)
    clipped = as_tensor(littlecms(np.array([[[0, 255, 0]]], np.uint8), None, icc))
    assert (changed - green).abs().max() < 0.5 * (clipped - green).abs().max()
    # A colour far away is not tinted by what was clipped.
    violet = torch.tensor([0.6, 0.2, 0.7]).view(3, 1, 1)
    plain = from_srgb(violet, icc, torch.full_like(green, 0.5))
    if name != "prophoto":
        assert (from_srgb(violet, icc, green) - plain).abs().max() < 0.25
    assert from_srgb(torch.ones_like(green), icc, green).min() > 0.99


@pytest.mark.parametrize(
    "curve", [parametric(3, *P3_CURVE), table(RAMP), LINEAR], ids=["para", "table", "linear"]
)
def test_steps_of_16_bits_survive(curve: bytes) -> None:
    icc = rgb(P3_XY, curve)
    grey = (torch.arange(30000, 30100) / 65535).expand(3, 1, -1).contiguous()
    srgb = to_srgb(grey, icc)
    assert srgb[0].unique().numel() == 100
    restyled = from_srgb(srgb * 0.99, icc, grey)
    assert restyled[0].unique().numel() == 100


def test_profiles_of_srgb_pass_bit_for_bit() -> None:
    curve = parametric(3, *P3_CURVE)
    decoded = np.where(RAMP > 0.04045, ((RAMP + 0.055) / 1.055) ** 2.4, RAMP / 12.92)
    pixels = torch.rand(3, 20, 20)
    for icc in (SRGB.tobytes(), rgb(SRGB_XY, curve), rgb(SRGB_XY, table(decoded))):
        assert to_srgb(pixels, icc) is pixels
        assert from_srgb(pixels, icc, torch.rand(3, 20, 20)) is pixels


def table_profile(way_back: bool = True) -> bytes:
    """A profile of which colours are tables: each channel of Lab is one of RGB, halved chroma."""
    ramp = bytes(range(256))

    def lut(corner: bytes) -> bytes:
        identity = b"".join(struct.pack(">i", 65536 * (k % 4 == 0)) for k in range(9))
        return b"mft1" + bytes(4) + bytes((3, 3, 2, 0)) + identity + 3 * ramp + corner + 3 * ramp

    corners = [(r, g, b) for r in (0, 1) for g in (0, 1) for b in (0, 1)]
    lab = b"".join(
        bytes((255 * (r + g + b) // 3, 128 + 64 * (r - g), 128 + 64 * (g - b)))
        for r, g, b in corners
    )
    back = b"".join(bytes((255 * x, 255 * x, 255 * x)) for x, _, _ in corners)
    tags = {"A2B0": lut(lab)} | ({"B2A0": lut(back)} if way_back else {})
    return profile(b"RGB ", b"Lab ", **tags)


def test_tables_are_littlecms() -> None:
    icc, colours = table_profile(), grid()
    found = levels(to_srgb(as_tensor(colours), icc))
    want = littlecms(colours, icc, None, ImageCms.Intent.PERCEPTUAL)
    np.testing.assert_allclose(found, want, atol=1e-3)
    pixels = torch.rand(3, 40, 30)
    assert torch.equal(from_srgb(to_srgb(pixels, icc), icc, pixels), pixels)


def picture_file(array: np.ndarray, icc: bytes, format: str = "PNG") -> io.BytesIO:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, format, icc_profile=icc)
    stream.seek(0)
    return stream


BROKEN = {
    "cut": P3[:300],
    "no curves": profile(b"RGB "),
    "singular": profile(
        b"RGB ",
        **{
            f"{c}{kind}": xyz(D50) if kind == "XYZ" else LINEAR
            for c in "rgb"
            for kind in ("XYZ", "TRC")
        },
    ),
    "one way": table_profile(way_back=False),
    "text": b"no profile" * 50,
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_profile_that_cannot_be_evaluated_is_reported(name: str) -> None:
    icc, array = BROKEN[name], grid().reshape(17, 289, 3)
    picture = images.read(picture_file(array, icc))
    assert any("cannot be evaluated" in note for note in picture.notes)
    assert torch.equal(picture.srgb, as_tensor(array))
    with pytest.warns(UserWarning, match="content: colour profile cannot be evaluated"):
        images.image_to_tensor("content", Image.open(picture_file(array, icc)))


def grey_profile(curve: bytes) -> bytes:
    return profile(b"GRAY", kTRC=curve)


@pytest.mark.parametrize(
    "curve", [gamma(1.8), table(RAMP**1.5), parametric(0, 2.6)], ids=["gamma", "table", "para"]
)
def test_grey_profiles_become_srgb(curve: bytes) -> None:
    icc, array = grey_profile(curve), np.arange(256, dtype=np.uint8).reshape(16, 16)
    picture = images.read(picture_file(array, icc))
    own = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    want = ImageCms.profileToProfile(Image.fromarray(array), own, SRGB, outputMode="RGB")
    assert np.abs(levels(picture.pixels) - np.asarray(want)).max() < 2  # it errs in the darks
    assert picture.icc is None
    assert picture.grey
    assert "grey profile converted to sRGB, since the result has colours" in picture.notes
    with pytest.warns(UserWarning, match="grey profile converted to sRGB"):
        batch = images.image_to_tensor("content", Image.open(picture_file(array, icc)))
    assert torch.equal(batch.pixels[0], picture.pixels)
    assert "icc_profile" not in batch.convert_back(batch.pixels).info

    deep = (np.arange(256, dtype=np.uint16) + 30000).reshape(16, 16)
    picture = images.read(picture_file(deep, icc))
    assert picture.depth == 16
    assert picture.pixels[0].unique().numel() == 256


def lab(picture: Picture) -> np.ndarray:
    return rgb2lab(picture.srgb.permute(1, 2, 0).double().numpy())


def difference(a: Picture, b: Picture) -> float:
    """The mean colour difference."""
    return float(deltaE_ciede2000(lab(a), lab(b)).mean())


def dull(name: str) -> np.ndarray:
    """A photo with moderate colours, (40, 56, 3) uint8, and noise, so that no area is even."""
    photo = stretched_photo(name, 40, 56)[0]
    photo = (
        torch.lerp(photo.mean(0, keepdim=True), photo, 0.8) * 0.85 + 0.05 + noise(3, 40, 56) / 10
    )
    return images.to_samples(photo, 8)


def in_profile(array: np.ndarray, icc: bytes) -> tuple[Picture, Picture]:
    """A picture of sRGB in a profile, 8 bits; and the same converted to sRGB by LittleCMS."""
    wide = littlecms(array, None, icc)
    return Picture(as_tensor(wide), icc=icc), Picture(as_tensor(littlecms(wide, icc, None)))


@pytest.mark.parametrize("name", WIDE)
@pytest.mark.parametrize("constraint", [None, "photoreal"])
def test_a_profile_does_not_change_the_result(name: str, constraint: str | None) -> None:
    content, plain_content = in_profile(dull("chelsea"), PROFILES[name])
    style, plain_style = in_profile(dull("rocket"), PROFILES[name])
    stylizer = Stylizer(weights="tiny", constraint=constraint)
    with torch.no_grad():
        want = stylizer.set_style(plain_style)(plain_content)
        for c, s in ((content, plain_style), (plain_content, style), (content, style)):
            found = stylizer.set_style(s)(c)
            assert found.icc == c.icc
            assert difference(found, want) < 1
        unconverted = stylizer.set_style(replace(style, icc=None))(replace(content, icc=None))
        assert difference(replace(unconverted, icc=content.icc), want) > 1.2
        stylizer.strength = 0
        assert torch.equal(stylizer(content).pixels, content.pixels)


@pytest.mark.parametrize("name", WIDE)
def test_the_command_compares_colours_in_srgb(name: str, tmp_path: Path) -> None:
    for kind, photo in (("content", "chelsea"), ("style", "rocket")):
        wide, plain = in_profile(dull(photo), PROFILES[name])
        images.write(wide, tmp_path / f"{kind}.png")
        images.write(plain, tmp_path / f"{kind}_srgb.png")
    results: list[Picture] = []
    for content, style in (
        ("content_srgb.png", "style_srgb.png"),
        ("content.png", "style_srgb.png"),
        ("content_srgb.png", "style.png"),
        ("content.png", "style.png"),
    ):
        output = tmp_path / f"{len(results)}.tif"
        arguments = [str(tmp_path / content), "--style", str(tmp_path / style), "-o", str(output)]
        run = CliRunner().invoke(cli, ["stylize", *arguments, "--weights", "tiny"])
        assert run.exit_code == 0, run.output
        results.append(images.read(output))
    assert [r.icc for r in results] == [None, PROFILES[name], None, PROFILES[name]]
    assert max(difference(results[0], r) for r in results[1:]) < 1


def test_masks_are_labels_whatever_their_profile(tmp_path: Path) -> None:
    mask = np.zeros((20, 20, 3), np.uint8)
    mask[:, 10:, 2] = 255
    mask[:10, :, 1] = 255
    for name, icc in (("plain", None), ("wide", PROPHOTO)):
        Image.fromarray(mask).save(tmp_path / f"{name}.png", icc_profile=icc)
    paths = [tmp_path / f"{name}.png" for name in ("plain", "wide")]
    regions = read_regions(*paths)
    assert regions.colours == ("blue", "green", "black", "light blue")
    assert torch.equal(regions.content, regions.style)

    grey = np.repeat(np.arange(3, dtype=np.uint8), 10)[:, None].repeat(30, 1)
    for name, icc in (("plain", None), ("wide", grey_profile(gamma(1.8)))):
        Image.fromarray(grey).save(tmp_path / f"{name}.png", icc_profile=icc)
    assert torch.equal(*(images.read(path, labels=True).pixels for path in paths))
    regions = read_regions(*paths)
    assert torch.equal(regions.content, regions.style)


def test_training_data_are_srgb(tmp_path: Path) -> None:
    array = grid().reshape(17, 289, 3)
    path = tmp_path / "wide.png"
    path.write_bytes(picture_file(array, ADOBE).getvalue())
    found = read_pixels(path).permute(1, 2, 0).numpy()
    assert np.abs(found.astype(int) - littlecms(array, ADOBE, None)).max() <= 1
