"""Training of networks on the artistic loss, and tuning of the Gram matrices of one style."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .config import TrainConfig, TuneConfig

if TYPE_CHECKING:
    from .loop import Diverged as Diverged
    from .trainer import Trainer as Trainer
    from .trainer import train as train
    from .tuning import tune as tune

# Imported on first use, because they import torch and the command line needs only the settings.
_MODULES = {"Diverged": "loop", "Trainer": "trainer", "train": "trainer", "tune": "tuning"}
__all__ = ["Diverged", "TrainConfig", "Trainer", "TuneConfig", "train", "tune"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
