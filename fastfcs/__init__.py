"""Photorealistic and artistic style transfer (Puy and Pérez, arXiv:1806.05285)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .filters import LowPass as LowPass
    from .laplacian import MattingLaplacian as MattingLaplacian
    from .ops import gram as gram
    from .ops import gram_correction as gram_correction
    from .regions import read_regions as read_regions
    from .stylizer import Stylizer as Stylizer

    __version__: str

# Each name is imported when it is first used, so that `fastfcs --help` does not import torch.
_MODULES = {
    "LowPass": "filters",
    "MattingLaplacian": "laplacian",
    "Stylizer": "stylizer",
    "gram": "ops",
    "gram_correction": "ops",
    "read_regions": "regions",
}
__all__ = ["LowPass", "MattingLaplacian", "Stylizer", "gram", "gram_correction", "read_regions"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # takes as long as the rest of `fastfcs --help`

        return version("fastfcs")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
