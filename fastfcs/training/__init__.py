"""Training of the universal network on the artistic loss, and tuning of H^s for one style."""

from .loop import Diverged
from .trainer import train
from .tuning import tune

__all__ = ["Diverged", "train", "tune"]
