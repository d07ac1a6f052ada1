"""Pictures per second and memory of `fastfcs batch`, against `fastfcs stylize` on the same cores.

python benchmarks/batch.py [PART ...] [--json OUT]

Whole commands, with the start of Ray, from JPEG to JPEG. Memory is that of all processes together,
shared pages counted once (PSS), at its largest in each fifth of the run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
from measure import machine
from PIL import Image

COMMAND = Path(sys.executable).with_name("fastfcs")
PHOTOS = ("astronaut", "coffee", "chelsea", "rocket")
STYLIZE, BATCH = ("stylize", "--recursive"), ("batch", "--workers")
ONE, TWO = (*BATCH, "1"), (*BATCH, "2")
# Number of pictures, their shorter side in pixels, options, and runs: label, command, cores.
PARTS: dict[str, tuple[int, int, tuple[str, ...], list[tuple[str, tuple[str, ...], int]]]] = {
    "paintings of 128 pixels": (
        600,
        128,
        (),
        [
            ("stylize", STYLIZE, 1),
            ("stylize", STYLIZE, 2),
            ("batch, 1 worker", ONE, 1),
            ("batch, 2 workers", TWO, 2),
        ],
    ),
    "photographs of 12 megapixels": (
        12,
        3000,
        ("--photoreal",),
        [
            ("stylize", STYLIZE, 1),
            ("batch, 2 workers", TWO, 2),
        ],
    ),
    "paintings of 64 pixels, `--weights tiny`": (
        5000,
        64,
        ("--weights", "tiny"),
        [("batch, 2 workers", TWO, 2)],
    ),
}


def album(folder: Path, count: int, side: int) -> None:
    """Cut pictures with a shorter side out of photographs, which are enlarged if need be."""
    rng = np.random.default_rng(0)
    photos = [Image.fromarray(getattr(skimage.data, name)()) for name in PHOTOS]
    for k in range(count):
        photo = photos[k % len(photos)]
        width = side * 4 // 3 if k % 2 else side
        if side > 300:
            photo, width = photo.resize((side * 4 // 3 + 1, side + 1)), side * 4 // 3
        x, y = (
            int(rng.integers(0, whole - part))
            for whole, part in zip(photo.size, (width, side), strict=True)
        )
        path = folder / f"{k % 10}/{k:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo.crop((x, y, x + width, y + side)).save(path, quality=92)


def measure(args: Sequence[str], cores: Sequence[int], folder: Path) -> dict[str, Any]:
    """Run a command on some cores: seconds, and megabytes in each fifth of the time."""
    start, samples = time.perf_counter(), []
    process = subprocess.Popen(
        ["taskset", "-c", ",".join(map(str, cores)), str(COMMAND), *args],
        cwd=folder,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    while process.poll() is None:
        samples.append(memory(process.pid))
        time.sleep(1)
    seconds = time.perf_counter() - start
    if process.returncode:
        sys.exit(process.stderr.read().decode() if process.stderr else 1)
    fifths = [max(part, default=0) for part in np.array_split(samples, 5)]
    return {"seconds": round(seconds, 1), "megabytes": [round(each / 1e6) for each in fifths]}


def memory(root: int) -> int:
    """The bytes of a process and all its descendants."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text()
                parents[int(entry)] = int(stat.rpartition(")")[2].split()[1])
            except OSError:
                continue
    family = {root}
    while new := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= new
    total = 0
    for pid in family:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        except OSError:
            continue
    return total


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="by default all")
    parser.add_argument("--json", type=Path, help="other parts of an existing file are kept")
    options = parser.parse_args()
    parts: dict[str, list[dict[str, Any]]] = {}
    if options.json and options.json.exists():
        parts = json.loads(options.json.read_text())["parts"]
    for part in options.parts or PARTS:
        count, size, style, runs = PARTS[part]
        parts[part] = []
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            Image.fromarray(skimage.data.coffee()).save(folder / "style.jpg")
            album(folder / "in", count, size)
            for index, (label, command, cores) in enumerate(runs):
                args = [*command, "in", "--style", "style.jpg", "--device", "cpu", *style]
                found = measure([*args, "-o", f"out{index}"], range(cores), folder)
                rate = round(count / found["seconds"], 2)
                row = {"command": label, "cores": cores, "pictures": count, "rate": rate} | found
                parts[part].append(row)
                print(part, row, flush=True)
        if options.json:
            report = {"machine": machine("cpu"), "parts": parts}
            options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
