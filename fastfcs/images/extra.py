"""The packages of the extra ``camera``, which are imported when a file needs them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

PACKAGES = {
    "HEIF": ("pillow_heif", "HEIC needs pillow-heif"),
    "JXL": ("pyjpegxl", "JPEG XL needs pyjpegxl (Python 3.11 or newer, x86-64)"),
}
"""By format: the module, and what to say if it is missing. Every other format is raw: rawpy."""


def require(format: str) -> Any:
    """Import the package that reads or writes a format.

    Args:
        format: "HEIF", "JXL", or a kind of camera's raw file.

    Returns:
        The module.

    Raises:
        ImportError: it is not installed; the message is a sentence that names the extra.

    Examples:
        >>> from fastfcs.images.extra import require
        >>> require("DNG").__name__
        'rawpy'
    """
    raw = "rawpy", f"a camera's raw file ({format}) needs rawpy"
    module, sentence = PACKAGES.get(format, raw)
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f"{sentence}; pip install 'fastfcs[camera]'") from error
