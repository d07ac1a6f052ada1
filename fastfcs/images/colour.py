"""Conversion between the encoding of an ICC profile and sRGB, in which the network works."""

from __future__ import annotations

from torch import Tensor


def to_srgb(pixels: Tensor, icc: bytes | None) -> Tensor:
    """Convert pixels from the encoding of a profile to sRGB."""
    return pixels


def from_srgb(pixels: Tensor, icc: bytes | None) -> Tensor:
    """Convert pixels from sRGB to the encoding of a profile."""
    return pixels
