"""Looks: one map of colours, its files, and the commands lut, apply and stylize --one-look."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import load_photo, noise
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab
from torch import Tensor

from fastfcs import images
from fastfcs.cli import cli
from fastfcs.delta_e import delta_e, from_lab, to_lab
from fastfcs.look import Look, fit_look
from fastfcs.network import UnrolledSolver
from fastfcs.stylizer import Stylizer
from fastfcs.weights import load_solver, save_solver

LUMA = torch.tensor([0.299, 0.587, 0.114])


def warm(points: int = 17) -> Look:
    grid = Look.identity(points).grid
    return Look((grid ** torch.tensor([0.8, 1.0, 1.3]).view(3, 1, 1, 1)).clamp(0, 1))


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_delta_e(seed: int) -> None:
    first, second = noise(2, 50, 3, seed=seed).double()
    near = (first + 0.05 * (second - 0.5)).clamp(0, 1)
    for other in (second, near, first):
        want = deltaE_ciede2000(rgb2lab(first.numpy()), rgb2lab(other.numpy()))
        np.testing.assert_allclose(delta_e(first, other).numpy(), want, rtol=1e-3, atol=0.01)
    np.testing.assert_allclose(to_lab(first).numpy(), rgb2lab(first.numpy()), atol=0.02)
    torch.testing.assert_close(from_lab(to_lab(first)), first, atol=1e-6, rtol=0)


def test_delta_e_of_greys_and_opposite_hues() -> None:
    """Where hues are undefined or far apart, which tells wrong implementations apart."""
    colours = torch.tensor(
        [[0.5, 0.5, 0.5], [1, 0, 0], [0, 1, 1], [0, 0, 0], [1, 1, 1], [0.2, 0.1, 0.9]]
    ).double()
    pairs = torch.cartesian_prod(torch.arange(6), torch.arange(6))
    first, second = colours[pairs[:, 0]], colours[pairs[:, 1]]
    want = deltaE_ciede2000(rgb2lab(first.numpy()), rgb2lab(second.numpy()))
    np.testing.assert_allclose(delta_e(first, second).numpy(), want, rtol=1e-3, atol=0.01)


def test_map_is_trilinear() -> None:
    """Against SciPy."""
    from scipy.interpolate import RegularGridInterpolator

    look, axis = Look(noise(3, 9, 9, 9)), np.linspace(0, 1, 9)
    colours = noise(3, 20, 30, seed=4)
    for channel in range(3):
        exact = RegularGridInterpolator((axis,) * 3, look.grid[channel].double().numpy())
        want = exact(colours.flip(0).movedim(0, -1).double().numpy())  # blue, green, red
        np.testing.assert_allclose(look.map(colours)[channel].numpy(), want, atol=2e-6)


def test_every_kind_of_image() -> None:
    look, image = warm(), noise(3, 40, 50)
    samples = images.to_samples(image, 8)
    want = look(images.from_samples(samples))
    np.testing.assert_array_equal(look(samples), images.to_samples(want, 8))
    np.testing.assert_array_equal(np.asarray(look(Image.fromarray(samples))), look(samples))
    deep = look(samples.astype(np.uint16) * 257)
    np.testing.assert_allclose(deep / 65535, want.movedim(0, -1).numpy(), atol=1e-5)
    batch = look(torch.stack([image, 1 - image]))
    assert torch.equal(batch[0], look(image))
    assert look(image.half()).dtype == torch.half
    picture = images.Picture(image, alpha=(noise(40, 50) > 0.5).float())
    result = look(picture)
    hidden = picture.alpha == 0
    assert torch.equal(result.pixels[:, hidden], image[:, hidden])
    assert (result.pixels[:, ~hidden] - image[:, ~hidden]).abs().mean() > 0.01


def test_bands_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastfcs import look as module

    samples = images.to_samples(noise(3, 40, 50), 8)
    whole = warm()(samples)
    monkeypatch.setattr(module, "_BAND", 150)
    np.testing.assert_array_equal(warm()(samples), whole)


@pytest.mark.parametrize("name", ["a.cube", "a.png"])
def test_files_hold_a_look(tmp_path: Path, name: str) -> None:
    look = warm(33)
    look.save(tmp_path / name)
    again = Look.read(tmp_path / name)
    assert again.points == (33 if name == "a.cube" else 64)
    colours = noise(3, 30, 30)
    assert (again.map(colours) - look.map(colours)).abs().max() < 2e-3


def test_a_cube_is_what_adobe_s_specification_says(tmp_path: Path) -> None:
    """colour-science's order: red changes fastest."""
    warm(2).save(tmp_path / 'wa"rm.cube')
    lines = (tmp_path / 'wa"rm.cube').read_text().splitlines()
    assert lines[:2] == ['TITLE "wa\'rm"', "LUT_3D_SIZE 2"]
    rows = [[float(word) for word in line.split()] for line in lines[2:]]
    assert rows == [[r, g, b] for b in (0, 1) for g in (0, 1) for r in (0, 1)]


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
@pytest.mark.parametrize("points", [17, 33, 65])
def test_ffmpeg_applies_the_same_look(tmp_path: Path, points: int) -> None:
    photo = load_photo("coffee", 200)[0].float()
    images.write(images.Picture(photo), tmp_path / "in.png")
    warm(points).save(tmp_path / "look.cube")
    filters = f"format=gbrp,lut3d={tmp_path}/look.cube:interp=trilinear"
    command = ["ffmpeg", "-loglevel", "error", "-i", tmp_path / "in.png", "-vf", filters]
    subprocess.run([*command, tmp_path / "out.png"], check=True)
    theirs = np.asarray(Image.open(tmp_path / "out.png").convert("RGB")).astype(int)
    ours = images.to_samples(warm(points)(images.read(tmp_path / "in.png")).samples, 8)
    assert np.abs(ours - theirs).max() <= 1


CUBE = "LUT_3D_SIZE 2\n" + "0 0 0\n" * 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CUBE, "must hold LUT_3D_SIZE N, N at least 2, and N\\^3 colours, got N = 2 and 7"),
        (CUBE + "0 0\n", "is damaged in line 9: '0 0'"),
        (CUBE + "nan 0 0\n", "must be a 3D LUT, got 'nan' in line 9"),
        (CUBE + "1e999 0 0\n", "must hold finite numbers"),
        ("LUT_1D_SIZE 4\n", "must be a 3D LUT, got 'LUT_1D_SIZE' in line 1"),
        ("DOMAIN_MAX 2 2 2\n" + CUBE, "must have the domain \\[0, 1\\], got 'DOMAIN_MAX 2 2 2'"),
        ("LUT_3D_SIZE two\n", "is damaged in line 1"),
        ("", "must hold LUT_3D_SIZE N"),
    ],
)
def test_bad_cubes(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.cube").write_text(text)
    with pytest.raises(ValueError, match=message):
        Look.read(tmp_path / "a.cube")


def test_a_picture_that_is_no_hald_image(tmp_path: Path) -> None:
    images.write(images.Picture(noise(3, 20, 30)), tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"must be a \.cube file or a HALD image.*got 30 x 20"):
        Look.read(tmp_path / "a.png")


def test_comments_and_a_stated_domain_are_read(tmp_path: Path) -> None:
    head = '# by hand\nTITLE "x"\nDOMAIN_MIN 0 0 0\nDOMAIN_MAX 1.0 1.0 1.0\n'
    (tmp_path / "a.cube").write_text(head + CUBE + "1 1 1 # end\n")
    assert Look.read(tmp_path / "a.cube").grid.sum() == 3


def colours_of(name: str) -> Tensor:
    return load_photo(name, 120)[0].flatten(1).T.float()


def test_a_fitted_look_is_smooth_increasing_and_the_identity_elsewhere() -> None:
    c = colours_of("coffee")
    look = fit_look([c], [0.3 * torch.sin(20 * c)], points=17)
    for channel in range(3):
        assert (look.grid[channel].diff(dim=2 - channel) >= 0).all()
    move = look.grid - Look.identity(17).grid
    assert move.abs().max() > 0.05
    # coffee has no saturated blue or green
    assert move[:, -1, 0, 0].norm() < 0.3 * move.norm(dim=0).max()
    assert (look.map(c.T[:, None]) - c.T[:, None]).norm() > 1


def test_series_count_alike_and_the_look_is_one_for_all() -> None:
    """A large picture weighs no more than a small one."""
    a, b = colours_of("coffee"), colours_of("rocket")
    looks = [
        fit_look([a, each], [0.2 - a / 2, 0.1 * each], points=9) for each in (b, b.repeat(5, 1))
    ]
    assert (looks[0].grid - looks[1].grid).abs().max() < 1e-4


@pytest.fixture(scope="module")
def stylizer() -> Stylizer:
    style = load_photo("chelsea", 128).float() * torch.tensor([1.0, 0.8, 0.6]).view(3, 1, 1)
    return Stylizer(style, weights="tiny", constraint="photoreal")


def test_the_mean_and_covariance_of_a_style_are_those_of_its_colours(stylizer: Stylizer) -> None:
    style = load_photo("coffee", 128).float()
    statistics = Stylizer(style, weights="tiny").statistics.get()[-1]
    colours = style[0].flatten(1)
    torch.testing.assert_close(statistics.colours[0], colours.mean(1), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        statistics.covariance[0], colours.cov(correction=0), atol=1e-4, rtol=0
    )


def test_a_look_moves_towards_a_known_edit() -> None:
    """Content and style are the two halves of a photograph, one of them edited."""
    shares = []
    for name in ("coffee", "chelsea", "rocket"):
        photo = load_photo(name, 200)[0].float()
        edited = (photo ** torch.tensor([0.8, 1.0, 1.4]).view(3, 1, 1)) * 0.9
        halves, truths = (list(x.tensor_split(2, 2)) for x in (photo, edited))
        for content, style, truth in zip(halves, truths[::-1], truths, strict=True):
            look = Stylizer(style, weights="tiny", constraint="photoreal").look(content)
            errors = [(x - truth).square().mean() for x in (look(content), content)]
            shares.append(errors[0] / errors[1])
    *others, worst = sorted(shares)  # one half of the coffee tells little about the other
    assert max(others) < 0.5
    assert worst < 1.1


def test_a_picture_in_its_own_style_hardly_changes() -> None:
    for name in ("coffee", "chelsea", "rocket"):
        photo = load_photo(name, 200)[0].float()
        look = Stylizer(photo, weights="tiny", constraint="photoreal").look(photo)
        assert (look(photo) - photo).abs().mean() < 1.5 / 255


def test_half_types_and_batches(stylizer: Stylizer, native_half: None) -> None:
    photos = torch.stack([load_photo(name, 100)[0, :, :64, :64] for name in ("coffee", "rocket")])
    want = stylizer.look(photos[0].float()).grid
    for dtype in (torch.half, torch.bfloat16):
        assert (stylizer.look(photos[0].to(dtype)).grid - want).abs().max() < 0.02
    batch = stylizer.look(photos.float())
    assert (batch.grid - stylizer.look([*photos.float()]).grid).abs().max() < 0.01


def test_a_look_needs_the_refinement() -> None:
    photo = noise(3, 20, 20)
    solver = load_solver("tiny")
    for options in ({"weights": "tiny", "refine": False}, {"weights": solver}):
        stylizer = Stylizer(photo, constraint="photoreal", **options)
        with pytest.raises(ValueError, match="refine must be True for a look, with the features"):
            stylizer.look(photo)


def test_strength_and_constraints(stylizer: Stylizer) -> None:
    photo = load_photo("coffee", 100)[0].float()
    full = stylizer.look(photo)
    try:
        stylizer.strength = 0
        assert torch.allclose(stylizer.look(photo).grid, Look.identity().grid, atol=1e-6)
        stylizer.strength = 0.5
        middle = (full.grid + Look.identity().grid) / 2
        assert torch.allclose(stylizer.look(photo).grid, middle, atol=1e-5)
        stylizer.strength = 1
        stylizer.constraint = ["photoreal", "keep-luminance"]
        change = stylizer.look(photo)(photo) - photo
        assert (change.movedim(0, -1) @ LUMA).abs().mean() < 0.2 * change.abs().mean()
        stylizer.constraint = ["photoreal", "keep-colour"]
        change = stylizer.look(photo)(photo) - photo
        assert (change - change.mean(0)).abs().mean() < 0.2 * change.abs().mean()
    finally:
        stylizer.strength, stylizer.constraint = 1, "photoreal"


def test_a_look_beyond_the_range_is_clipped() -> None:
    """Other programs' files may hold such values; samples must not wrap around."""
    brighter = Look(1.1 * Look.identity(5).grid - 0.05)
    samples = np.array([[[255, 0, 128]]], np.uint8)
    assert brighter(samples)[0, 0].tolist() == [255, 0, 128]


def test_points_change_the_grid_and_not_the_look(stylizer: Stylizer) -> None:
    photo = load_photo("coffee", 100)[0].float()
    fine, coarse = stylizer.look(photo, 65), stylizer.look(photo, 17)
    assert (fine.points, coarse.points) == (65, 17)
    assert (fine(photo) - coarse(photo)).abs().max() < 0.02


def test_sizes_of_a_series_may_differ(stylizer: Stylizer) -> None:
    """A picture may be very long, hidden, or larger than the solve size."""
    photo = load_photo("coffee", 300)[0].float()
    hidden = images.Picture(photo, torch.zeros(photo.shape[1:]))
    stylizer.solve_size = 64
    try:
        look = stylizer.look([photo, noise(3, 16, 1000), hidden])
    finally:
        stylizer.solve_size = None
    assert (look(photo) - photo).abs().mean() > 0.02
    assert look(noise(3, 4, 5)).shape == (3, 4, 5)


def test_hidden_pixels_have_no_say(stylizer: Stylizer) -> None:
    photo = load_photo("coffee", 100)[0].float()
    alpha = torch.ones(photo.shape[1:])
    alpha[:, :50] = 0
    black, white = (photo.masked_fill(alpha == 0, value) for value in (0, 1))
    looks = [stylizer.look(images.Picture(each, alpha)) for each in (black, white)]
    assert torch.equal(looks[0].grid, looks[1].grid)


def test_errors(stylizer: Stylizer) -> None:
    photo = noise(3, 20, 20)
    with pytest.raises(ValueError, match="content must be at least one image, got an empty list"):
        stylizer.look([])
    with pytest.raises(ValueError, match=r"constraint must be 'photoreal', alone .*, got \(\)"):
        Stylizer(photo, weights="tiny").look(photo)
    with pytest.raises(RuntimeError, match="the stylizer has no style yet"):
        Stylizer(weights="tiny", constraint="photoreal").look(photo)
    with pytest.raises(ValueError, match="grid must be finite"):
        Look(torch.full((3, 2, 2, 2), float("nan")))
    with pytest.raises(ValueError, match="strength must be in \\[0, 1\\], got nan"):
        Look.identity().scaled(float("nan"))
    hidden = images.Picture(photo, torch.zeros(20, 20))
    with pytest.raises(ValueError, match="content must be visible somewhere"):
        stylizer.look(hidden)
    several = Stylizer([photo, photo], weights="tiny", constraint="photoreal")
    with pytest.raises(ValueError, match="style must be a single one for a look, got 2"):
        several.look(photo)
    with pytest.raises(ValueError, match=r"grid must have shape \(3, N, N, N\)"):
        Look(noise(3, 4, 4, 5))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "series").mkdir()
    for name, path in (
        ("chelsea", "style.png"),
        ("coffee", "series/a.png"),
        ("rocket", "series/b.jpg"),
    ):
        images.write(images.Picture(load_photo(name, 100)[0].float()), path)
    torch.manual_seed(0)
    solver = UnrolledSolver(updates=1, channels=(8,))
    solver.initialise(noise(1, 3, 32, 32), noise(1, 3, 32, 32, seed=2) / 2)
    save_solver(solver, Path("w.safetensors"), {"licence": "MIT"})
    return tmp_path


def run(*args: str) -> Result:
    result = CliRunner().invoke(cli, list(args))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


SETTINGS = "--style", "style.png", "--weights", "w.safetensors", "--device", "cpu"


@pytest.mark.parametrize("output", ["look.cube", "look.png"])
def test_lut_and_apply(folder: Path, output: str) -> None:
    result = run("lut", "series/a.png", "-o", output, "--points", "17", *SETTINGS)
    assert result.exit_code == 0, result.stderr
    assert "CIEDE2000 of" in result.stderr
    assert run("lut", "series/a.png", "-o", output, *SETTINGS).exit_code == 2  # exists
    result = run("apply", output, "series", "-o", "out", "--json")
    reports = [json.loads(line) for line in result.stdout.splitlines()]
    assert [report["output"] for report in reports] == ["out/a.png", "out/b.jpg"]
    assert all(report["peak_memory"] > 10**7 for report in reports)
    want = Look.read(output)(images.read("series/a.png"))
    found = images.read("out/a.png")
    np.testing.assert_array_equal(found.samples.numpy(), want.samples.numpy())
    assert (found.pixels - images.read("series/a.png").pixels).abs().mean() > 0.02


def test_one_look_for_a_series(folder: Path) -> None:
    """Equal colours become equal, whatever else a picture shows."""
    result = run("stylize", "series", "-o", "out", "--photoreal", "--one-look", *SETTINGS)
    assert result.exit_code == 0, result.stderr
    run("stylize", "series", "-o", "each", "--photoreal", *SETTINGS)
    stylizer = Stylizer("style.png", weights="w.safetensors", constraint="photoreal")
    pictures = [images.read(f"series/{name}") for name in ("a.png", "b.jpg")]
    want = stylizer.look(pictures)(pictures[0])
    difference = want.samples.int() - images.read("out/a.png").samples.int()
    assert difference.abs().max() <= 1
    assert (images.read("each/a.png").pixels - want.pixels).abs().mean() > 0.01


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("stylize", "series", "-o", "out", "--one-look"), "--one-look must be given with --photo"),
        (("lut", "series/a.png", "-o", "a.txt"), "must end in .cube, or in .png for a HALD image"),
        (("lut", "gone.png", "-o", "a.cube"), "gone.png cannot be read: No such file"),
        (("lut", "series/a.png", "-o", "no/a.cube"), "no/a.cube cannot be written: no is not a f"),
        (("lut", "tiny.png", "-o", "a.cube"), "tiny.png must be at least 16 pixels per side, got"),
        (
            ("stylize", "series", "-o", "out", "--photoreal", "--one-look", "--skip-existing"),
            "--one-look must be given without --skip-existing",
        ),
        (
            ("stylize", "series", "-o", "out", "--photoreal", "--one-look", "--no-refine"),
            "--one-look must be given without --no-refine",
        ),
        (
            ("stylize", "series", "-o", "out", "--photoreal", "--memory", "1GB"),
            "--memory must be given without --photoreal",
        ),
    ],
)
def test_bad_commands_say_so_and_leave_nothing(
    folder: Path, args: tuple[str, ...], message: str
) -> None:
    Image.new("RGB", (8, 8)).save("tiny.png")
    before = sorted(Path().rglob("*"))
    result = run(*args, *SETTINGS)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert sorted(Path().rglob("*")) == before


def test_a_series_with_pictures_that_cannot_be_restyled(folder: Path) -> None:
    """They are reported, or mapped, when their turn comes."""
    Image.new("RGB", (8, 8), "red").save("series/tiny.png")
    Image.new("RGB", (1200, 20), "blue").save("series/long.png")
    Path("series/bad.png").write_bytes(b"no picture")
    command = "stylize", "series", "-o", "out", "--photoreal", "--one-look", "--max-size", "50"
    result = run(*command, *SETTINGS)
    assert result.exit_code == 2
    assert "bad.png cannot be read" in result.stderr
    sizes = {path.name: Image.open(path).size for path in Path("out").iterdir()}
    assert sizes == {"a.png": (50, 34), "b.jpg": (50, 34), "tiny.png": (8, 8), "long.png": (50, 1)}


def test_a_look_that_cannot_be_read(folder: Path) -> None:
    Path("bad.cube").write_text("hello\n")
    result = run("apply", "bad.cube", "series", "-o", "out")
    assert result.exit_code == 2
    assert result.stderr.splitlines() == ["bad.cube must be a 3D LUT, got 'hello' in line 1"]


def test_a_look_of_a_very_long_picture(folder: Path) -> None:
    Image.new("RGB", (1200, 20), "blue").save("long.png")
    result = run("lut", "long.png", "-o", "long.cube", *SETTINGS)
    assert result.exit_code == 0, result.stderr


def test_the_report_of_a_large_photograph(folder: Path) -> None:
    command = (
        "stylize",
        "series/a.png",
        "-o",
        "out.png",
        "--photoreal",
        "--solve-size",
        "48",
        "--json",
    )
    report = json.loads(run(*command, *SETTINGS).stdout)
    assert report["size"] == [100, 67]
    assert report["solve_size"] == [48, 32]
    assert report["tiles"] == 1
    assert "restyled at 48 x 32, and the change applied at full size" in report["notes"]
    full = json.loads(run(*command[:-2], "full", "--json", "--force", *SETTINGS).stdout)
    assert full["solve_size"] == full["size"]
    assert not any("full size" in note for note in full["notes"])
    for bad in ("8", "many"):
        result = run(*command[:-2], bad, *SETTINGS)
        assert "must be at least 16 pixels, or full" in result.stderr
