"""Time and peak memory of `fastfcs stylize`: artistic and photoreal, at two sizes.

python benchmarks/command.py [--device cpu] [--json OUT]

Times are medians of three runs of the command, including the import of torch and the reading and
writing of files; memory is the maximum of the three.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import skimage.data
import torch
from PIL import Image


def run(command: list[str]) -> tuple[float, float]:
    """Run a process; returns its seconds and its peak resident memory in megabytes."""
    start = time.perf_counter()
    child = os.spawnv(os.P_NOWAIT, command[0], command)
    _, status, usage = os.wait4(child, 0)
    if status:
        sys.exit(f"{' '.join(command)} failed")
    return time.perf_counter() - start, usage.ru_maxrss * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Image.fromarray(skimage.data.coffee()).save(folder / "style.png")
        for side in (512, 1000):
            photo = Image.fromarray(skimage.data.astronaut()).resize((side, side))
            photo.save(folder / "photo.png")
            for kind in ("artistic", "photoreal"):
                command = [
                    str(Path(sys.executable).with_name("fastfcs")),
                    "stylize",
                    str(folder / "photo.png"),
                    "--style",
                    str(folder / "style.png"),
                    "-o",
                    str(folder / "out.png"),
                    "--force",
                    "--device",
                    options.device,
                    *(["--photoreal"] if kind == "photoreal" else []),
                ]
                seconds, megabytes = zip(*(run(command) for _ in range(3)), strict=True)
                row = {
                    "size": side,
                    "kind": kind,
                    "seconds": round(statistics.median(seconds), 2),
                    "peak_mb": round(max(megabytes)),
                }
                rows.append(row)
                print(row, file=sys.stderr)
    report = {
        "device": options.device,
        "cores": len(os.sched_getaffinity(0)),
        "torch": torch.__version__,
        "runs": rows,
    }
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
