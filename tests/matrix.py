"""Builds a wheel against every torch and runs each wheel with every torch: `make matrix`.

The binary uses only torch's stable ABI, so that a wheel must work with all of them. The
environments remain in build/matrix for the next run. One with a CUDA build of torch takes 5 to 7
GB.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build/matrix"
VERSIONS = ("2.10", "2.11", "2.12", "2.13", "newest")

CHECK = """
from fastfcs import _C  # first, so that the binary itself has to find torch
import torch, fastfcs
x = torch.rand(2, 5, 6, 7)
torch.testing.assert_close(fastfcs.gram(x), torch.einsum("bchw,bdhw->bcd", x, x) / 42)
"""


def run(folder: Path, *arguments: object) -> str:
    """The output of an environment's Python, which sees no package outside the environment."""
    return subprocess.run(
        [folder / "bin/python", "-I", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"PIP_CACHE_DIR": str(FOLDER / "cache")},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout


def environment(version: str) -> Path:
    folder = FOLDER / version
    if not folder.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    torch = "torch" if version == "newest" else f"torch=={version}.*"
    packages = (torch, "numpy", "setuptools>=77", "pybind11>=2.13", "ninja")
    run(folder, "-m", "pip", "install", "-q", *packages)
    return folder


def build(folder: Path) -> Path | None:
    """The wheel that an environment builds from a source distribution; None if that fails."""
    dist = folder / "dist"
    for old in dist.glob("*"):
        old.unlink()
    wheel = ("-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", dist)
    try:
        run(folder, "setup.py", "-q", "sdist", "-d", dist)
        run(folder, *wheel, *dist.glob("*.tar.gz"))
    except subprocess.CalledProcessError:
        return None
    return next(dist.glob("*.whl"))


def works(wheel: Path, folder: Path) -> bool:
    try:
        run(folder, "-m", "pip", "install", "-q", "--force-reinstall", "--no-deps", wheel)
        run(folder, "-c", CHECK)
    except subprocess.CalledProcessError:
        return False
    return True


def main() -> None:
    folders = [environment(version) for version in sys.argv[1:] or VERSIONS]
    query = "from importlib.metadata import version; print(version('torch'))"
    versions = [run(folder, "-c", query).strip() for folder in folders]
    wheels = [build(folder) for folder in folders]
    print("built against \\ run with", *(f"{version:>13}" for version in versions))
    failed = False
    for version, wheel in zip(versions, wheels, strict=True):
        cells = [wheel is not None and works(wheel, folder) for folder in folders]
        failed |= not all(cells)
        print(f"{version:24}", *(f"{'ok' if cell else 'FAILED':>13}" for cell in cells))
    sys.exit(failed)


if __name__ == "__main__":
    main()
