"""The page of `fastfcs app` in headless Chromium, as visitors use it."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from hostile import hostile_files
from pictures import stretched_photo
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, TimeoutError, expect, sync_playwright

from fastfcs import images

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt install chromium"),
]
QUIET = "--no-sandbox", "--disable-background-networking", "--disable-component-update"
LUT = "Download the change of colours as a LUT (.cube)"
PATIENCE = 60_000  # ms; the machine may be busy
expect.set_options(timeout=PATIENCE)

# The command as it stands, in a process that reports what it asks of the network.
SERVER = """
import ipaddress, sys

def watch(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    elif event == "socket.getaddrinfo":
        host = arguments[0]
    else:
        return
    local = host in (None, "localhost") or ipaddress.ip_address(host).is_loopback
    if not local:
        print("NETWORK", event, arguments, file=sys.stderr, flush=True)

sys.addaudithook(watch)
import fastfcs.app.page
fastfcs.app.visits.STAY = 1  # second
from fastfcs.cli import main
sys.argv = ["fastfcs", "app", *sys.argv[1:]]
main()
"""


class Server:
    """`fastfcs app` on a port of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.log, self.temporary = folder / "log", folder / "temporary"
        self.temporary.mkdir()
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SERVER, *options],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "TMPDIR": str(self.temporary)},
                cwd=folder,
            )
        assert self.process.stdout is not None
        found = re.search(r"http://\S+", self.process.stdout.readline())
        assert found, self.log.read_text()
        self.address = found[0]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0
        assert list(self.temporary.glob("fastfcs-*")) == []
        assert self.log.read_text() == ""  # no request to the network, no traceback


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("server"))
    yield made
    made.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield made
        made.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures to upload."""
    made = tmp_path_factory.mktemp("pictures")
    for name in ("chelsea", "coffee", "rocket"):
        image = Image.fromarray(images.to_samples(stretched_photo(name, 72, 96)[0], 8))
        exif = Image.Exif()
        exif[0x010F] = f"Maker of {name}"
        image.save(made / f"{name}.jpg", exif=exif, quality=95)
    return made


Open = Callable[..., Page]


@pytest.fixture
def visit(server: Server, browser: Browser) -> Iterator[Open]:
    """visit(options) opens the page in a browser of its own; nothing else is asked for."""
    contexts = []
    wrong: list[str] = []

    def visit(**options: object) -> Page:
        context = browser.new_context(**options)  # type: ignore[arg-type]
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda r: None if is_ours(r.url, server) else wrong.append(r.url))
        with page.expect_request("**/heartbeat/**"):  # by which the server knows who is there
            page.goto(server.address)
        expect(page.get_by_text("Drop a photo here")).to_be_visible(timeout=PATIENCE)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert wrong == []


def is_ours(url: str, server: Server) -> bool:
    return url.startswith((server.address, "data:", "blob:"))


def take_photo(page: Page, path: Path) -> None:
    page.set_input_files("#ff-drop input", path)
    expect(page.locator("#ff-drop .ff-caption")).to_contain_text(f"{path.name} · 96 × 72")


def take_style(page: Page, path: Path) -> None:
    page.set_input_files("#ff-styles .ff-file", path)
    expect(page.locator(".ff-chosen")).to_contain_text(path.name)


def after(page: Page) -> str:
    """What the page shows as the result, once it is made."""
    expect(page.locator(".ff-stage:not(.ff-alone)")).to_be_visible()
    expect(page.locator("#ff-compare [aria-busy=true]")).to_have_count(0)
    return page.locator(".ff-after").get_attribute("src") or ""


def wait_for_another(page: Page, url: str) -> str:
    page.wait_for_function("url => document.querySelector('.ff-after').src !== url", arg=url)
    return after(page)


def command_of(page: Page) -> Locator:
    return page.get_by_label("Command that makes the same picture")


def make(page: Page) -> None:
    page.get_by_role("button", name="Restyle at full size").click()
    expect(page.locator("#ff-message")).to_contain_text("96 × 72 pixels in")


def download(page: Page, button: str, folder: Path) -> Path:
    with page.expect_download() as found:
        page.get_by_role("button", name=button).click()
    path = folder / found.value.suggested_filename
    found.value.save_as(path)
    return path


def test_a_picture_from_upload_to_download(visit: Open, folder: Path, tmp_path: Path) -> None:
    page = visit()
    take_photo(page, folder / "chelsea.jpg")
    expect(page.locator(".ff-stage.ff-alone")).to_be_visible()  # a photo without a style
    take_style(page, folder / "coffee.jpg")
    preview = after(page)
    page.get_by_label("range slider for Strength").fill("0.5")
    preview = wait_for_another(page, preview)
    look = download(page, LUT, tmp_path)
    assert look.name == "chelsea-coffee.cube"
    assert look.read_text().splitlines()[1] == "LUT_3D_SIZE 33"
    expect(page.locator("#ff-message")).to_contain_text("differs from the restyled photo")
    page.get_by_text("Painting", exact=True).click()
    preview = wait_for_another(page, preview)
    expect(page.get_by_role("button", name=LUT)).to_be_hidden()
    page.get_by_label("range slider for Brush").fill("2")
    wait_for_another(page, preview)
    page.get_by_role("button", name="Command line").click()
    expect(command_of(page)).to_have_value(
        "fastfcs stylize chelsea.jpg --style coffee.jpg --brush 2 --strength 0.5 "
        "-o chelsea-coffee.jpg"
    )
    make(page)
    photo = np.asarray(Image.open(folder / "chelsea.jpg"), float)
    for format, name, depth in (
        ("As the photo", "chelsea-coffee.jpg", 8),
        ("PNG", "chelsea-coffee.png", 8),
        ("TIFF, 16 bits", "chelsea-coffee.tiff", 16),
    ):
        page.get_by_label(format).check()
        path = download(page, "Download the picture", tmp_path)
        picture = images.read(path)
        assert (path.name, picture.size, picture.depth) == (name, (96, 72), depth)
        assert picture.exif is not None
        assert b"Maker of chelsea" in picture.exif
        change = np.abs(255 * np.asarray(picture.pixels.movedim(0, -1)) - photo).mean()
        assert 5 < change < 100


def test_comparing(visit: Open, folder: Path) -> None:
    page = visit()
    take_photo(page, folder / "chelsea.jpg")
    page.get_by_role("button", name="The Scream").click()
    after(page)
    slider = page.get_by_label("Boundary between before and after, in percent")
    stage = page.locator(".ff-stage")

    def pixels() -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(stage.screenshot())).convert("RGB"), float)

    slider.fill("100")
    before = pixels()
    slider.fill("0")
    changed = pixels()
    slider.fill("50")
    both = pixels()
    width = both.shape[1]
    left, right = np.s_[60:, : width // 2 - 30], np.s_[60:, width // 2 + 30 :]
    assert np.abs(before - changed).mean() > 10
    assert np.abs(both[left] - before[left]).mean() < 1
    assert np.abs(both[right] - changed[right]).mean() < 1
    box = stage.bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + box["height"] / 2)
    page.mouse.up()
    assert 75 <= int(slider.input_value()) <= 85


def test_blending_styles(visit: Open, folder: Path) -> None:
    page = visit()
    take_photo(page, folder / "chelsea.jpg")
    page.get_by_role("button", name="Udnie", exact=True).click()
    preview = after(page)
    expect(page.get_by_role("button", name="Udnie", exact=True)).to_have_attribute(
        "aria-pressed", "true"
    )
    page.get_by_label("Blend several styles").check()
    take_style(page, folder / "coffee.jpg")
    preview = wait_for_another(page, preview)
    expect(page.locator(".ff-chosen li")).to_have_count(2)
    page.get_by_label("Weight of coffee.jpg").fill("0.25")
    page.get_by_label("Weight of coffee.jpg").dispatch_event("change")
    preview = wait_for_another(page, preview)
    page.get_by_role("button", name="Command line").click()
    command = command_of(page)
    expect(command).to_have_value(re.compile("--style udnie --style coffee.jpg --blend 1,0.25"))
    page.get_by_role("button", name="Remove Udnie").click()
    expect(page.locator(".ff-chosen li")).to_have_count(1)
    expect(command).to_have_value(re.compile("jpg --style coffee.jpg --photoreal"))
    expect(page.get_by_role("button", name="Udnie", exact=True)).to_have_attribute(
        "aria-pressed", "false"
    )


def test_painting_regions(visit: Open, folder: Path, tmp_path: Path) -> None:
    page = visit()
    take_photo(page, folder / "chelsea.jpg")
    take_style(page, folder / "rocket.jpg")
    preview = after(page)
    page.get_by_role("button", name="Regions").click()
    page.get_by_label("Width of the pen").fill("40")
    page.get_by_label("red", exact=True).check()
    for name in ("photo", "reference"):
        box = page.get_by_label(re.compile(f"^Regions of the {name}")).bounding_box()
        assert box
        top, bottom = box["y"] + 4, box["y"] + box["height"] - 4
        page.mouse.move(box["x"] + 4, top)
        page.mouse.down()
        page.mouse.move(box["x"] + 4, bottom, steps=5)
        page.mouse.up()
    wait_for_another(page, preview)
    page.get_by_role("button", name="Command line").click()
    expect(command_of(page)).to_have_value(
        re.compile("--mask chelsea-photo-regions.png rocket-style-regions.png")
    )
    with page.expect_download() as found:
        page.get_by_role("link", name="Save the mask").first.click()
    found.value.save_as(tmp_path / "mask.png")
    mask = Image.open(tmp_path / "mask.png").convert("RGB")
    assert mask.size == (96, 72)
    assert found.value.suggested_filename == "chelsea-photo-regions.png"
    colours = {colour for _, colour in mask.getcolors() or []}
    assert colours == {(255, 0, 0), (0, 0, 0)}
    assert mask.getpixel((3, 36)) == (255, 0, 0)
    assert mask.getpixel((80, 36)) == (0, 0, 0)
    make(page)
    page.get_by_role("button", name="Clear the photo").click()
    page.get_by_role("button", name="Clear the reference").click()
    expect(command_of(page)).not_to_have_value(re.compile("mask"))


def test_results_come_back_with_their_controls(visit: Open, folder: Path, tmp_path: Path) -> None:
    page = visit()
    take_photo(page, folder / "chelsea.jpg")
    page.get_by_text("Painting", exact=True).click()
    page.get_by_role("button", name="Udnie", exact=True).click()
    after(page)
    make(page)
    first = after(page)
    expect(page.locator(".ff-strip button")).to_have_count(1)
    page.get_by_text("Photograph", exact=True).click()
    wait_for_another(page, first)
    expect(page.get_by_role("button", name="Download the picture")).to_be_hidden()
    page.get_by_label("range slider for Strength").fill("0.75")
    make(page)
    results = page.locator(".ff-strip button")
    expect(results).to_have_count(2)
    expect(results.nth(0)).to_contain_text("Photograph, Udnie")
    expect(results.nth(0)).to_contain_text("strength 75%")
    results.nth(1).click()
    expect(page.locator(".ff-after")).to_have_attribute("src", first)
    expect(results.nth(1)).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("radio", name="Painting")).to_be_checked()
    expect(page.get_by_label("range slider for Strength")).to_have_value("1")
    assert download(page, "Download the picture", tmp_path).name == "chelsea-udnie.jpg"


def test_cancelling(visit: Open, tmp_path: Path) -> None:
    large = Image.fromarray(images.to_samples(stretched_photo("rocket", 1200, 1600)[0], 8))
    large.save(tmp_path / "large.jpg")
    page = visit()
    page.get_by_text("Painting", exact=True).click()
    page.set_input_files("#ff-drop input", tmp_path / "large.jpg")
    page.get_by_role("button", name="Pencil").click()
    preview = after(page)
    page.get_by_role("button", name="Restyle at full size").click()
    expect(page.get_by_role("progressbar")).to_be_visible()
    progress = page.locator("#ff-message .ff-progress")
    expect(progress).to_contain_text("s left", timeout=PATIENCE)
    page.get_by_label("range slider for Strength").fill("0.5")  # previews go on meanwhile
    wait_for_another(page, preview)
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#ff-message")).to_contain_text("Cancelled.", timeout=PATIENCE)
    expect(page.get_by_role("button", name="Restyle at full size")).to_be_enabled()
    expect(page.get_by_role("button", name="Cancel")).to_be_hidden()
    expect(page.locator(".ff-strip button")).to_have_count(0)


def test_broken_uploads(visit: Open, folder: Path, tmp_path: Path) -> None:
    page = visit()
    take_photo(page, folder / "chelsea.jpg")
    page.get_by_role("button", name="Udnie", exact=True).click()
    preview = after(page)
    files = hostile_files(tmp_path)
    for place, some in (("#ff-drop", files), ("#ff-styles", files[-3:])):
        error = page.locator(f"{place} .ff-error")
        for file in some:
            page.set_input_files(f"{place} .ff-file", file)
            stem = re.escape(file.stem.strip("<>=()"))[:5]
            expect(error).to_have_text(re.compile(rf"{stem}.*\.$"), timeout=PATIENCE)
            text = error.inner_text()
            assert "Traceback" not in text
            assert str(tmp_path) not in text
    expect(page.locator("#ff-drop .ff-caption")).to_contain_text("chelsea.jpg · 96 × 72")
    assert after(page) == preview
    assert page.locator("#ff-drop .ff-error img").count() == 0  # the name is text
    take_photo(page, folder / "rocket.jpg")
    expect(page.locator("#ff-drop .ff-error")).to_be_hidden()


def test_uploads_that_are_too_large(visit: Open, server: Server, tmp_path: Path) -> None:
    page = visit()
    with (tmp_path / "large.jpg").open("wb") as file:
        file.truncate(300_000_001)
    page.set_input_files("#ff-drop input", tmp_path / "large.jpg")
    error = page.locator("#ff-drop .ff-error")
    expect(error).to_have_text("large.jpg is larger than 300 MB, the limit.")
    # Nor does the server take it from those who do not use the page.
    url = f"{server.address}gradio_api/upload"
    curl = ["curl", "-s", "-o", os.devnull, "-w", "%{http_code}"]
    answer = subprocess.run(
        [*curl, "-F", f"files=@{tmp_path / 'large.jpg'}", url], capture_output=True, text=True
    )
    assert answer.stdout == "413"


def test_files_of_the_server_are_not_pictures(server: Server, browser: Browser) -> None:
    secret = server.temporary / "secret.png"
    Image.new("RGB", (32, 32)).save(secret)
    page = browser.new_page()
    for path in (str(secret), "/etc/passwd", "../../../etc/passwd"):
        assert page.request.get(f"{server.address}gradio_api/file={path}").status in (403, 404)
    page.close()


def test_two_visitors_at_once(visit: Open, folder: Path, tmp_path: Path) -> None:
    pages = visit(), visit()
    names = ("chelsea", "Udnie"), ("rocket", "The Scream")
    for page, (photo, style) in zip(pages, names, strict=True):
        take_photo(page, folder / f"{photo}.jpg")
        page.get_by_role("button", name=style).click()
    for page in pages:
        page.get_by_role("button", name="Restyle at full size").click()
    for page, (photo, style) in zip(pages, names, strict=True):
        expect(page.locator("#ff-message")).to_contain_text("96 × 72 pixels in", timeout=PATIENCE)
        expect(page.locator(".ff-strip button")).to_have_count(1)
        expect(page.locator(".ff-strip")).to_contain_text(f"Photograph, {style}")
        path = download(page, "Download the picture", tmp_path)
        assert path.name.startswith(photo)
        exif = images.read(path).exif
        assert exif is not None
        assert f"Maker of {photo}".encode() in exif
    fresh = visit()
    expect(fresh.locator(".ff-strip button")).to_have_count(0)
    expect(fresh.locator(".ff-stage")).to_be_hidden()


def test_a_batch(visit: Open, folder: Path, tmp_path: Path) -> None:
    page = visit()
    page.get_by_text("Painting", exact=True).click()
    page.get_by_role("tab", name="Many photos").click()
    page.get_by_role("button", name="Restyle all photos").click()
    message = page.locator("#ff-batch-message")
    expect(message).to_contain_text("Choose a style: a reference picture or a preset.")
    page.get_by_role("tab", name="One photo").click()
    page.get_by_role("button", name="Udnie", exact=True).click()
    expect(page.locator(".ff-chosen li")).to_have_count(1)
    page.get_by_role("tab", name="Many photos").click()
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    files = [*sorted(folder.glob("*.jpg")), tmp_path / "broken.jpg"]
    page.set_input_files("#ff-photos input", files[:1])
    expect(page.locator("#ff-photos .ff-caption")).to_have_text("1 photo")
    page.set_input_files("#ff-photos input", files[1:])
    expect(page.locator("#ff-photos .ff-caption")).to_have_text("4 photos")
    expect(page.locator("#ff-photos li")).to_have_text([file.name for file in files])
    page.get_by_role("button", name="Restyle all photos").click()
    expect(message).to_contain_text("3 of 4 photos are in the zip file.", timeout=PATIENCE)
    expect(message).to_contain_text("broken.jpg cannot be read")
    archive = download(page, "Download the zip file", tmp_path)
    with zipfile.ZipFile(archive) as made:
        assert sorted(made.namelist()) == ["chelsea.jpg", "coffee.jpg", "rocket.jpg"]
        photo = np.asarray(Image.open(folder / "rocket.jpg"), float)
        restyled = np.asarray(Image.open(made.open("rocket.jpg")), float)
    assert np.abs(photo - restyled).mean() > 5
    page.get_by_role("button", name="Remove all photos").click()
    expect(page.locator("#ff-photos li")).to_have_count(0)


PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


def test_on_a_phone(visit: Open, folder: Path) -> None:
    page = visit(**PHONE)
    take_photo(page, folder / "chelsea.jpg")
    page.get_by_role("button", name="Mosaic").tap()
    after(page)
    page.get_by_text("Painting", exact=True).tap()
    page.get_by_role("button", name="Restyle at full size").tap()
    expect(page.locator("#ff-message")).to_contain_text("96 × 72 pixels in")
    for tab in ("Many photos", "One photo"):
        page.get_by_role("tab", name=tab).tap()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for part in (".ff-stage", "#ff-controls", "#ff-drop", ".ff-strip", "#ff-save"):
        box = page.locator(part).bounding_box()
        assert box
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390


def press_until(page: Page, target: Locator, key: str = "Tab") -> None:
    """Move the focus as far as the target, which must then show it."""
    for _ in range(120):
        if target.evaluate("element => element === document.activeElement"):
            return
        page.keyboard.press(key)
    raise AssertionError(f"{target} cannot be reached by {key}")


def choose(page: Page, path: Path) -> None:
    """Open the dialog of the input that has the focus, and choose a file."""
    for _ in range(5):  # just after it has loaded a page, Chromium may ignore a key
        with suppress(TimeoutError), page.expect_file_chooser(timeout=3000) as chooser:
            page.keyboard.press("Enter")
            chooser.value.set_files(path)
            return
    raise AssertionError("Enter opens no dialog")


def test_by_keyboard_alone(visit: Open, folder: Path, tmp_path: Path) -> None:
    page = visit()
    press_until(page, page.locator("#ff-drop input"))
    choose(page, folder / "chelsea.jpg")
    expect(page.locator("#ff-drop .ff-caption")).to_contain_text("chelsea.jpg · 96 × 72")
    press_until(page, page.locator("#ff-styles .ff-file"))
    choose(page, folder / "rocket.jpg")
    preview = after(page)
    slider = page.get_by_label("Boundary between before and after, in percent")
    press_until(page, slider)
    page.keyboard.press("ArrowRight")
    expect(slider).to_have_value("51")
    balance = page.get_by_label("range slider for Balance")
    press_until(page, balance)
    page.keyboard.press("PageUp")
    wait_for_another(page, preview)
    press_until(page, page.get_by_role("button", name="Regions"))
    page.keyboard.press("Enter")
    for name in ("photo", "reference"):
        press_until(page, page.get_by_label(re.compile(f"^Regions of the {name}")))
        page.keyboard.press(" ")
        for _ in range(4):
            page.keyboard.press("ArrowLeft")
        page.keyboard.press(" ")
    expect(page.get_by_role("link", name="Save the mask")).to_have_count(2)
    press_until(page, page.get_by_role("button", name="Command line"))
    page.keyboard.press("Enter")
    expect(command_of(page)).to_have_value(re.compile("--mask chelsea-photo-regions.png"))
    press_until(page, page.get_by_role("button", name="Restyle at full size"), "Shift+Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#ff-message")).to_contain_text("96 × 72 pixels in", timeout=PATIENCE)
    press_until(page, page.get_by_role("button", name="Download the picture"))
    with page.expect_download() as found:
        page.keyboard.press("Enter")
    assert found.value.suggested_filename == "chelsea-rocket.jpg"


def test_accessibility_in_light_and_dark(visit: Open, folder: Path) -> None:
    page = visit(color_scheme="light")
    assert faults(page) == []
    assert brightness(page) > 200
    take_photo(page, folder / "chelsea.jpg")
    take_style(page, folder / "coffee.jpg")
    page.get_by_text("Painting", exact=True).click()
    page.get_by_label("Blend several styles").check()
    page.get_by_role("button", name="Udnie", exact=True).click()
    after(page)
    page.get_by_role("button", name="Command line").click()
    make(page)
    assert faults(page) == []
    groups = page.locator("fieldset").evaluate_all("all => all.map((g) => g.ariaLabel)")
    assert {"Make it a", "Keep from the photo", "Format of the file"} <= set(groups)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("document.body.classList.contains('dark')")
    assert brightness(page) < 60
    assert faults(page) == []
    page.get_by_role("button", name="Remove Udnie").click()
    page.get_by_role("button", name="Regions").click()
    expect(page.get_by_label(re.compile("^Regions of the photo"))).to_be_visible()
    assert faults(page) == []
    page.get_by_role("tab", name="Many photos").click()
    page.set_input_files("#ff-photos input", folder / "rocket.jpg")
    page.get_by_role("button", name="Restyle all photos").click()
    message = page.locator("#ff-batch-message")
    expect(message).to_contain_text("1 of 1 photos are in the zip file.", timeout=PATIENCE)
    assert faults(page) == []


def brightness(page: Page) -> float:
    shot = Image.open(io.BytesIO(page.screenshot())).convert("L")
    return float(np.median(np.asarray(shot, float)))


def faults(page: Page) -> list[str]:
    """What axe-core calls a serious or critical fault."""
    found = Axe().run(page).response["violations"]
    return [f"{f['id']}: {f['nodes']}" for f in found if f["impact"] in ("serious", "critical")]


def test_files_are_removed_with_the_visitor(visit: Open, server: Server, folder: Path) -> None:
    (temporary,) = server.temporary.glob("fastfcs-*")
    assert temporary.stat().st_mode & 0o077 == 0

    def copies() -> list[Path]:
        return list(temporary.rglob("only-here.jpg"))

    photo = folder / "only-here.jpg"
    shutil.copy(folder / "chelsea.jpg", photo)
    page = visit()
    take_photo(page, photo)
    (kept,) = copies()  # the upload is gone
    assert kept.relative_to(temporary).parts[0].startswith("visit-")
    page.close()
    deadline = time.monotonic() + 30
    while copies():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_other_pictures_while_one_is_made(visit: Open, folder: Path, tmp_path: Path) -> None:
    large = Image.fromarray(images.to_samples(stretched_photo("rocket", 600, 800)[0], 8))
    large.save(tmp_path / "large.jpg")
    page = visit()
    page.get_by_text("Painting", exact=True).click()
    page.set_input_files("#ff-drop input", tmp_path / "large.jpg")
    page.get_by_role("button", name="Pencil").click()
    after(page)
    page.get_by_role("button", name="Restyle at full size").click()
    expect(page.get_by_role("progressbar")).to_be_visible()
    take_photo(page, folder / "chelsea.jpg")
    done = "Painting, Pencil is among the recent results: 800 × 600 pixels"
    expect(page.locator("#ff-message")).to_contain_text(done, timeout=PATIENCE)
    expect(page.locator(".ff-before")).to_have_attribute("alt", "chelsea.jpg before")
    expect(page.get_by_role("button", name="Download the picture")).to_be_hidden()
    page.locator(".ff-strip button").click()
    assert download(page, "Download the picture", tmp_path).name == "large-pencil.jpg"


def test_forged_events(visit: Open, folder: Path) -> None:
    page = visit()
    take_photo(page, folder / "chelsea.jpg")
    take_style(page, folder / "coffee.jpg")
    preview = after(page)
    calls = page.evaluate(FORGERY)
    assert len(calls) > 10
    assert not any("Traceback" in call for call in calls)
    assert sum("load it again" in call or "must have been uploaded" in call for call in calls) > 8
    page.get_by_label("range slider for Strength").fill("0.5")
    wait_for_another(page, preview)  # the page still works


# Calls the handlers of events as a program would, with what they do not expect.
FORGERY = """async () => {
  const root = location.origin + '/gradio_api', answers = [];
  const session_hash = 'forged' + Math.random().toString(36).slice(2);
  const headers = {'Content-Type': 'application/json'};
  const files = [{path: '/etc/passwd', name: 'a.png'}, {path: [1], name: 2}, {}, null];
  const views = [{}, ...files.map((file) => ({uploads: [file], blend: 1}))];
  const events = [null, {index: 99, weight: 'x', name: [1], masks: 5}];
  const names = ['upload', 'select', 'delete', 'release', 'edit'];

  async function call(fn_index, data, event_data) {
    const body = JSON.stringify({fn_index, data, event_data, session_hash});
    await fetch(`${root}/queue/join`, {method: 'POST', headers, body});
    return new Promise((resolve) => {
      const source = new EventSource(`${root}/queue/data?session_hash=${session_hash}`);
      source.onmessage = ({data}) => {
        if (!data.includes('process_completed')) return;
        source.close();
        resolve(data);
      };
    });
  }

  for (const {id, inputs, targets} of window.gradio_config.dependencies) {
    if (!targets.some(([, name]) => names.includes(name))) continue;
    for (const view of inputs.length ? views : [null]) {
      for (const event of events) answers.push(await call(id, inputs.map(() => view), event));
    }
  }
  return answers;
}"""


def test_the_focus_is_kept(visit: Open, folder: Path) -> None:
    page = visit()
    take_photo(page, folder / "chelsea.jpg")
    page.get_by_role("button", name="Udnie", exact=True).click()
    after(page)
    restyle = page.get_by_role("button", name="Restyle at full size")
    restyle.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#ff-message")).to_contain_text("96 × 72 pixels in", timeout=PATIENCE)
    expect(restyle).to_be_focused()
    page.get_by_role("button", name="Remove Udnie").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#ff-styles .ff-file")).to_be_focused()


def test_drawings_go_with_the_masks(visit: Open, folder: Path) -> None:
    page = visit()
    take_photo(page, folder / "chelsea.jpg")
    take_style(page, folder / "coffee.jpg")
    after(page)
    page.get_by_role("button", name="Regions").click()
    canvas = page.get_by_label(re.compile("^Regions of the photo"))
    is_painted = """(canvas) => canvas.getContext('2d')
        .getImageData(0, 0, canvas.width, canvas.height).data.some((value) => value)"""
    canvas.click()
    assert canvas.evaluate(is_painted)
    page.get_by_role("button", name="Command line").click()
    expect(command_of(page)).to_have_value(re.compile("--mask"))
    take_style(page, folder / "rocket.jpg")
    expect(command_of(page)).to_have_value(re.compile("--style rocket.jpg --photoreal"))
    assert not page.get_by_label(re.compile("^Regions of the photo")).evaluate(is_painted)


def test_a_password(browser: Browser, tmp_path: Path) -> None:
    server = Server(tmp_path, "--password", "open sesame")
    page = browser.new_page()
    page.goto(server.address)
    expect(page.get_by_text("Type any user name, and the password.")).to_be_visible(
        timeout=PATIENCE
    )
    assert page.get_by_text("Drop a photo here").count() == 0
    for password in ("wrong", "open sesame"):
        page.get_by_label("username").fill("someone")
        page.get_by_label("password").fill(password)
        page.get_by_role("button", name="Login").click()
        if password == "wrong":
            expect(page.get_by_text("Incorrect")).to_be_visible()
    expect(page.get_by_text("Drop a photo here")).to_be_visible(timeout=PATIENCE)
    assert browser.new_page().request.get(f"{server.address}config").status == 401
    page.close()
    server.stop()
