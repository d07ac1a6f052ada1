"""Masks as people make them: labels, blurred borders, transparency, other sizes."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from fastfcs.cli import cli
from fastfcs.regions import COLOURS, read_regions

H, W = 48, 64
X, Y = np.meshgrid(np.arange(W), np.arange(H))
Array = NDArray[np.uint8] | NDArray[np.uint16]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save(name: str, samples: Array) -> str:
    Image.fromarray(samples).save(name)
    return name


def colour(name: str) -> tuple[int, ...]:
    return tuple(128 if value == 0.5 else 255 * round(value) for value in COLOURS[name])


def two_colours(where: NDArray[np.bool_], first: str, second: str) -> Array:
    return np.where(where[..., None], colour(first), colour(second)).astype(np.uint8)


# Labels


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_labels_are_regions(dtype: type) -> None:
    content = (X // 8 % 3 * 3).astype(dtype)  # 0, 3 and 6
    content[0, 0] = np.iinfo(dtype).max  # no label
    style = np.where(X[:40, :30] < 10, 6, np.where(X[:40, :30] < 12, 3, 9)).astype(dtype)
    regions = read_regions(save("a.png", content), save("b.png", style))
    assert regions.colours == ("label 3", "label 6")
    np.testing.assert_array_equal(regions.content, [content == 3, content == 6])
    np.testing.assert_array_equal(regions.style, [style == 3, style == 6])


def test_labels_of_a_palette_are_its_colours() -> None:
    labels = Image.fromarray((X // 32).astype(np.uint8), "L").convert("P")
    for palette, names in (
        ((0, 0, 255, 255, 0, 0), ("blue", "red")),
        ((0, 0, 0, 1, 1, 1), ("label 0", "label 1")),  # a grey palette
    ):
        labels.putpalette(palette)
        labels.save("a.png")
        regions = read_regions("a.png", "a.png")
        assert regions.colours == names
        np.testing.assert_array_equal(regions.content[regions.colours.index(names[0])], X < 32)
    labels.putpalette((0, 0, 0, 128, 0, 0))  # of Pascal VOC
    labels.save("a.png")
    with pytest.raises(ValueError, match=r"flat areas only of .* got RGB \(128, 0, 0\) in a\.png"):
        read_regions("a.png", "a.png")


def test_black_alone_is_a_label_or_a_colour() -> None:
    black = save("black.png", np.zeros((H, W), np.uint8))
    labels = save("labels.png", (X // 32).astype(np.uint8))
    white = save("white.png", (X // 32 * 255).astype(np.uint8))
    assert read_regions(black, labels).colours == ("label 0",)
    assert read_regions(white, black).colours == ("black",)
    assert read_regions(white, white).colours == ("black", "white")
    assert read_regions(labels, labels).colours == ("label 0", "label 1")
    for content, style, kinds in (
        (labels, white, "labels in labels.png and colours in white.png"),
        (white, labels, "colours in white.png and labels in labels.png"),
    ):
        with pytest.raises(ValueError, match=f"^masks must both have colours or .*, got {kinds}$"):
            read_regions(content, style)


def test_labels_without_a_common_one_raise() -> None:
    one, two = (save(f"{k}.png", np.full((H, W), k, np.uint8)) for k in (1, 2))
    message = "masks must have regions in common, got label 1 in 1.png and label 2 in 2.png"
    with pytest.raises(ValueError, match=message):
        read_regions(one, two)


# Blurred borders


@pytest.mark.parametrize("radius", [1, 4, 10, 20])
def test_a_blurred_border_is_no_region(radius: int) -> None:
    x, y = np.meshgrid(np.arange(160), np.arange(120))
    shapes = {"oblique": 2 * x + y < 220, "meeting at a point": (x < 80) ^ (y < 60)}
    for shape, where in shapes.items():
        pairs = list(itertools.combinations(COLOURS, 2))
        opposite = [("black", "white"), ("blue", "yellow"), ("green", "purple")]
        for first, second in pairs if radius == 10 and shape == "oblique" else opposite:
            image = Image.fromarray(two_colours(where, first, second))
            image.filter(ImageFilter.GaussianBlur(radius)).save("m.bmp")
            regions = read_regions("m.bmp", "m.bmp")
            assert set(regions.colours) == {first, second}, shape
            assert (regions.content.sum(0) == 1).all()
            found = regions.content[regions.colours.index(first)].numpy()
            # Pixels return to their own colour, but corners are rounded.
            assert (found != where).mean() < (0.01 if shape == "oblique" else 0.02)


def test_grey_between_black_and_white_counts_where_it_was_drawn() -> None:
    stripes = np.repeat([0, 128, 255], [40, 40, 40]).astype(np.uint8)
    image = Image.fromarray(np.broadcast_to(stripes, (60, 120)).copy())
    image.filter(ImageFilter.GaussianBlur(4)).save("m.png")
    assert read_regions("m.png", "m.png").colours == ("black", "white", "grey")


def test_an_antialiased_mask_saved_as_jpeg() -> None:
    circle = (np.arange(256) - 128) ** 2 + (np.arange(256)[:, None] - 120) ** 2 < 80**2
    image = Image.fromarray(two_colours(circle, "green", "purple"))
    image.resize((150, 150), Image.Resampling.LANCZOS).save("m.jpg", quality=80)
    assert read_regions("m.jpg", "m.jpg").colours == ("green", "purple")


# Transparency


def test_transparent_pixels_are_in_no_region() -> None:
    """Whatever they hold: here white, and a colour that no mask may have."""
    mask = np.zeros((H, W, 4), np.uint8)
    mask[..., 3] = 255
    mask[:, 32:, 2] = 255
    mask[:8] = 255, 255, 255, 0
    mask[-8:] = 90, 0, 0, 127
    regions = read_regions(save("m.png", mask), save("m.png", mask))
    assert regions.colours == ("blue", "black")
    inside = (Y >= 8) & (Y < H - 8)
    np.testing.assert_array_equal(regions.style, [inside & (X >= 32), inside & (X < 32)])
    labels = np.stack([X // 32, np.where(Y < 8, 0, 255)], -1).astype(np.uint8)
    labels[0, 0] = 200, 0
    regions = read_regions(save("l.png", labels), save("l.png", labels))
    np.testing.assert_array_equal(regions.content, [(k == X // 32) & (Y >= 8) for k in (0, 1)])


def test_colour_profiles_do_not_matter() -> None:
    from PIL import ImageCms

    image = Image.fromarray(two_colours(X < 32, "grey", "light blue"))
    image.save(
        "m.png", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    )
    assert read_regions("m.png", "m.png").colours == ("grey", "light blue")


@pytest.mark.parametrize("side", [1, 4, 6])
def test_masks_of_a_few_pixels(side: int) -> None:
    mask = save("m.png", np.full((side, side, 3), (255, 0, 0), np.uint8))
    regions = read_regions(mask, mask)
    assert regions.colours == ("red",)
    assert torch.equal(regions.content, torch.ones(1, side, side))


# The commands


@pytest.fixture
def pictures(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name, shape in (("photo.png", (100, 150)), ("style.png", (120, 96))):
        save(name, rng.integers(0, 256, (*shape, 3), dtype=np.uint8))
    save("style_mask.png", two_colours(np.arange(96) < np.full((120, 1), 48), "red", "blue"))


def stylize(mask: str, style_mask: str = "style_mask.png", code: int = 0) -> str:
    args = ["photo.png", "--style", "style.png", "--weights", "tiny", "--device", "cpu", "--force"]
    masks = ["--mask", mask, style_mask]
    result = CliRunner().invoke(cli, ["stylize", *args, "-o", "out.png", *masks])
    assert result.exit_code == code, result.output
    return result.stderr


def half(height: int, width: int) -> Array:
    return two_colours(np.arange(width) < np.full((height, 1), width // 2), "red", "blue")


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize("command", ["stylize", "optimize"])
def test_a_mask_of_another_aspect_raises(command: str) -> None:
    save("turned.png", half(150, 100))
    save("mask.png", half(100, 150))
    args = [command, "photo.png", "--style", "style.png", "-o", "out.png", "--device", "cpu"]
    for masks, sentence in (
        (
            ("turned.png", "style_mask.png"),
            "turned.png must have its picture's aspect ratio, 150 x 100, got 100 x 150",
        ),
        (
            ("mask.png", "turned.png"),
            "turned.png must have its picture's aspect ratio, 96 x 120, got 100 x 150",
        ),
    ):
        result = CliRunner().invoke(cli, [*args, "--mask", *masks])
        assert result.exit_code == 2
        assert sentence in result.stderr
        assert not Path("out.png").exists()


@pytest.mark.usefixtures("pictures")
def test_a_mask_of_a_reduced_copy_fits() -> None:
    for height, width in ((67, 100), (66, 100), (33, 50), (501, 750)):
        note = "photo.png: its mask was resized to 150 x 100\n"
        assert note in stylize(save("m.png", half(height, width)))
    for height, width in ((70, 100), (515, 750)):
        assert "must have its picture's aspect" in stylize(
            save("m.png", half(height, width)), code=2
        )


@pytest.mark.usefixtures("pictures")
def test_small_regions_and_masks_without_effect_are_reported() -> None:
    mask = np.zeros((100, 150), np.uint8)
    mask[:3, :4] = 1
    style_mask = np.zeros((120, 96), np.uint8)
    style_mask[:50] = 1
    notes = stylize(save("m.png", mask), save("s.png", style_mask))
    assert "photo.png: its region label 1 is only 0.08% of it\n" in notes
    assert "effect" not in notes
    style_mask[5:] = 0
    style_mask[:5, 2:] = 0
    notes = stylize(save("m.png", mask), save("s.png", style_mask))
    assert "style.png: its region label 1 is only 0.09% of it\n" in notes
    for name, shape in (("m.png", (100, 150)), ("s.png", (120, 96))):
        save(name, np.zeros(shape, np.uint8))
    note = "photo.png: its mask has one region and therefore no effect\n"
    assert note in stylize("m.png", "s.png")
    style_mask[:50] = 255  # black in a part of the style only
    save("s.png", style_mask)
    assert note not in stylize("m.png", "s.png")
