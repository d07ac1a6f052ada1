"""A straightforward Gram correction in Triton: two kernels with tiles of at most 64."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _gram(h, g, n, slice_size, C: tl.constexpr, T: tl.constexpr, N: tl.constexpr):
    """Add one T x T tile of h^T h / n, over the ``slice_size`` pixels of this program."""
    first, batch, across = tl.program_id(0) * slice_size, tl.program_id(2), C // T
    i = tl.program_id(1) // across * T + tl.arange(0, T)
    j = tl.program_id(1) % across * T + tl.arange(0, T)
    plane = h + batch.to(tl.int64) * C * n
    total = tl.zeros((T, T), tl.float32)
    for start in range(first, tl.minimum(first + slice_size, n), N):
        p = start + tl.arange(0, N)
        a = tl.load(plane + i[:, None].to(tl.int64) * n + p[None], p[None] < n, 0.0)
        b = tl.load(plane + j[:, None].to(tl.int64) * n + p[None], p[None] < n, 0.0)
        total = tl.dot(a, tl.trans(b), total, input_precision="ieee")
    tl.atomic_add(g + batch * C * C + i[:, None] * C + j[None], total / n)


@triton.jit
def _correct(h, m, out, n, C: tl.constexpr, T: tl.constexpr, N: tl.constexpr):
    """Compute a tile of h M: T channels of N pixels."""
    p, batch = tl.program_id(0) * N + tl.arange(0, N), tl.program_id(2)
    j = tl.program_id(1) * T + tl.arange(0, T)
    plane = batch.to(tl.int64) * C * n
    total = tl.zeros((T, N), tl.float32)
    for start in range(0, C, T):
        i = start + tl.arange(0, T)
        a = tl.load(h + plane + i[:, None].to(tl.int64) * n + p[None], p[None] < n, 0.0)
        b = tl.load(m + batch * C * C + i[:, None] * C + j[None]).to(a.dtype)
        total = tl.dot(tl.trans(b), a, total, input_precision="ieee")
    to = out + plane + j[:, None].to(tl.int64) * n + p[None]
    tl.store(to, total.to(out.dtype.element_ty), p[None] < n)


def gram_correction(h: Tensor, target: Tensor) -> Tensor:
    """Compute h (h^T h / n - H) for h (B, C, n), C a power of two >= 16, and H (B or 1, C, C)."""
    batch, channels, n = h.shape
    tile, pixels = min(channels, 64), 64
    tiles, slices = channels // tile, min(triton.cdiv(n, pixels), 256)
    slice_size = triton.cdiv(triton.cdiv(n, slices), pixels) * pixels
    g = torch.zeros(batch, channels, channels, device=h.device)
    result = torch.empty_like(h)
    _gram[slices, tiles * tiles, batch](h, g, n, slice_size, channels, tile, pixels)
    grid = (triton.cdiv(n, pixels), tiles, batch)
    _correct[grid](h, g - target, result, n, channels, tile, pixels)
    return result
