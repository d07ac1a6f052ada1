"""The examples run, on tiny pictures, and do what they say."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from numpy.typing import NDArray
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"

Floats = NDArray[np.float64]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder, with photo.png and style.png, 48 x 32 and 40 x 40."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(skimage.data.coffee()).resize((48, 32)).save("photo.png")
    Image.fromarray(skimage.data.astronaut()).resize((40, 40)).save("style.png")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two threads wait for each other on a busy machine
    yield tmp_path
    torch.set_num_threads(threads)


def run(name: str, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run an example like `python examples/NAME ARGUMENT...`."""
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def read(path: str) -> Floats:
    """A picture as (H, W, 3), or (H, W), in [0, 1]."""
    return np.asarray(Image.open(path), dtype=np.float64) / 255


def test_every_example_is_short_and_tested() -> None:
    scripts = sorted(EXAMPLES.glob("*.py"))
    assert [script.name for script in scripts] == [
        "constraint.py",
        "gatys.py",
        "operators.py",
        "regions.py",
        "webcam.py",
    ]
    for script in scripts:
        assert len(script.read_text().splitlines()) < 40


def test_constraint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Black stays exactly as it is, bright parts change."""
    photo = np.array(Image.open("photo.png"))
    photo[:, :12] = 0
    Image.fromarray(photo).save("photo.png")
    run("constraint.py", "photo.png", "the-scream", "out.png", monkeypatch=monkeypatch)
    change = abs(read("out.png") - read("photo.png"))
    assert change[:, :12].max() == 0
    assert change[photo.mean(2) > 200].mean() > 0.02


def test_gatys(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The loss falls."""
    run("gatys.py", "photo.png", "style.png", "out.png", "8", monkeypatch=monkeypatch)
    losses = [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()]
    assert len(losses) == 8
    assert losses[-1] < 0.5 * losses[0]
    assert read("out.png").shape == (32, 48, 3)


def test_operators(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The matte finds a slanted edge within an unknown band of 12 pixels."""
    y, x = np.mgrid[:40, :60]
    true = (x + y / 4 > 35).astype(np.float64)
    noise = np.random.default_rng(0).normal(0, 2, (40, 60, 3))
    photo = np.where(true[..., None] > 0, (200, 90, 40), (60, 80, 160)) + noise
    Image.fromarray(photo.round().clip(0, 255).astype(np.uint8)).save("photo.png")
    trimap = np.where(x < 22, 0, np.where(x > 38, 255, 128)).astype(np.uint8)
    Image.fromarray(trimap).save("trimap.png")
    run("operators.py", "photo.png", "trimap.png", "out.png", monkeypatch=monkeypatch)
    result = read("out.png")
    assert abs(result[..., 3] - true).max() < 0.1
    np.testing.assert_array_equal(result[..., :3], read("photo.png"))


def test_regions(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A grey photo becomes red on the left and blue on the right, like its reference."""
    grey = Image.open("photo.png").convert("L").resize((120, 80))
    grey.convert("RGB").save("photo.png")
    style = np.zeros((96, 96, 3))
    style[:, :48], style[:, 48:] = (200, 80, 50), (50, 80, 200)
    style *= np.random.default_rng(0).uniform(0.9, 1.1, (96, 96, 1))
    Image.fromarray(style.astype(np.uint8)).save("style.png")
    for name, (width, height) in {"photo": (120, 80), "style": (96, 96)}.items():
        mask = np.zeros((height, width, 3), np.uint8)
        mask[:, : width // 2] = (0, 0, 255)
        mask[:, width // 2 :] = (0, 255, 0)
        Image.fromarray(mask).save(f"{name}_mask.png")
    names = "photo.png", "photo_mask.png", "style.png", "style_mask.png", "out.png"
    run("regions.py", *names, monkeypatch=monkeypatch)
    red, _, blue = read("out.png").transpose(2, 0, 1)
    assert (red - blue)[:, :60].mean() > 0.1
    assert (blue - red)[:, 60:].mean() > 0.1


def test_webcam(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every frame is painted and shown, until q is pressed."""
    shown: list[Any] = []

    class Camera:
        def __init__(self, index: int) -> None:
            assert index == 0

        def read(self) -> tuple[bool, Any]:
            return True, np.array(Image.open("photo.png").resize((96, 64)))

    monkeypatch.setattr("cv2.VideoCapture", Camera)
    monkeypatch.setattr("cv2.imshow", lambda name, frame: shown.append(frame), raising=False)
    monkeypatch.setattr(
        "cv2.waitKey", lambda wait: ord("q") if len(shown) == 2 else -1, raising=False
    )
    run("webcam.py", "style.png", "48", monkeypatch=monkeypatch)
    assert [frame.shape for frame in shown] == [(32, 48, 3)] * 2
    assert abs(shown[0].astype(int) - Camera(0).read()[1][::2, ::2]).mean() > 3
    monkeypatch.setattr(Camera, "read", lambda self: (False, None))
    shown.clear()
    with pytest.raises(SystemExit, match="no camera"):
        run("webcam.py", "style.png", monkeypatch=monkeypatch)
