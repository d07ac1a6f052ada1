"""The page of `fastfcs app` with a photograph half painted.

python docs/screenshot.py         writes docs/app.jpg; needs Playwright and a Chromium
"""

import shutil
import tempfile
from io import BytesIO
from pathlib import Path

from pictures import photo
from PIL import Image
from playwright.sync_api import sync_playwright

from fastfcs import Stylizer
from fastfcs.app import build

FILE = Path(__file__).parent / "app.jpg"


def screenshot(address: str, content: str) -> bytes:
    """What a browser shows after a photograph has been painted."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1360, "height": 850})
        page.goto(address)
        page.set_input_files("#ff-drop input", content)
        page.get_by_text("Painting", exact=True).click()
        page.get_by_role("button", name="The Starry Night").click()
        page.locator(".ff-stage:not(.ff-alone)").wait_for()
        page.get_by_text("Finer", exact=True).click()
        page.get_by_role("button", name="Restyle at full size").click()
        page.get_by_role("button", name="Download the picture").wait_for()
        page.evaluate("scrollTo(0, 0)")
        page.wait_for_timeout(500)
        return page.screenshot()


if __name__ == "__main__":
    page = build(Stylizer(refine=True))
    _, address, _ = page.launch(prevent_thread_lock=True, footer_links=[], quiet=True)
    with tempfile.TemporaryDirectory() as folder:
        photo("china", 640).save(Path(folder) / "china.jpg", quality=95)
        shot = screenshot(address, str(Path(folder) / "china.jpg"))
    Image.open(BytesIO(shot)).convert("RGB").save(FILE, quality=88)
    page.close()
