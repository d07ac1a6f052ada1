"""CIELAB, and the colour difference CIEDE2000."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Linear sRGB to XYZ (IEC 61966-2-1), and the white D65.
_TO_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
_FROM_XYZ = torch.tensor(_TO_XYZ, dtype=torch.float64).inverse().tolist()
_WHITE = 0.95047, 1.0, 1.08883


def to_lab(colours: Tensor) -> Tensor:
    """Convert sRGB to CIELAB, white D65.

    Args:
        colours: (..., 3), floating, in [0, 1].

    Returns:
        (..., 3), L in [0, 100], a and b.

    Examples:
        >>> import torch
        >>> from fastfcs.delta_e import to_lab
        >>> to_lab(torch.tensor([1.0, 0.0, 0.0])).round()
        tensor([53., 80., 67.])
    """
    low = colours <= 0.04045
    linear = torch.where(low, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    xyz = linear @ linear.new_tensor(_TO_XYZ).T / linear.new_tensor(_WHITE)
    f = torch.where(xyz > (6 / 29) ** 3, xyz.clamp_min(1e-9) ** (1 / 3), xyz * 841 / 108 + 4 / 29)
    x, y, z = f.unbind(-1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def from_lab(lab: Tensor) -> Tensor:
    """Convert CIELAB, white D65, to sRGB, the inverse of `to_lab`.

    Args:
        lab: (..., 3), floating.

    Returns:
        (..., 3), clipped to [0, 1].

    Examples:
        >>> import torch
        >>> from fastfcs.delta_e import from_lab
        >>> from_lab(torch.tensor([50.0, 0.0, 0.0])).mul(1000).round()
        tensor([466., 466., 466.])
    """
    lightness, a, b = lab.unbind(-1)
    y = (lightness + 16) / 116
    f = torch.stack([y + a / 500, y, y - b / 200], -1)
    xyz = torch.where(f > 6 / 29, f**3, (f - 4 / 29) * 108 / 841)
    linear = xyz * xyz.new_tensor(_WHITE) @ xyz.new_tensor(_FROM_XYZ).T
    linear = linear.clamp(0, 1)
    low = linear <= 0.0031308
    return torch.where(low, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055).clamp(0, 1)


def delta_e(first: Tensor, second: Tensor) -> Tensor:
    """Compute CIEDE2000 (Sharma, Wu and Dalal 2005), with all weights 1.

    Args:
        first, second: sRGB, (..., 3), floating, in [0, 1].

    Returns:
        (...), about 1 where a difference is just noticeable.

    Examples:
        >>> import torch
        >>> from fastfcs.delta_e import delta_e
        >>> grey = torch.full((3,), 0.5, dtype=torch.float64)
        >>> delta_e(grey, grey + 0.02).round(decimals=2)
        tensor(1.9100, dtype=torch.float64)
    """
    (l1, a1, b1), (l2, a2, b2) = (to_lab(x).unbind(-1) for x in (first, second))
    mean_chroma = (torch.hypot(a1, b1) + torch.hypot(a2, b2)) / 2
    g = 1.5 - _saturated(mean_chroma) / 2
    c1, c2 = torch.hypot(g * a1, b1), torch.hypot(g * a2, b2)
    h1, h2 = (torch.atan2(b, g * a) for a, b in ((a1, b1), (a2, b2)))
    lightness, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    turn = torch.remainder(h2 - h1 + math.pi, 2 * math.pi) - math.pi  # the shorter way round
    turn = torch.where(c1 * c2 > 0, turn, torch.zeros_like(turn))
    hue = torch.where(c1 * c2 > 0, h1 + turn / 2, h1 + h2)
    t = (
        1
        - 0.17 * (hue - math.radians(30)).cos()
        + 0.24 * (2 * hue).cos()
        + 0.32 * (3 * hue + math.radians(6)).cos()
        - 0.20 * (4 * hue - math.radians(63)).cos()
    )
    away = (lightness - 50) ** 2
    s_l = 1 + 0.015 * away / (20 + away).sqrt()
    s_c, s_h = 1 + 0.045 * chroma, 1 + 0.015 * chroma * t
    degrees = torch.remainder(torch.rad2deg(hue), 360)
    theta = math.radians(30) * (-(((degrees - 275) / 25) ** 2)).exp()
    r_t = -2 * _saturated(chroma) * (2 * theta).sin()
    dl, dc = (l2 - l1) / s_l, (c2 - c1) / s_c
    dh = 2 * (c1 * c2).sqrt() * (turn / 2).sin() / s_h
    return (dl**2 + dc**2 + dh**2 + r_t * dc * dh).clamp_min(0).sqrt()


def _saturated(chroma: Tensor) -> Tensor:
    power = chroma**7
    return (power / (power + 25.0**7)).sqrt()
