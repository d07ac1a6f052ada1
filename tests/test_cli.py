"""The commands, with a small network, in this process and once in a process of their own."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from fastfcs import images
from fastfcs.cli import cli
from fastfcs.network import UnrolledSolver
from fastfcs.stylizer import Stylizer
from fastfcs.weights import save_solver

W, H = 40, 32


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with pictures and weights in it."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, shape in (("a.png", (H, W)), ("b.jpg", (H, W)), ("style.png", (96, 100))):
        Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8)).save(name)
    solver = UnrolledSolver(updates=1, channels=(8,))
    solver.initialise(torch.rand(1, 3, H, W), torch.rand(1, 3, H, W) / 2)
    save_solver(solver, Path("w.safetensors"), {"licence": "MIT"})
    return tmp_path


def run(*args: str, stdin: bytes | None = None, style: str = "style.png") -> Result:
    options = ["--style", style, "--weights", "w.safetensors", "--device", "cpu"]
    result = CliRunner().invoke(cli, ["stylize", *args, *options], input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def restyled(path: str | Path, **options: object) -> np.ndarray:
    stylizer = Stylizer("style.png", weights="w.safetensors", **options)  # type: ignore[arg-type]
    return images.to_samples(stylizer(images.read(path).pixels), 8)


def test_one_file(folder: Path) -> None:
    result = run("a.png", "-o", "out.png")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "out.png: 40 x 32, " in result.stderr
    found = np.asarray(Image.open("out.png"))
    np.testing.assert_array_equal(found, restyled("a.png"))
    assert (found != np.asarray(Image.open("a.png"))).any()


def test_photoreal_cutoff_and_strength(folder: Path) -> None:
    assert run("a.png", "-o", "p.png", "--photoreal", "--cutoff", "0.05").exit_code == 0
    want = restyled("a.png", constraint="photoreal", cutoff=0.05)
    np.testing.assert_array_equal(np.asarray(Image.open("p.png")), want)
    assert (want != restyled("a.png")).any()
    assert run("a.png", "-o", "s.png", "--strength", "0").exit_code == 0
    assert Image.open("s.png").tobytes() == Image.open("a.png").tobytes()


@pytest.mark.parametrize(
    ("flags", "refined"),
    [
        ([], False),
        (["--refine"], True),
        (["--photoreal"], True),
        (["--photoreal", "--refine"], True),
        (["--photoreal", "--no-refine"], False),
    ],
)
def test_photographs_are_refined_and_paintings_on_request(
    folder: Path, flags: list[str], refined: bool
) -> None:
    constraint = "photoreal" if "--photoreal" in flags else None
    assert run("a.png", "-o", "r.png", *flags).exit_code == 0
    found = np.asarray(Image.open("r.png")).astype(int)
    want, other = (
        restyled("a.png", constraint=constraint, refine=r) for r in (refined, not refined)
    )
    assert np.abs(found - want).max() <= 1
    assert np.abs(found - other).mean() > 1


def test_many_files_and_one_bad_one(folder: Path) -> None:
    Path("bad.png").write_bytes(b"no picture")
    Image.new("RGB", (8, 8)).save("tiny.png")
    result = run("a.png", "bad.png", "gone.png", "tiny.png", "b.jpg", "-o", "out", "--json")
    assert result.exit_code == 2
    assert sorted(p.name for p in Path("out").iterdir()) == ["a.png", "b.jpg"]
    reports = [json.loads(line) for line in result.stdout.splitlines()]
    assert [report["input"] for report in reports] == [
        "a.png",
        "bad.png",
        "gone.png",
        "tiny.png",
        "b.jpg",
    ]
    files, how = ("input", "output", "size"), ("solve_size", "tiles", "notes")
    assert set(reports[0]) == {*files, *how, "seconds", "peak_memory"}
    assert reports[0]["size"] == [W, H]
    assert reports[0]["output"] == "out/a.png"
    assert reports[0]["notes"] == []
    assert reports[0]["seconds"] > 0
    assert reports[1]["error"] == (
        "bad.png cannot be read: not a JPEG, PNG, TIFF, WebP, AVIF, HEIC, JPEG XL, JPEG 2000, BMP, "
        "GIF or raw picture"
    )
    assert reports[2]["error"] == "gone.png cannot be read: No such file or directory"
    assert reports[3]["error"] == (
        "tiny.png: content must be at least 16 pixels per side, got 8 x 8"
    )
    for report in reports[1:4]:
        assert report["error"] in result.stderr


def test_a_folder(folder: Path) -> None:
    photos = Path("photos")
    photos.mkdir()
    Image.open("a.png").save(photos / "a.png")
    Image.open("b.jpg").save(photos / "c.BMP")
    (photos / "readme.txt").write_text("text")
    result = run("photos", "-o", "new/out")
    assert result.exit_code == 0
    assert sorted(p.name for p in Path("new/out").iterdir()) == ["a.png", "c.png"]
    assert "photos: 1 other file ignored\n" in result.stderr
    Image.open("a.png").save(photos / "c.png")
    result = run("photos", "-o", "other")
    assert result.exit_code == 2
    assert "photos/c.BMP and photos/c.png would both become other/c.png" in result.stderr
    assert not Path("other").exists()


def test_nothing_is_overwritten_without_force(folder: Path) -> None:
    Path("out").mkdir()
    Path("out/b.jpg").write_bytes(b"old")
    result = run("a.png", "b.jpg", "-o", "out")
    assert result.exit_code == 2
    assert result.stderr == "out/b.jpg exists already; --force overwrites\n"
    assert [p.name for p in Path("out").iterdir()] == ["b.jpg"]
    assert Path("out/b.jpg").read_bytes() == b"old"
    assert run("a.png", "b.jpg", "-o", "out", "--force").exit_code == 0
    assert images.read("out/b.jpg").size == (W, H)
    before = Path("a.png").read_bytes()
    assert run("a.png", "-o", "a.png").exit_code == 2
    assert Path("a.png").read_bytes() == before


def test_a_link_stays_and_its_target_is_written(folder: Path) -> None:
    Path("elsewhere").mkdir()
    Path("link.png").symlink_to("elsewhere/target.png")
    assert run("a.png", "-o", "link.png").exit_code == 0  # the target did not exist
    result = run("a.png", "-o", "link.png")
    assert (result.exit_code, result.stderr) == (2, "link.png exists already; --force overwrites\n")
    Path("elsewhere/target.png").write_bytes(b"old")
    assert run("a.png", "-o", "link.png", "--force").exit_code == 0
    assert Path("link.png").is_symlink()
    np.testing.assert_array_equal(np.asarray(Image.open("elsewhere/target.png")), restyled("a.png"))
    assert [path.name for path in Path("elsewhere").iterdir()] == ["target.png"]
    Path("lost.png").symlink_to("gone/target.png")
    result = run("a.png", "-o", "lost.png")
    assert result.exit_code == 2
    assert result.stderr.startswith("lost.png cannot be written: ")
    assert "gone is not a folder" in result.stderr
    assert Path("lost.png").is_symlink()


@pytest.fixture
def photos(folder: Path) -> Path:
    """A folder as a computer leaves it: 2 pictures, one in a subfolder, among hidden files."""
    photos = folder / "photos"
    for path in ("a.png", "._a.png", ".a1b2c3d4.77.part", "day/a.png", "day/.thumbs/x.png"):
        (photos / path).parent.mkdir(parents=True, exist_ok=True)
        Image.open("a.png").save(photos / path, "PNG")
    return photos


def pictures_below(folder: str) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*.png"))


def test_hidden_files_are_left_alone(photos: Path) -> None:
    result = run("photos", "-o", "out")
    assert result.exit_code == 0
    assert pictures_below("out") == ["a.png"]
    assert result.stderr.startswith("photos: 1 folder, 2 hidden files ignored\n")
    (photos / "a.png").unlink()
    result = run("photos", "-o", "none")
    assert result.exit_code == 2
    assert result.stderr.startswith("photos must contain pictures")


def test_subfolders_are_mirrored(photos: Path) -> None:
    (photos / "loop").symlink_to(photos)
    for number in range(2):  # the results, in the folder itself, are no pictures of it
        result = run("photos", "-o", "photos/out", "--recursive", *["--force"][:number])
        assert result.exit_code == 0, result.stderr
        assert pictures_below("photos/out") == ["a.png", "day/a.png"]
    note = "photos: 2 hidden files, 1 hidden folder, 1 linked folder ignored\n"
    assert result.stderr.startswith(note)
    np.testing.assert_array_equal(
        np.asarray(Image.open("photos/out/day/a.png")), restyled("photos/day/a.png")
    )


def test_a_batch_is_resumed(photos: Path) -> None:
    Path("out").mkdir()
    Path("out/a.png").write_bytes(b"done")
    Path("out/.a1b2c3d4.77.part").write_bytes(b"half")
    batch = ("photos", "-o", "out", "--recursive", "--skip-existing")
    result = run(*batch, "--json")
    assert result.exit_code == 0
    assert "1 picture skipped: the output exists\n" in result.stderr
    (report,) = map(json.loads, result.stdout.splitlines())
    assert report["output"] == "out/day/a.png"
    assert Path("out/a.png").read_bytes() == b"done"
    result = run(*batch)
    assert (result.exit_code, result.stderr.splitlines()[1:]) == (
        0,
        ["2 pictures skipped: the output exists"],
    )
    result = run(*batch, "--force")
    assert (result.exit_code, result.stderr) == (
        2,
        "--skip-existing must be given without --force\n",
    )
    result = run("a.png", "-o", "out/a.png", "--skip-existing")
    assert (result.exit_code, result.stderr) == (0, "1 picture skipped: the output exists\n")


@pytest.mark.parametrize(
    ("refine", "constraint"), [(False, None), (True, None), (True, "photoreal")]
)
def test_progress_within_a_picture(folder: Path, refine: bool, constraint: str | None) -> None:
    """Reading, each update and writing count equally, also if a picture cannot be restyled."""
    from fastfcs.steps import follow

    stylizer = Stylizer("style.png", weights="w.safetensors", refine=refine, constraint=constraint)
    parts: list[float] = []
    with follow(stylizer, parts.append), torch.inference_mode():
        stylizer(images.read("a.png"))
    width, height = images.read("a.png").size
    part = 1 / (stylizer.work(height, width) / (height * width) + 2)
    assert parts[0] == pytest.approx(part)
    assert parts[-1] == pytest.approx(2 * part)  # for reading and writing
    assert sum(parts) == pytest.approx(1)
    with pytest.raises(OSError, match="bad"), follow(stylizer, parts.append):
        raise OSError("bad")
    assert sum(parts) == pytest.approx(2)
    stylizer(images.read("a.png"))
    assert sum(parts) == pytest.approx(2)


def test_the_bar_is_for_terminals(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "1/1" not in run("a.png", "-o", "plain.png").stderr
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes standard error for a terminal
    assert "1/1" in run("a.png", "-o", "out.png").stderr
    assert "1/1" not in run("a.png", "-o", "json.png", "--json").stderr


def test_a_small_style_is_reported(folder: Path) -> None:
    result = run("a.png", "-o", "out.png", style="b.jpg")
    note = "b.jpg: only 40 x 32 pixels: a style this small has unreliable strokes and colours\n"
    assert (result.exit_code, result.stderr.startswith(note)) == (0, True)
    assert "only" not in run("a.png", "-o", "out.png", "--force").stderr


def test_standard_input_and_output(folder: Path) -> None:
    result = run("-", "-o", "-", stdin=Path("a.png").read_bytes())
    assert result.exit_code == 0
    found = np.asarray(Image.open(io.BytesIO(result.stdout_bytes)))
    np.testing.assert_array_equal(found, restyled("a.png"))
    result = run("-", "-o", "-", stdin=b"nothing")
    assert (result.exit_code, result.stdout_bytes) == (2, b"")
    assert "cannot be read: not a JPEG" in result.stderr


def test_reductions_are_reported(folder: Path) -> None:
    Image.open("a.png").resize((1000, 500)).save("large.png")
    result = run("large.png", "-o", "out.png", "--max-size", "100", "--json", style="large.png")
    (report,) = map(json.loads, result.stdout.splitlines())
    assert report["size"] == [100, 50]
    assert Image.open("out.png").size == (100, 50)
    assert report["notes"] == [
        "large.png: reduced from 1000 x 500 to a longer side of 768 pixels",
        "reduced from 1000 x 500 to a longer side of 100 pixels",
    ]
    assert "large.png: reduced from 1000 x 500 to a longer side of 768 pixels" in result.stderr


def test_alpha_profile_and_16_bits_go_through(folder: Path) -> None:
    rng = np.random.default_rng(0)
    deep = images.Picture(
        images.from_samples(rng.integers(0, 65536, (H, W, 3), dtype=np.uint16)),
        alpha=torch.rand(H, W).mul(65535).round() / 65535,
        depth=16,
    )
    images.write(deep, "deep.tif")
    assert run("deep.tif", "-o", "out.png").exit_code == 0
    out = images.read("out.png")
    assert out.depth == 16
    assert out.alpha is not None
    assert deep.alpha is not None
    torch.testing.assert_close(out.alpha, deep.alpha, rtol=0, atol=1e-6)
    want = Stylizer("style.png", weights="w.safetensors")(deep)
    torch.testing.assert_close(out.pixels, want.pixels, rtol=0, atol=1e-4)
    result = run("deep.tif", "-o", "out.jpg")
    assert result.exit_code == 2
    assert "deep.tif: JPEG cannot hold this picture's transparency" in result.stderr
    assert not Path("out.jpg").exists()


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("a.png", "-o", "out.gif"), "out.gif must end in one of .jpg, .jpeg, .png"),
        (("a.png", "-o", "no/out.png"), "no/out.png cannot be written: no is not a folder"),
        (("a.png", "b.jpg", "-o", "w.safetensors"), "output must be a folder"),
        (("a.png", "b.jpg", "-o", "-"), "output must be a folder"),
        (("a.png", "-", "-o", "out"), "content must be - alone"),
        (("a.png", "-o", "-", "--json"), "--json must be given without -o -"),
        (("a.png", "-o", "o.png", "--cutoff", "0.1"), "--cutoff must be given with --photoreal"),
        *(
            (
                ("a.png", "-o", "o.png", "--photoreal", *o),
                f"{o[0]} must be given without --photoreal",
            )
            for o in (("--levels", "2"), ("--structure", "0"), ("--brush", "2"))
        ),
        (("a.png", "-o", "o.png", "--strength", "2"), "strength must be in [0, 1], got 2.0"),
        (
            ("a.png", "-o", "o.png", "--device", "abacus"),
            "device must be available here, got 'abacus'",
        ),
        (("a.png", "-o", "o.png", "--weights", "none"), "weights must be a safetensors file"),
        (("a.png", "-o", "o.png", "--style", "gone.jpg"), "gone.jpg cannot be read: No such file"),
        (
            ("a.png", "-o", "o.png", "--photoreal", "--cutoff", "0"),
            "cutoff must be in (0, 9), got 0.0",
        ),
        (("empty", "-o", "out"), "empty must contain pictures"),
    ],
)
def test_bad_options_are_one_sentence(folder: Path, args: tuple[str, ...], sentence: str) -> None:
    Path("empty").mkdir()
    defaults = ["--style", "style.png", "--weights", "w.safetensors"]
    result = CliRunner().invoke(cli, ["stylize", *defaults, *args])
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert sentence in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not [p for p in Path().iterdir() if p.name.startswith(("o.", "out"))]


def test_info(folder: Path) -> None:
    result = CliRunner().invoke(cli, ["info", "--weights", "w.safetensors"])
    assert result.exit_code == 0
    assert "weights: w.safetensors\n" in result.output
    assert "licence: MIT\n" in result.output
    assert "parameters: " in result.output
    assert CliRunner().invoke(cli, ["info", "--weights", "none"]).exit_code == 2


@pytest.mark.parametrize("command", ["train", "tune"])
def test_training_overwrites_only_its_own_run(
    folder: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastfcs import training

    calls: list[object] = []
    monkeypatch.setattr(training, command, lambda *args, **options: calls.append(args))
    args = ["style.png"] if command == "tune" else ["--style", "."]
    args = [command, *args, "--content", ".", "-o", "w.safetensors", "--device", "cpu"]
    result = CliRunner().invoke(cli, args)
    assert (result.exit_code, result.stderr) == (
        2,
        "w.safetensors exists already; --force overwrites\n",
    )
    assert not calls
    assert CliRunner().invoke(cli, [*args, "--force"]).exit_code == 0
    Path("w.checkpoint.pt").touch()  # resumed by the same command
    assert CliRunner().invoke(cli, args).exit_code == 0
    assert len(calls) == 2


def test_a_pack_is_not_overwritten(folder: Path) -> None:
    Path("p.pack").write_bytes(b"old")
    args = ["train", "--content", ".", "--style", ".", "--holdout", "1", "--pack", "p.pack"]
    result = CliRunner().invoke(cli, args)
    assert (result.exit_code, result.stderr) == (2, "p.pack exists already; --force overwrites\n")
    assert Path("p.pack").read_bytes() == b"old"
    assert CliRunner().invoke(cli, [*args, "--force"]).exit_code == 0
    assert Path("p.pack").read_bytes() != b"old"


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        (("--tolerance", "-1"), "tolerance must be finite and not negative, got -1.0"),
        (("--style-weight", "nan"), "style_weight must be finite and not negative, got nan"),
        (("--content-weight", "inf"), "content_weight must be finite and not negative, got inf"),
        (("--matting-weight", "-2"), "matting_weight must be finite and not negative, got -2.0"),
        (("--structure-weight", "nan"), "structure_weight must be finite and not negative, got"),
        (("--lr", "inf"), "lr must be positive and finite, got inf"),
        (("--lr", "nan"), "lr must be positive and finite, got nan"),
        (("--style-layers", "conv1_2=nan"), "style_layers must have finite weights, none negative"),
        (("--content-layers", "conv1_2=0"), "content_layers must have finite weights, none nega"),
    ],
)
def test_numbers_of_the_solver_are_checked(
    folder: Path, option: tuple[str, str], sentence: str
) -> None:
    args = ["a.png", "--style", "style.png", "-o", "o.png", "--steps", "1", "--device", "cpu"]
    result = CliRunner().invoke(cli, ["optimize", *args, *option])
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert sentence in result.stderr
    assert not Path("o.png").exists()


@pytest.mark.parametrize("command", ["train", "tune"])
def test_training_commands_pass_on_their_options(
    folder: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Options that are not given have the defaults of the settings."""
    from inspect import signature

    from fastfcs import training

    calls: list[dict[str, object]] = []
    bound = signature(getattr(training, command)).bind

    def record(*args: object, **options: object) -> None:
        calls.append(bound(*args, **options).arguments)
        raise ValueError("an argument out of range")

    monkeypatch.setattr(training, command, record)
    args = ["style.png"] if command == "tune" else ["--style", str(folder), "--style", "."]
    options = ["--content", ".", "-o", "x.safetensors", "--steps", "7", "--device", "cpu"]
    result = CliRunner().invoke(cli, [command, *args, *options])
    assert (result.exit_code, result.stderr) == (2, "an argument out of range\n")
    (arguments,) = calls
    style = Path("style.png") if command == "tune" else (folder, Path())
    settings = training.TuneConfig if command == "tune" else training.TrainConfig
    assert {name: value for name, value in arguments.items() if value is not None} == {
        "style": style,
        "content": Path(),
        "out": Path("x.safetensors"),
        "config": settings(steps=7),
        "device": "cpu",
    }


def test_as_a_process(folder: Path) -> None:
    """The screen shows the report alone, although the picture makes Pillow warn."""
    with Image.open("a.png") as image:
        image.save("odd.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
    with pytest.warns(UserWarning, match="Corrupt EXIF"), Image.open("odd.jpg") as image:
        image.getexif()
    options = ["--style", "style.png", "--weights", "w.safetensors"]
    command = [sys.executable, "-c", "from fastfcs.cli import main; main()", "stylize"]
    done = subprocess.run(
        [*command, "odd.jpg", "-o", "out.png", *options], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")
    note, report = done.stderr.splitlines()
    assert note == "odd.jpg: 1 unreadable EXIF tag dropped"
    assert report.startswith("out.png: 40 x 32, ")


def test_a_command_imports_what_serves_compilers_on_demand() -> None:
    code = (
        "import gc, sys; from fastfcs.start import import_torch; import_torch(); "
        "import inspect, fastfcs, torch; assert gc.isenabled(); inspect.getmodule(code := 1); "
        "fastfcs.Stylizer(torch.rand(1, 3, 16, 16))(torch.rand(1, 3, 16, 16)); "
        "name = 'torch._meta_registrations'; "
        "assert not hasattr(sys.modules[name], '__file__'); "
        "assert torch._meta_registrations.meta_index_Tensor; "
        "assert hasattr(sys.modules[name], '__file__'); "
        "torch.export.export(torch.nn.Conv2d(3, 4, 3), (torch.rand(1, 3, 8, 8),))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_help_does_not_import_torch() -> None:
    code = (
        "import sys; from fastfcs.cli import cli; "
        "cli(['stylize', '--help'], standalone_mode=False); "
        "assert not {'torch', 'numpy', 'PIL', 'rich', 'safetensors'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--photoreal" in done.stdout
