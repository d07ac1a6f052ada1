"""Finds programs of the CUDA toolkit."""

from __future__ import annotations

import shutil
from importlib.metadata import PackageNotFoundError, files


def cuda_tool(name: str) -> str | None:
    """The path of a program on the PATH or in the wheel nvidia-cuda-NAME; None if there is none."""
    if path := shutil.which(name):
        return path
    try:
        wheel = files(f"nvidia-cuda-{name}") or []
    except PackageNotFoundError:
        return None
    return next((str(file.locate()) for file in wheel if file.name == name), None)
