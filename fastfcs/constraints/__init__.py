"""Constraints on the restyled image, enforced after every update of the solver.

A constraint is any callable X -> X on images (B,3,H,W). The ones in this package compute in
float32, or in float64 if the content is float64 (`Photoreal`: always in float32), return X's dtype,
and are differentiable in X.

    P[X], along the content's structure     SpectralProjection, RandomizedProjection, GraphLowPass,
                                            Tikhonov, PhotorealisticSmoothing
    C + P[X - C], for any of these          ResidualProjection
    per pixel                               Clip, SoftClip, SoftChroma, KeepLuminance, KeepColour
    what people notice                      KeepSkin, KeepShadows, KeepText, EvenGround
    proximal operators                      ProximalContent, TotalVariation
    combinations                            Masked, compose
    the whole photorealistic algorithm      Photoreal

docs/constraints.md compares them and shows how to write your own.
"""

from .combine import Constraint, Masked, ResidualProjection, compose
from .ground import EvenGround
from .lowpass import GraphLowPass
from .photoreal import Photoreal
from .pixels import Clip, KeepColour, KeepLuminance, SoftChroma, SoftClip
from .proximal import ProximalContent, TotalVariation
from .shadows import KeepShadows
from .skin import KeepSkin
from .spectral import RandomizedProjection, SpectralProjection
from .text import KeepText
from .tikhonov import PhotorealisticSmoothing, Tikhonov

__all__ = [
    "Clip",
    "Constraint",
    "EvenGround",
    "GraphLowPass",
    "KeepColour",
    "KeepLuminance",
    "KeepShadows",
    "KeepSkin",
    "KeepText",
    "Masked",
    "Photoreal",
    "PhotorealisticSmoothing",
    "ProximalContent",
    "RandomizedProjection",
    "ResidualProjection",
    "SoftChroma",
    "SoftClip",
    "SpectralProjection",
    "Tikhonov",
    "TotalVariation",
    "compose",
]
