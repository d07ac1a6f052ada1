"""Time and peak memory of large photographs, and the kernels that they take.

python benchmarks/large.py

Runs on the CPU. Writes benchmarks/results/large.json. The photographs are one of scikit-image's,
enlarged and saved as JPEG; seconds are medians of three runs of the whole command, from JPEG to
JPEG, and memory is the maximum. color-matcher is timed without reading and writing. The floor of
`affine_apply` is a copy of the image, by torch.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch
from command import run
from measure import machine
from PIL import Image

from fastfcs.files import write_text
from fastfcs.ops import affine_apply, affine_fit

RESULTS = Path(__file__).parent / "results/large.json"
SIZES = {12: (4000, 3000), 24: (6000, 4000), 100: (12000, 8333)}  # megapixels: width, height
SMALL = 512, 768  # of the models, height and width
RUNS = 3


def command(*arguments: str) -> dict[str, float]:
    """Run `fastfcs` several times."""
    program = str(Path(sys.executable).with_name("fastfcs"))
    runs = [run([program, *arguments, "--force"]) for _ in range(RUNS)]
    seconds, megabytes = zip(*runs, strict=True)
    return {"seconds": round(statistics.median(seconds), 2), "peak_mb": round(max(megabytes))}


def milliseconds(function: Callable[[], object]) -> float:
    """The median of nine calls, after one that warms up."""
    function()
    times = []
    for _ in range(9):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def kernels() -> list[dict[str, Any]]:
    """`affine_apply` on 24 megapixels, beside a copy, and `affine_fit`."""
    width, height = SIZES[24]
    guide, signal = torch.rand(2, 1, 3, *SMALL)
    models = affine_fit(guide, 0.9 * guide + 0.1 * signal)
    rows = []
    for dtype in (torch.uint8, torch.uint16, torch.float32):
        samples = torch.rand(1, height, width, 3)
        if dtype != torch.float32:
            samples = samples.mul_(torch.iinfo(dtype).max).to(dtype)
        image = samples.permute(0, 3, 1, 2)
        copied, applied = (
            milliseconds(call) for call in (image.clone, lambda x=image: affine_apply(x, models))
        )
        kind = str(dtype).removeprefix("torch.")
        rows.append({"what": f"affine_apply, {kind}", "ms": applied, "floor": copied / applied})
    rows.append({"what": "affine_fit", "ms": milliseconds(lambda: affine_fit(guide, signal))})
    return rows


def elsewhere(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a process of its own.

    The peak memory of a child includes that of its parent at the time, so this one stays small.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def enlarge(source: Path, target: Path, size: tuple[int, int]) -> None:
    """Save a photograph at another size."""
    Image.open(source).resize(size, Image.Resampling.BICUBIC).save(target, quality=92)


def color_matcher(content: Path, style: Path) -> float:
    """The seconds of color-matcher's linear transport, without files."""
    from color_matcher import ColorMatcher

    source, reference = (np.asarray(Image.open(path)) / 255 for path in (content, style))
    start = time.perf_counter()
    ColorMatcher().transfer(src=source, ref=reference, method="mkl")
    return time.perf_counter() - start


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        style, look, output = folder / "style.jpg", str(folder / "look.cube"), str(folder / "o.jpg")
        Image.fromarray(skimage.data.coffee()).save(style, quality=95)
        small = folder / "photo.jpg"
        Image.fromarray(skimage.data.rocket()).save(small, quality=95)
        options = "--style", str(style), "--device", "cpu"
        command("lut", str(small), "-o", look, *options)
        for megapixels, (width, height) in SIZES.items():
            content = folder / f"{megapixels}.jpg"
            elsewhere(enlarge, small, content, (width, height))
            restyle = "stylize", str(content), "-o", output, *options
            found = {"photoreal": command(*restyle, "--photoreal")}
            found["look"] = command("apply", look, str(content), "-o", output)
            if megapixels == 12:
                found["artistic"] = command(*restyle)
            if megapixels <= 24:
                seconds = elsewhere(color_matcher, content, style)
                found["color-matcher"] = {"seconds": round(seconds, 2)}
            decoded = width * height * 3 * 2 / 1e6
            row = {"megapixels": megapixels, "decoded_mb": round(decoded), **found}
            rows.append(row)
            print(row, file=sys.stderr)
    report = {"machine": machine("cpu"), "rows": rows, "kernels": kernels()}
    write_text(RESULTS, json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
