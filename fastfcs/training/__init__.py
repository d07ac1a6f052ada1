"""Training of the universal network on the artistic loss, and tuning of H^s for one style."""

from .descent import Diverged
from .preset import tune
from .universal import train

__all__ = ["Diverged", "train", "tune"]
