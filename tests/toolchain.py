"""Programs of the CUDA toolkit, wherever they are installed."""

from __future__ import annotations

import shutil
from importlib.metadata import PackageNotFoundError, files


def cuda_tool(name: str) -> str | None:
    """The path of a program: the one on the PATH or that of its wheel, nvidia-cuda-NAME."""
    if found := shutil.which(name):
        return found
    try:
        wheel = files(f"nvidia-cuda-{name}") or []
    except PackageNotFoundError:
        return None
    return next((str(file.locate()) for file in wheel if file.name == name), None)
