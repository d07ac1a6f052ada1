"""Conversions: samples, tensors, PIL images; resizing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from ..checks import MIN_SIDE, check_range
from .picture import Picture, PictureError


def fit(image: Tensor, longest: int) -> Tensor:
    """An image (B, C, H, W) in [0, 1], made smaller if its longer side exceeds ``longest`` pixels.

    Bicubic with antialiasing, clipped to [0, 1] where it overshoots.
    """
    scale = longest / max(image.shape[-2:])
    if scale >= 1:
        return image
    size = [max(1, round(side * scale)) for side in image.shape[-2:]]
    small = F.interpolate(image.float(), size, mode="bicubic", antialias=True)
    return small.clamp_(0, 1).to(image.dtype)


def fit_picture(picture: Picture, longest: int) -> Picture:
    """The same for a picture, its alpha with it."""
    alpha = picture.alpha
    return replace(
        picture,
        pixels=fit(picture.pixels[None], longest)[0],
        alpha=None if alpha is None else fit(alpha[None, None], longest)[0, 0],
    )


def from_samples(samples: NDArray[Any]) -> Tensor:
    """(H, W, C) uint8 or uint16 -> (C, H, W) float32 in [0, 1]."""
    ordered = np.require(samples, requirements=("C", "W"))  # for torch
    planes = torch.from_numpy(ordered).permute(2, 0, 1)
    floats = planes.to(torch.float32, memory_format=torch.contiguous_format)
    return floats.div_(np.iinfo(samples.dtype).max)


def to_samples(image: Tensor, depth: int) -> NDArray[Any]:
    """(C, H, W) in [0, 1] -> (H, W, C) of ``depth`` 8 (uint8) or 16 (uint16), rounded."""
    scaled = (image.detach().float().cpu() * (2**depth - 1)).round_()
    planes = scaled.to(torch.uint8 if depth == 8 else torch.uint16)
    return planes.permute(1, 2, 0).contiguous().numpy()


def samples_of(image: Image.Image) -> NDArray[np.uint8]:
    """The pixels of an 8-bit Pillow image: (H, W, 3), or (H, W, 4) if it is transparent.

    Raises:
        PictureError: a mode other than 1, L, LA, P, PA, RGB and RGBA, which alone become RGB
            without loss.
    """
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
        raise PictureError(
            f"pixels of Pillow's mode {image.mode} are not handled; convert them to RGB first"
        )
    return np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))


def image_to_tensor(name: str, given: Any) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """An image of any kind as (B, 3, H, W), and how to turn such a tensor back into that kind."""
    back: Callable[[Tensor], Any]
    if isinstance(given, Tensor):
        image, back = _from_tensor(name, given)
    elif isinstance(given, np.ndarray):
        image, back = _from_array(name, given)
    elif isinstance(given, Image.Image):
        image, back = _from_pil(given)
    else:
        raise TypeError(f"{name} must be a tensor, array or PIL image, not {type(given).__name__}")
    height, width = image.shape[-2:]
    if min(height, width) < MIN_SIDE:
        raise ValueError(
            f"{name} must be at least {MIN_SIDE} pixels a side, not {width} x {height}"
        )
    if not image.is_cuda:  # where looking would make the host wait, and no CUDA graph may
        check_range(name, image)
    return image, back


def _from_tensor(name: str, given: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    if not given.is_floating_point():
        raise TypeError(f"{name} must be a floating tensor in [0, 1], not {given.dtype}")
    if given.dim() not in (3, 4) or given.shape[-3] != 3 or given.numel() == 0:
        raise ValueError(
            f"{name} must be a tensor (3, H, W) or (B, 3, H, W), not {tuple(given.shape)}"
        )
    return (given[None], lambda x: x[0]) if given.dim() == 3 else (given, lambda x: x)


def _from_array(name: str, given: NDArray[Any]) -> tuple[Tensor, Callable[[Tensor], NDArray[Any]]]:
    if given.ndim != 3 or given.shape[2] != 3 or given.size == 0:
        raise ValueError(f"{name} must be an array (H, W, 3), not {given.shape}")
    if given.dtype in (np.uint8, np.uint16):
        depth = 8 * given.itemsize
        return from_samples(given)[None], lambda x: to_samples(x[0], depth)
    if given.dtype not in (np.float16, np.float32, np.float64):
        raise TypeError(f"{name} must be an array of uint8, uint16 or floats, not {given.dtype}")
    image = torch.from_numpy(np.array(given.transpose(2, 0, 1), order="C"))[None]
    return image, lambda x: x[0].detach().permute(1, 2, 0).contiguous().cpu().numpy()


def _from_pil(given: Image.Image) -> tuple[Tensor, Callable[[Tensor], Image.Image]]:
    given = ImageOps.exif_transpose(given)
    samples = samples_of(given)

    def back(x: Tensor) -> Image.Image:
        result = Image.fromarray(np.concatenate([to_samples(x[0], 8), samples[..., 3:]], 2))
        result.info = {k: v for k, v in given.info.items() if k in ("icc_profile", "exif", "dpi")}
        return result

    return from_samples(samples[..., :3])[None], back
