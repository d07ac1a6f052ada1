"""Constraints on the restyled image, enforced after every update of the solver.

A constraint is any callable X -> X on images (B,3,H,W). Those here compute in float32, or in
float64 where the content is float64 (`Photoreal`: always in float32), and give back X's dtype.
All are differentiable in X.

    P[X], along the content's structure   Exact, ApproximateBasis, Filtered, Tikhonov, Smoothing
    C + P[X - C], for any of these        Change; with a low-pass, Photoreal
    pixel by pixel, or against noise      Box, SoftBox, Near, KeepLuminance, KeepColour,
                                          TotalVariation
    made of others                        Masked, compose

docs/constraints.md compares them, and shows how to write one's own.
"""

from .basis import ApproximateBasis, Exact
from .combine import Change, Masked, compose
from .filtered import Filtered, Photoreal
from .pixels import Box, KeepColour, KeepLuminance, Near, SoftBox, TotalVariation
from .tikhonov import Smoothing, Tikhonov

__all__ = [
    "ApproximateBasis",
    "Box",
    "Change",
    "Exact",
    "Filtered",
    "KeepColour",
    "KeepLuminance",
    "Masked",
    "Near",
    "Photoreal",
    "Smoothing",
    "SoftBox",
    "Tikhonov",
    "TotalVariation",
    "compose",
]
