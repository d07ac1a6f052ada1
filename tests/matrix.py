"""Builds a wheel against every torch and runs each wheel with every torch: `make matrix`.

The binary uses nothing but torch's stable ABI, so one wheel must serve all of them. The
environments stay in build/matrix for the next run; one with a CUDA build of torch takes 6 GB.
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


def python(version: str, *arguments: object) -> None:
    """Runs an environment's Python, which sees nothing but that environment."""
    subprocess.run(
        [FOLDER / version / "bin/python", "-I", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"PIP_CACHE_DIR": str(FOLDER / "cache")},
        check=True,
    )


def build(version: str) -> Path:
    """The wheel made in a version's own environment, from a source distribution."""
    folder = FOLDER / version
    if not folder.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    torch = "torch" if version == "newest" else f"torch=={version}.*"
    install = ("-m", "pip", "install", "--quiet")
    python(version, *install, torch, "setuptools>=77", "pybind11>=2.13", "ninja")
    for old in (folder / "dist").glob("*"):
        old.unlink()
    python(version, "setup.py", "-q", "sdist", "-d", folder / "dist")
    (source,) = (folder / "dist").glob("*.tar.gz")
    wheel = ("-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps")
    python(version, *wheel, "-w", folder / "dist", source)
    (made,) = (folder / "dist").glob("*.whl")
    python(version, *install, made)  # and what it depends on
    return made


def works(wheel: Path, version: str) -> bool:
    install = ("-m", "pip", "install", "--quiet", "--force-reinstall", "--no-deps")
    try:
        python(version, *install, wheel)
        python(version, "-c", CHECK)
    except subprocess.CalledProcessError:
        return False
    return True


def main() -> None:
    versions = sys.argv[1:] or VERSIONS
    wheels = {version: build(version) for version in versions}
    print("built for \\ run with", *versions, sep="\t")
    failed = False
    for version, wheel in wheels.items():
        cells = [works(wheel, other) for other in versions]
        failed |= not all(cells)
        print(version, *("ok" if cell else "FAILED" for cell in cells), sep="\t")
    sys.exit(failed)


if __name__ == "__main__":
    main()
