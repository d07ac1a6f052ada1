"""The controls: blends, brush size, colours and luminance, regions, presets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from pictures import LUMA, noise
from PIL import Image
from test_golden import distance

from fastfcs import presets
from fastfcs.cli import cli
from fastfcs.network import UnrolledSolver
from fastfcs.statistics import Statistics
from fastfcs.stylizer import Stylizer, mirrored

H, W = 24, 33


@pytest.fixture
def solver() -> UnrolledSolver:
    torch.manual_seed(0)
    solver = UnrolledSolver(updates=2, channels=(8, 12)).eval().requires_grad_(False)
    solver.initialise(noise(2, 3, 32, 32, seed=4), noise(2, 3, 32, 32, seed=5) ** 3)
    return solver


CONTENT, A, B = noise(3, H, W, seed=2), noise(3, 40, 20, seed=3), noise(3, 32, 48, seed=4) ** 3
LEFT = (torch.arange(W) < 16).float().expand(1, H, W)
HALVES = torch.cat([LEFT, 1 - LEFT])


# Blends


def test_a_blend_is_the_convex_combination_of_the_statistics(solver: UnrolledSolver) -> None:
    a, b = (solver.statistics(mirrored(s[None])) for s in (A, B))
    module = Stylizer(weights=solver).set_style([A, B], blend=[3, 1])
    grams = zip(a.named().items(), b.named().items(), strict=True)
    blend = Statistics.from_named({name: 0.75 * g + 0.25 * h for (name, g), (_, h) in grams})
    for name, h in module.statistics.get()[0].named().items():
        torch.testing.assert_close(h, blend.named()[name])
    with torch.no_grad():
        want = solver(CONTENT[None], blend)[0].clamp(0, 1)
    torch.testing.assert_close(module(CONTENT), want)
    only = module.set_style([A, B], blend=[0, 2])(CONTENT)
    torch.testing.assert_close(only, Stylizer(B, weights=solver)(CONTENT))


@pytest.mark.parametrize("blend", [[1], [1, 1, 1], [1, -1], [0, 0], [1, float("nan")]])
def test_invalid_blends_raise(solver: UnrolledSolver, blend: list[float]) -> None:
    with pytest.raises(ValueError, match="blend must be 2 weights, one per style, none negative"):
        Stylizer(weights=solver).set_style([A, B], blend=blend)


# Brush


def test_a_larger_brush_is_a_larger_style(solver: UnrolledSolver) -> None:
    flat = torch.full((3, 40, 40), 0.3)
    for style in (flat, A):
        plain, large = (Stylizer(style, weights=solver, brush=b)(CONTENT) for b in (1.0, 2.0))
        assert ((plain - large).abs().max() < 1e-4) == (style is flat)
    found = Stylizer(A, weights=solver, brush=2.0)(CONTENT)
    grown = torch.nn.functional.interpolate(A[None], (80, 40), mode="bicubic", antialias=True)
    torch.testing.assert_close(found, Stylizer(grown.clamp(0, 1), weights=solver)(CONTENT))
    with pytest.raises(ValueError, match=r"brush must be in \[0.25, 4\], got 5"):
        Stylizer(A, weights=solver, brush=5)


# Colours and luminance


def test_what_is_kept_stays(solver: UnrolledSolver) -> None:
    content = 0.4 + 0.2 * CONTENT  # nothing will be clipped
    for kept in ("keep-colour", "keep-luminance"):
        parts = []
        for constraint in (kept, None):
            change = Stylizer(B, weights=solver, constraint=constraint)(content) - content
            luminance = (change * LUMA).sum(0, keepdim=True)
            chroma = change - luminance  # I and Q are differences of channels
            parts.append((chroma, luminance) if kept == "keep-colour" else (luminance, chroma))
        (stays, moves), (_, moves_unconstrained) = parts
        assert stays.abs().max() < 1e-5
        assert (moves - moves_unconstrained).norm() < 0.3 * moves_unconstrained.norm()


# Regions


def test_one_style_everywhere_is_no_region(solver: UnrolledSolver) -> None:
    module = Stylizer(A, weights=solver)
    torch.testing.assert_close(module(CONTENT, torch.ones(1, H, W)), module(CONTENT))
    same = Stylizer(weights=solver).set_style(A, regions=torch.ones(1, 40, 20))
    torch.testing.assert_close(same(CONTENT, torch.ones(1, H, W)), module(CONTENT))


def test_each_region_takes_its_own_style(solver: UnrolledSolver) -> None:
    """Far from the border, as if the region were the whole picture with its own Gram matrix."""
    dark, bright = torch.full((3, 32, 32), 0.1), torch.full((3, 32, 32), 0.9)
    content = torch.full((3, 64, 64), 0.5) + 0.01 * noise(3, 64, 64, seed=1)
    left = (torch.arange(64) < 32).float().expand(1, 64, 64)
    found = Stylizer([dark, bright], weights=solver)(content, torch.cat([left, 1 - left]))
    sides = [Stylizer(style, weights=solver)(content) for style in (dark, bright)]
    assert (sides[0] - sides[1]).abs().mean() > 0.02
    for side, part in ((sides[0], slice(0, 16)), (sides[1], slice(48, 64))):
        assert (found - side)[..., part].abs().mean() < 0.1 * (sides[0] - sides[1]).abs().mean()


def test_a_style_s_regions_are_statistics_of_their_own(solver: UnrolledSolver) -> None:
    halves = torch.zeros(2, 32, 48)
    halves[0, :, :24] = halves[1, :, 24:] = 1
    style = torch.cat([0.1 * B[..., :24], 1 - 0.1 * B[..., 24:]], -1)
    module = Stylizer(weights=solver).set_style(style, regions=halves)
    found = module.statistics.get()[0].own[0]
    assert found.shape == (2, 8, 8)
    halves_of_style = style[..., :24], style[..., 24:]
    parts = [solver.statistics(p[None]).own[0][0] for p in halves_of_style]
    for k, part in enumerate(parts):
        assert (found[k] - part).norm() < 0.3 * (found[k] - parts[1 - k]).norm()
    assert module(CONTENT, HALVES).shape == CONTENT.shape


def test_where_no_region_is_nothing_is_asked(solver: UnrolledSolver) -> None:
    content = torch.cat([CONTENT, CONTENT], -1)
    mask = torch.zeros(1, H, 2 * W)
    mask[..., :8] = 1
    module = Stylizer(B, weights=solver)
    change, everywhere = module(content, mask) - content, module(content) - content
    assert (change - everywhere)[..., :4].norm() < 0.1 * everywhere[..., :4].norm()
    assert change[..., 40:].abs().max() < 1e-6


def test_regions_that_do_not_fit(solver: UnrolledSolver) -> None:
    module = Stylizer([A, B], weights=solver)
    for content, regions, sentence in [
        (CONTENT, LEFT, "regions must be 2 masks, one per style, got 1"),
        (CONTENT, HALVES[:, :20], r"regions must be masks \(R, H, W\) of one content"),
        (torch.stack([CONTENT] * 2), HALVES, r"regions must be masks \(R, H, W\) of one content"),
        (CONTENT, 2 * HALVES, r"regions must be masks in \[0, 1\], none of them empty"),
        (CONTENT, HALVES * 0, r"regions must be masks in \[0, 1\], none of them empty"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            module(content, regions)
    with pytest.raises(ValueError, match="style must be a single image with regions, got 2"):
        module.set_style([A, B], regions=HALVES)
    with pytest.raises(ValueError, match=r"regions must be masks \(R, H, W\) of one style"):
        module.set_style(A, regions=HALVES)


# The command


@pytest.fixture
def folder(tmp_path: Path, photo, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, crop in (("rocket", 48), ("coffee", 64), ("chelsea", 56)):
        pixels = (photo(name, crop)[0] * 255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    for name in ("rocket", "coffee"):
        mask = np.zeros_like(Image.open(tmp_path / f"{name}.png"))
        mask[:, : mask.shape[1] // 2] = (0, 0, 255)
        Image.fromarray(mask).save(tmp_path / f"{name}_mask.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stylize(*args: str) -> np.ndarray:
    result = CliRunner().invoke(
        cli, ["stylize", "rocket.png", *args, "-o", "o.png", "--force", "--device", "cpu"]
    )
    assert result.exit_code == 0, result.output
    return np.asarray(Image.open("o.png")).astype(int)


def test_every_control_is_an_option(folder: Path) -> None:
    """Each option moves the result in its own direction, and as far as it should."""
    plain, other = stylize("--style", "coffee.png"), stylize("--style", "chelsea.png")
    across = other - plain
    assert np.abs(across).mean() > 20  # of 255
    both = ["--style", "coffee.png", "--style", "chelsea.png"]
    for options, share in ([], 0.5), (["--blend", "0.7,0.3"], 0.3):
        blended = stylize(*both, *options) - plain
        assert (blended * across).sum() / (across**2).sum() == pytest.approx(share, abs=0.1)

    luma = LUMA.flatten().numpy()
    content = np.asarray(Image.open("rocket.png")).astype(int)
    for kept in ("colour", "luminance"):
        change = stylize("--style", "coffee.png", "--keep", kept) - content
        luminance = np.abs(change @ luma).mean()
        chroma = np.abs(change - (change @ luma)[..., None]).mean()
        stays, moves = (chroma, luminance) if kept == "colour" else (luminance, chroma)
        assert stays < 1  # of 255: rounding, and the clipping to [0, 1]
        assert moves > 30

    def roughness(result: np.ndarray) -> float:
        return float(
            np.abs(np.diff(result, axis=0)).mean() + np.abs(np.diff(result, axis=1)).mean()
        )

    fine, coarse = (stylize("--style", "coffee.png", "--brush", size) for size in ("0.5", "2"))
    assert roughness(coarse) < 0.85 * roughness(plain) < 0.85 * roughness(fine)


def test_a_mask_sends_each_style_to_its_region(folder: Path) -> None:
    style = np.array(Image.open("coffee.png"))
    half = style.shape[1] // 2
    style[:, :half, 2] //= 3  # yellow
    style[:, half:, 0] //= 3  # cyan
    Image.fromarray(style).save("two.png")
    Image.open("coffee_mask.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save("flipped.png")

    def contrast(*options: str) -> float:
        """How much redder, and less blue, the left half is than the right one."""
        result = stylize("--style", "two.png", *options)
        left, right = np.split(result[..., 0] - result[..., 2], 2, axis=1)
        return float(left.mean() - right.mean())

    assert abs(contrast()) < 25  # of 255
    assert contrast("--mask", "rocket_mask.png", "coffee_mask.png") > 50
    assert contrast("--mask", "rocket_mask.png", "flipped.png") < -50


def test_what_does_not_go_together_is_refused(folder: Path) -> None:
    for args, sentence in [
        (["--style", "coffee.png", "--blend", "1,2"], "blend must be 1 weights"),
        (
            ["--style", "coffee.png", "--blend", "x"],
            "must be one or several numbers separated by commas",
        ),
        (
            ["--style", "coffee.png", "--style", "chelsea.png", "--mask", "a", "b"],
            "--mask must be given with one content and one style",
        ),
        (["--style", "coffee.png", "--brush", "9"], "brush must be in [0.25, 4], got 9.0"),
        (["--style", "the-cry"], "style must be a picture file or a preset (composition-vii, "),
        (["--style", "cry.jpg"], "cry.jpg cannot be read: No such file or directory"),
    ]:
        result = CliRunner().invoke(cli, ["stylize", "rocket.png", *args, "-o", "o.png"])
        assert result.exit_code == 2, args
        assert sentence in result.stderr, result.stderr
        assert not (folder / "o.png").exists()


def test_what_a_mask_does_not_give_is_said(folder: Path) -> None:
    for name, other in (("rocket", (255, 0, 0)), ("coffee", (255, 255, 0))):
        mask = np.zeros_like(Image.open(f"{name}.png"))
        mask[:, :12] = other
        Image.fromarray(mask).save(f"{name}_mask.png")
    args = ["rocket.png", "--style", "coffee.png", "-o", "o.png"]
    result = CliRunner().invoke(
        cli, ["stylize", *args, "--mask", "rocket_mask.png", "coffee_mask.png"]
    )
    assert result.exit_code == 0, result.output
    assert "rocket.png: 25% of it is not restyled: it is in no region that both" in result.stderr


# Presets


def test_presets_are_found_by_name(solver: UnrolledSolver, tmp_path: Path, monkeypatch) -> None:
    statistics = solver.statistics(mirrored(A[None]))
    presets.write([statistics], tmp_path / "a.safetensors", {"title": "A, nobody"})
    monkeypatch.setattr(presets, "_FOLDER", tmp_path)
    assert presets.names() == ["a"]
    assert presets.title(tmp_path / "a.safetensors") == "A, nobody"
    found = Stylizer("a", weights=solver)(CONTENT)
    assert torch.equal(found, Stylizer(A, weights=solver)(CONTENT))
    with pytest.raises(ValueError, match="style must be an image with regions, got the preset a"):
        Stylizer(weights=solver).set_style("a", regions=HALVES)
    with pytest.raises(ValueError, match="style must be an image with a brush, got the preset a"):
        Stylizer("a", weights=solver, brush=2)


def test_the_presets_that_ship(photo) -> None:
    names = presets.names()
    assert len(names) == 12
    assert {"the-scream", "starry-night"} <= set(names)
    for name in names:
        path = presets.find(name)
        assert path is not None
        assert path.stat().st_size < 600_000  # three scales
        assert presets.title(path).count(",") >= 2  # painting, painter, year
    content = photo("rocket", 128).float()
    results = [Stylizer(name)(content) for name in names]
    for k, name in enumerate(names):  # no other preset's result is as near to the painting
        distances = [distance(name, result) for result in results]
        assert distances[k] == min(distances)
        assert distances[k] < 0.4 * distance(name, content)


def test_a_picture_goes_before_a_preset_of_its_name(folder: Path) -> None:
    Image.open("coffee.png").save("the-scream", "PNG")
    assert presets.find("the-scream") is None
    assert presets.find("starry-night") is not None


def test_presets_are_listed_and_shown(folder: Path) -> None:
    result = CliRunner().invoke(cli, ["presets"])
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert len(lines) == len(presets.names())
    assert any("the-scream" in line and "Edvard Munch" in line for line in lines)
    result = CliRunner().invoke(cli, ["presets", "rocket.png", "-o", "s.png", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    sheet = np.asarray(Image.open("s.png")).astype(int)
    rows = -(-len(lines) // 4)
    width, height = Image.open("rocket.png").size
    assert sheet.shape == (rows * (height + 20), 4 * width, 3)
    with Image.open("rocket.png") as content:
        for k, name in enumerate(presets.names()[:4]):
            cell = sheet[:height, k * width : (k + 1) * width]
            assert np.abs(cell - np.asarray(Stylizer(name)(content))).max() <= 1
    again = CliRunner().invoke(cli, ["presets", "rocket.png", "-o", "s.png"])
    assert again.exit_code == 2
    assert "s.png exists already; --force overwrites" in again.stderr
    Image.open("coffee.png").save("the-scream", "PNG")  # a picture of that name changes nothing
    assert CliRunner().invoke(cli, ["presets"]).output.splitlines() == lines
    alone = CliRunner().invoke(cli, ["presets", "-o", "t.png"])
    assert "CONTENT and -o must be given together" in alone.stderr
