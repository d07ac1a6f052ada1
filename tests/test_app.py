"""The page's work without a browser: settings, visitors, limits, and the command that serves it."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
import shlex
import shutil
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hostile import hostile_files, png_of_size
from hypothesis import given
from hypothesis import strategies as st
from pictures import stretched_photo
from PIL import Image

from fastfcs import Stylizer, images
from fastfcs.app import build
from fastfcs.app import visit as visit_module
from fastfcs.app import visits as visits_module
from fastfcs.app.items import Preview
from fastfcs.app.settings import Settings
from fastfcs.app.turns import Turns
from fastfcs.app.views import progress, strip_view, styles_view
from fastfcs.app.visit import CancelledError, Upload, Visit
from fastfcs.app.visits import Visits
from fastfcs.cli import cli
from fastfcs.cli.app import stay_offline

PAINTING = Settings(photograph=False, finer=False)


def sent(*paths: Path) -> list[Upload]:
    """Files as visitors send them."""
    return [Upload(path, path.name) for path in paths]


def silent(part: float) -> None:
    """Report no progress."""


@pytest.fixture(scope="module")
def stylizer() -> Stylizer:
    return Stylizer(refine=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures to upload."""
    made = tmp_path / "uploads"
    made.mkdir()
    for name in ("chelsea", "coffee", "rocket"):
        images.write(images.Picture(stretched_photo(name, 72, 96)[0]), made / f"{name}.png")
    return made


@pytest.fixture
def visit(stylizer: Stylizer, folder: Path) -> Iterator[Visit]:
    """A visitor who has chosen a photo and a style."""
    made = Visit(stylizer, Turns(), folder.parent / "visit")
    made.take_photo(*sent(folder / "chelsea.png"))
    made.take_styles(sent(folder / "coffee.png"))
    yield made
    made.close()
    assert not (folder.parent / "visit").exists()


def shown(preview: Preview | str) -> np.ndarray:
    """The pixels of a preview or a data URL."""
    url = preview if isinstance(preview, str) else preview.url
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))), float)


def mask(colour: str, box: tuple[int, int, int, int] | None = None) -> str:
    """A mask of 96 x 72 pixels as a data URL, black but for a box."""
    image = Image.new("RGB", (96, 72))
    image.paste(colour, box or (0, 0, 48, 72))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


@pytest.mark.parametrize(
    ("settings", "styles"),
    [
        (Settings(), ["coffee.png"]),
        (Settings(balance=0.8, strength=0.7, keep="luminance"), ["coffee.png"]),
        (Settings(finer=False), ["coffee.png", "rocket.png"]),
        (Settings(photograph=False, finer=False, balance=0.9, brush=2), ["coffee.png"]),
        (Settings(photograph=False, keep="colour", brush=2), ["udnie", "the-scream"]),
    ],
)
def test_the_command_makes_the_same_picture(
    visit: Visit,
    folder: Path,
    settings: Settings,
    styles: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    visit.remove(0)
    for style in styles:
        if style.endswith(".png"):
            visit.take_styles(sent(folder / style), blend=True)
        else:
            visit.choose(style, blend=True)
    if len(styles) > 1:
        visit.weigh(1, 0.25)
    result = visit.restyle(settings, silent)
    page = np.asarray(Image.open(visit.download(result)), float)
    monkeypatch.chdir(folder)
    program, *words = shlex.split(result.choice.command(result.settings))
    assert program == "fastfcs"
    assert CliRunner().invoke(cli, words).exit_code == 0
    command = np.asarray(Image.open(words[-1]), float)
    # The page works with 16 bits and reduces references to 8 bits first.
    assert np.abs(page - command).mean() < 0.3
    photo = np.asarray(Image.open("chelsea.png"), float)
    assert np.abs(page - photo).mean() > 5


def test_the_command_with_masks(
    visit: Visit, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = shown(list(visit.previews(PAINTING))[-1])
    masks = [mask("red"), mask("red", (0, 0, 96, 36))]
    visit.paint(masks)
    assert np.abs(shown(list(visit.previews(PAINTING))[-1]) - plain).mean() > 2
    result = visit.restyle(PAINTING, silent)
    page = np.asarray(Image.open(visit.download(result)), float)
    monkeypatch.chdir(folder)
    for name, url in zip(visit.choice.mask_names, masks, strict=True):
        Path(name).write_bytes(base64.b64decode(url.partition(",")[2]))
    assert (
        CliRunner().invoke(cli, shlex.split(result.choice.command(result.settings))[1:]).exit_code
        == 0
    )
    command = np.asarray(Image.open("chelsea-coffee.png"), float)
    assert np.abs(page - command).mean() < 0.3


def test_masks_of_different_colours_are_noted(visit: Visit) -> None:
    visit.paint([mask("red", (0, 0, 24, 72)), mask("blue")])
    assert visit.notes() == [
        "25% of the photo is not restyled: its colour is painted on the photo only."
    ]
    visit.paint([mask("black"), mask("black")])
    assert visit.notes() == []
    assert "--mask" not in visit.command(PAINTING)


def test_another_photo_or_style_drops_the_masks(visit: Visit, folder: Path) -> None:
    for change in (
        lambda: visit.take_photo(*sent(folder / "rocket.png")),
        lambda: visit.take_styles(sent(folder / "rocket.png")),
    ):
        visit.paint([mask("red"), mask("red")])
        assert "--mask" in visit.command(PAINTING)
        change()
        assert "--mask" not in visit.command(PAINTING)
    visit.choose("udnie")
    visit.paint([mask("red"), mask("red")])
    assert not visit.choice.can_paint
    assert "--mask" not in visit.command(PAINTING)


@given(
    st.booleans(),
    st.integers(0, 20),
    st.integers(0, 20),
    st.sampled_from([0.25, 1.0, 4.0]),
    st.sampled_from([None, "colour", "luminance"]),
    st.booleans(),
)
def test_settings_and_options_agree(
    photograph: bool, strength: int, balance: int, brush: float, keep: str | None, finer: bool
) -> None:
    settings = Settings(photograph, strength / 20, balance / 20, brush, keep, finer)
    command = cli.commands["stylize"]  # type: ignore[attr-defined]
    words = ["a.png", "--style", "b.png", "-o", "c.png", *settings.options()]
    given = command.make_context("stylize", words).params
    arguments = settings.arguments()
    assert given["photoreal"] == ("photoreal" in arguments["constraint"])
    assert (given["keep"] is not None) == (settings.keep is not None)
    assert given["strength"] == arguments["strength"]
    assert (given["refine"] if given["refine"] is not None else photograph) == finer
    for name, default in (("cutoff", 0.02), ("structure", 0.25), ("brush", 1.0)):
        if name in arguments:
            assert (default if given[name] is None else given[name]) == arguments[name]
        else:
            assert given[name] is None


def test_the_balance_is_monotonic() -> None:
    cutoffs = [Settings(balance=k / 10).cutoff for k in range(11)]
    structures = [Settings(False, balance=k / 10).structure for k in range(11)]
    assert cutoffs == sorted(cutoffs)
    assert structures == sorted(structures, reverse=True)
    assert (structures[0], structures[-1]) == (1, 0)


def test_results_are_of_what_was_chosen_when_they_began(visit: Visit, folder: Path) -> None:
    def report(part: float) -> None:
        visit.take_photo(*sent(folder / "rocket.png"))
        visit.choose("udnie")

    result = visit.restyle(PAINTING, report)
    assert result.title == "Painting, coffee"
    assert result.choice != visit.choice
    assert visit.download(result).name == "chelsea-coffee.png"
    assert result.choice.command(PAINTING).startswith("fastfcs stylize chelsea.png --style coffee")
    visit.shown = result
    assert visit.look(Settings())[0].name == "chelsea-coffee.cube"
    visit.shown = None
    assert visit.look(Settings())[0].name == "rocket-udnie.cube"


def test_masks_of_pictures_with_like_names(visit: Visit, folder: Path) -> None:
    visit.take_photo(Upload(folder / "rocket.png", "cat-style.jpg"))
    visit.take_styles([Upload(folder / "coffee.png", "cat.jpg")])
    assert len(set(visit.choice.mask_names)) == 2
    visit.paint([mask("red"), mask("red", (0, 0, 96, 36))])
    masks = visit.choice.masks
    assert masks is not None
    assert masks.content[0, 60, 90] != masks.style[0, 60, 90] or (
        masks.content[0, 10, 90] != masks.style[0, 10, 90]
    )


def test_masks_of_another_size_are_refused(visit: Visit) -> None:
    stream = io.BytesIO(png_of_size(13_000, 13_000))
    bomb = f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
    with pytest.raises(ValueError, match=r"got \(13000, 13000\)"):
        visit.paint([bomb, bomb])
    assert visit.choice.masks is None


def test_nothing_is_written_after_the_end(visit: Visit, folder: Path) -> None:
    def report(part: float) -> None:
        visit.close()
        visit.cancelled["picture"].clear()  # as late as can be

    with pytest.raises(CancelledError):
        visit.restyle(PAINTING, report)
    with pytest.raises(CancelledError):
        visit.take_photo(*sent(folder / "rocket.png"))
    assert not visit._folder.exists()


def test_waiting_can_be_cancelled(stylizer: Stylizer, folder: Path) -> None:
    turns = Turns()
    visit = Visit(stylizer, turns, folder.parent / "visit")
    visit.take_photo(*sent(folder / "rocket.png"))
    visit.choose("udnie")
    threading.Timer(0.3, visit.cancel).start()
    with turns.long(), pytest.raises(CancelledError):
        visit.restyle(PAINTING, silent)


@pytest.mark.parametrize(
    "name", ["é" * 120 + ".png", "n" * 250 + ".png", "q'u\"o`t $(x) <b>&\n%41.png", "..", ".png"]
)
def test_any_name(visit: Visit, folder: Path, name: str) -> None:
    visit.take_photo(Upload(folder / "rocket.png", name))
    visit.take_styles([Upload(folder / "coffee.png", name)])
    result = visit.restyle(PAINTING, silent)
    path = visit.download(result)
    assert images.read(path).size == (96, 72)
    assert path.parent.parent == visit._folder
    assert visit.look(Settings())[0].exists()
    assert len(shlex.split(visit.command(PAINTING))) == 7


def test_names_like_options_and_with_blanks(visit: Visit, folder: Path) -> None:
    (folder / "coffee.png").rename(folder / "-v.png")
    visit.take_styles(sent(folder / "-v.png"))
    assert "--style ./-v.png" in visit.command(Settings())
    (folder / "rocket.png").rename(folder / "a rocket; rm.png")
    visit.take_photo(*sent(folder / "a rocket; rm.png"))
    assert shlex.split(visit.command(Settings()))[2] == "a rocket; rm.png"


def test_previews_follow_the_controls(visit: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    quick, finer = map(shown, visit.previews(Settings()))
    assert np.abs(quick - finer).mean() > 0.5
    photo = shown(visit.choice.photo.thumbnail)  # type: ignore[union-attr]
    monkeypatch.setattr(Visit, "_restyler", None)  # neither is the photo restyled again
    (whole,) = map(shown, visit.previews(Settings()))
    np.testing.assert_array_equal(whole, finer)
    (half,) = map(shown, visit.previews(Settings(strength=0.5)))
    assert np.abs(half - (photo + finer) / 2).mean() < 3  # they are compressed
    (none,) = map(shown, visit.previews(Settings(strength=0)))
    np.testing.assert_array_equal(none, photo)


def test_statistics_of_a_style_are_kept(visit: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = Stylizer.set_style

    def counted(self: Stylizer, *args: object, **options: object) -> Stylizer:
        calls.append(args)
        return original(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Stylizer, "set_style", counted)
    for balance in (0.2, 0.4, 0.6):
        list(visit.previews(Settings(False, balance=balance, finer=False)))
    assert len(calls) == 1
    list(visit.previews(Settings(False, brush=2, finer=False)))
    assert len(calls) == 2
    for k in range(20):
        visit.weigh(0, 1 - k / 40)
        list(visit.previews(PAINTING))
    assert len(visit._statistics) <= visit_module._CACHED


def test_a_photo_and_a_style_are_asked_for(stylizer: Stylizer, folder: Path) -> None:
    visit = Visit(stylizer, Turns(), folder.parent / "visit")
    with pytest.raises(ValueError, match=r"^Choose a photo\.$"):
        list(visit.previews(Settings()))
    visit.take_photo(*sent(folder / "coffee.png"))
    with pytest.raises(ValueError, match=r"^Choose a style: a reference picture or a preset\.$"):
        visit.restyle(Settings(), silent)
    with pytest.raises(ValueError, match="Choose a style"):
        visit.restyle_batch(Settings(), silent)
    assert visit.command(Settings()) == ""
    visit.choose("udnie")
    visit.choose("mosaic", blend=True)
    visit.weigh(0, 0)
    visit.weigh(1, 0)
    with pytest.raises(ValueError, match=r"^At least one style must have a weight above 0\.$"):
        list(visit.previews(Settings()))


def test_choosing_styles(stylizer: Stylizer, folder: Path) -> None:
    visit = Visit(stylizer, Turns(), folder.parent / "visit")

    def names() -> list[str]:
        return [style.name for style in visit.choice.styles]

    visit.choose("udnie")
    visit.choose("mosaic")
    assert names() == ["mosaic"]
    visit.choose("udnie", blend=True)
    visit.take_styles(sent(folder / "coffee.png", folder / "rocket.png"), blend=True)
    assert names() == ["mosaic", "udnie", "coffee.png", "rocket.png"]
    with pytest.raises(ValueError, match=r"^At most 4 styles can be blended, got 5\.$"):
        visit.choose("pencil", blend=True)
    assert len(names()) == 4
    visit.choose("udnie", blend=True)  # once more: no longer
    assert names() == ["mosaic", "coffee.png", "rocket.png"]
    visit.remove(0)
    assert names() == ["coffee.png", "rocket.png"]
    visit.take_styles(sent(folder / "chelsea.png"))
    assert names() == ["chelsea.png"]
    with pytest.raises(ValueError, match="preset must be one of"):
        visit.choose("../universal")
    view = styles_view(visit)
    assert [style["preset"] for style in view["chosen"]] == [None]
    assert len(view["presets"]) == 12


@pytest.mark.parametrize("format", ["jpg", "png", "tif", "webp", "avif", "gif", "bmp"])
def test_downloads_have_the_format_of_the_photo(visit: Visit, folder: Path, format: str) -> None:
    source = folder / f"photo.{format}"
    Image.open(folder / "rocket.png").save(source)
    visit.take_photo(*sent(source))
    result = visit.restyle(PAINTING, silent)
    path = visit.download(result)
    expected = "png" if format in ("gif", "bmp") else format
    assert path.name == f"photo-coffee.{expected}"
    assert images.read(path).size == (96, 72)
    for suffix, depth in ((".png", 8), (".tiff", 16)):
        assert images.read(visit.download(result, suffix)).depth == depth


def test_downloads_keep_metadata_and_depth(visit: Visit, folder: Path) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 6  # turned by a quarter
    Image.open(folder / "rocket.png").save(folder / "photo.jpg", exif=exif, dpi=(300, 300))
    visit.take_photo(*sent(folder / "photo.jpg"))
    result = visit.restyle(Settings(), silent)
    made = Image.open(visit.download(result))
    assert made.size == (72, 96)
    assert made.getexif()[0x010F] == "Maker"
    assert made.info["dpi"] == (300, 300)
    deep = images.read(visit.download(result, ".tiff"))
    low = np.asarray(deep.samples, np.int64) % 257
    assert deep.exif is not None
    assert (low != 0).mean() > 0.5  # not 8 bits in the place of 16


def test_transparency_is_kept(visit: Visit, folder: Path) -> None:
    image = Image.open(folder / "rocket.png")
    alpha = Image.new("L", image.size, 255)
    alpha.paste(0, (0, 0, 30, 72))
    image.putalpha(alpha)
    image.save(folder / "cutout.png")
    visit.take_photo(*sent(folder / "cutout.png"))
    assert shown(list(visit.previews(PAINTING))[-1]).shape == (72, 96, 4)
    made = Image.open(visit.download(visit.restyle(PAINTING, silent)))
    np.testing.assert_array_equal(np.asarray(made)[..., 3], np.asarray(alpha))


def test_the_last_results_are_kept(visit: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visit_module, "_RESULTS", 2)
    made = [visit.restyle(Settings(False, strength=s, finer=False), silent) for s in (0.3, 0.6, 1)]
    assert visit.results == [made[2], made[1]]
    assert [result.file.exists() for result in made] == [False, True, True]
    visit.shown = made[1]
    view = strip_view(visit)
    assert view["current"] == 1
    assert [result["text"] for result in view["results"]] == ["default settings", "strength 60%"]
    assert view["results"][0]["title"] == "Painting, coffee"


def test_cancelling(visit: Visit) -> None:
    parts: list[float] = []

    def report(part: float) -> None:
        parts.append(part)
        if len(parts) == 2:
            visit.cancel()

    with pytest.raises(CancelledError):
        visit.restyle(PAINTING, report)
    assert visit.results == []
    assert 0 < sum(parts) < 0.9
    visit.cancelled["picture"].clear()
    visit.restyle(PAINTING, silent)
    assert len(visit.results) == 1


def test_progress_adds_up(visit: Visit, folder: Path) -> None:
    parts: list[float] = []
    visit.restyle(Settings(), parts.append)
    assert len(parts) > 5
    assert sum(parts) == pytest.approx(1)
    parts.clear()
    visit.add_photos(sent(folder / "coffee.png", folder / "rocket.png"))
    visit.restyle_batch(PAINTING, parts.append)
    assert sum(parts) == pytest.approx(1)
    assert "left" not in progress(0.01, 5)["text"]
    assert "about 10 min left" in progress(0.01, 6)["text"]
    assert "25 % · about 30 s left" in progress(0.25, 10)["text"]
    assert "about 10 min left" in progress(0.1, 67)["text"]


def test_a_batch(visit: Visit, folder: Path) -> None:
    (folder / "broken.jpg").write_bytes(b"no picture")
    again = folder / "again"
    again.mkdir()
    Image.open(folder / "rocket.png").save(again / "COFFEE.png")
    Image.open(folder / "rocket.png").save(folder / "small.gif")
    names = ["coffee.png", "broken.jpg", "again/COFFEE.png", "small.gif"]
    visit.add_photos(sent(*(folder / name for name in names)))
    shutil.rmtree(again)  # as Gradio does in time
    archive, photos, errors = dataclasses.astuple(visit.restyle_batch(PAINTING, silent))
    assert archive.name == "restyled-coffee.zip"
    assert visit.link(archive) != archive
    assert (photos, len(errors)) == (4, 1)
    assert errors[0].startswith("broken.jpg cannot be read: not a JPEG")
    with zipfile.ZipFile(archive) as made:
        assert made.namelist() == ["coffee.png", "COFFEE-2.png", "small.png"]
        assert made.testzip() is None
        for name in made.namelist():
            assert Image.open(made.open(name)).size == (96, 72)
    visit.take_photo(*sent(folder / "coffee.png"))
    alone = np.asarray(Image.open(visit.download(visit.restyle(PAINTING, silent))), int)
    with zipfile.ZipFile(archive) as made:
        batched = np.asarray(Image.open(made.open("coffee.png")), int)
    assert np.abs(alone - batched).max() <= 1
    visit.clear_photos()
    visit.add_photos(sent(folder / "broken.jpg"))
    with pytest.raises(ValueError, match=r"broken\.jpg cannot be read"):
        visit.restyle_batch(PAINTING, silent)
    visit.clear_photos()
    with pytest.raises(ValueError, match=r"^Choose at least one photo\.$"):
        visit.restyle_batch(PAINTING, silent)


def test_a_lut(visit: Visit) -> None:
    path, difference = visit.look(Settings())
    assert path.name == "chelsea-coffee.cube"
    from fastfcs.look import Look

    look = Look.read(path)
    photo = visit.choice.photo
    assert photo is not None
    moved = (look(photo.picture).srgb - photo.picture.srgb).abs().mean().item()
    assert moved > 0.01
    assert 0.5 < difference < 30


def test_hostile_files(visit: Visit, tmp_path: Path) -> None:
    before = visit.choice.photo
    folder = tmp_path / "hostile"
    folder.mkdir()
    files = hostile_files(folder)
    assert len(files) >= 20
    for file in files:
        with pytest.raises(ValueError, match=re.escape(file.name)) as caught:
            visit.take_photo(*sent(file))
        sentence = visit.sentence(caught.value)
        assert sentence.startswith(file.name), sentence
        assert sentence.endswith(".")
        assert "\n" not in sentence
        assert str(tmp_path) not in sentence
        assert visit.choice.photo is before
        with pytest.raises(ValueError, match=re.escape(file.name)):
            visit.take_styles(sent(file))
    assert len(visit.choice.styles) == 1


def test_limits(visit: Visit, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "read", None)  # the size is known before pixels are decoded
    (folder / "large.png").write_bytes(png_of_size(13_000, 10_000))
    with pytest.raises(
        ValueError, match=r"^large\.png must have at most 120 megapixels, got 130\.0"
    ):
        visit.take_photo(*sent(folder / "large.png"))


def test_files_on_another_file_system(
    visit: Visit, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("another file system")

    monkeypatch.setattr(visit_module.os, "link", refuse)
    visit.take_photo(*sent(folder / "rocket.png"))
    assert visit.choice.photo is not None
    assert visit.choice.photo.path.name == "rocket.png"


def test_visitors_are_apart(
    stylizer: Stylizer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visits_module, "STAY", 1)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder.parent))
    visits = Visits(stylizer)
    first, second = visits.of("a"), visits.of("b")
    for visit in (first, second):
        visit.add_photos(sent(folder / "rocket.png"))
    assert first._folder != second._folder
    assert re.search(r"visit-[0-9a-f]{32}$", str(first._folder))
    visits.leave("a")
    assert first.cancelled["picture"].is_set()
    assert visits.of("a") is first  # back in time
    assert first._folder.exists()
    visits.leave("nobody")
    deadline = time.monotonic() + 10
    while first._folder.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert second._folder.exists()
    assert visits.of("a") is not first
    monkeypatch.setattr(visits_module, "_STALE", -1)  # as if a day had passed
    visits.of("c")
    assert not second._folder.exists()
    visits.end_all()
    assert second.cancelled["batch"].is_set()


def test_short_work_passes_long_work() -> None:
    turns, order = Turns(), list[str]()
    started, asked = threading.Event(), threading.Event()

    def preview() -> None:
        started.wait(10)
        asked.set()
        turns.short(lambda: order.append("short"))

    thread = threading.Thread(target=preview)
    thread.start()
    with turns.long():
        started.set()
        asked.wait(10)
        order.append("first step")
        deadline = time.monotonic() + 10
        while "short" not in order and time.monotonic() < deadline:
            turns.let_pass()
        order.append("second step")
        turns.let_pass()  # nobody waits
    thread.join(10)
    assert order == ["first step", "short", "second step"]


def test_one_computation_at_a_time() -> None:
    turns, running, most = Turns(), 0, 0
    lock = threading.Lock()

    def compute() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.001)
        with lock:
            running -= 1

    def work(is_long: bool) -> None:
        for _ in range(20):
            if not is_long:
                turns.short(compute)
                continue
            with turns.long():
                compute()
                turns.let_pass()

    threads = [threading.Thread(target=work, args=(k < 2,)) for k in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert most == 1


def test_a_stylizer_without_a_refinement() -> None:
    with pytest.raises(ValueError, match=r"^stylizer must have a refinement \(refine=True\)"):
        build(Stylizer(weights="tiny"))


def test_the_guide_mounts_the_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from fastapi.testclient import TestClient

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    guide = (Path(__file__).parents[1] / "docs/app.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", guide, flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    answer = TestClient(names["app"]).get("/restyle/")
    assert answer.status_code == 200
    assert "Drop a photo here" in answer.text


def test_its_stylizer_is_left_alone(folder: Path) -> None:
    stylizer = Stylizer(torch.rand(3, 32, 32), weights="tiny", refine=True, strength=0.5)
    before = {name: tensor.clone() for name, tensor in stylizer.state_dict().items()}
    visit = Visit(stylizer, Turns(), folder.parent / "visit")
    visit.take_photo(*sent(folder / "rocket.png"))
    visit.take_styles(sent(folder / "coffee.png"))
    visit.restyle(Settings(), silent)
    assert stylizer.strength == 0.5
    assert stylizer.state_dict().keys() == before.keys()
    assert all(torch.equal(t, before[name]) for name, t in stylizer.state_dict().items())
    assert not any(m._forward_pre_hooks for m in stylizer.modules())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--host 0.0.0.0", "--password must be given with --host 0.0.0.0: others can reach it"),
        ("--host ::", "--password must be given with --host ::: others can reach it"),
        ("--password=", "--password must not be empty"),
        ("--host nonsense --password x", "--host must be this computer's, got 'nonsense'"),
        ("--host 192.0.2.1 --password x", "--host must be this computer's, got '192.0.2.1'"),
        ("--device warp", "device must be available here, got 'warp'"),
    ],
)
def test_bad_options(words: str, sentence: str) -> None:
    result = CliRunner().invoke(cli, ["app", *words.split()])
    assert result.exit_code == 2
    assert result.stderr.strip() == sentence


def test_a_taken_port() -> None:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        result = CliRunner().invoke(cli, ["app", "--port", str(port)])
    assert result.exit_code == 2
    assert result.stderr.strip() == f"--port must be free and permitted, got {port}"


def test_others_are_not_connected_to() -> None:
    stay_offline("socket.connect", (None, ("127.0.0.1", 80)))
    stay_offline("socket.connect", (None, ("::1", 80, 0, 0)))
    stay_offline("socket.connect", (None, "/run/socket"))
    stay_offline("socket.getaddrinfo", (None, 80))
    stay_offline("open", ("example.org",))
    for event, address in (("socket.connect", (None, ("192.0.2.1", 80))), _LOOKUP):
        with pytest.raises(PermissionError, match="asks nothing of the network"):
            stay_offline(event, address)


_LOOKUP = "socket.getaddrinfo", ("example.org", 443)


def test_there_is_no_share() -> None:
    result = CliRunner().invoke(cli, ["app", "--share"])
    assert result.exit_code == 2
    assert "No such option" in result.stderr


def test_without_gradio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    result = CliRunner().invoke(cli, ["app"])
    assert result.exit_code == 2
    assert result.stderr.strip() == (
        "fastfcs app needs Gradio, which pip install 'fastfcs[app]' installs"
    )
