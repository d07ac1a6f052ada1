"""Samples as a file has them, uint8 or uint16, and as floats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
"""The modes of Pillow that convert to RGB or RGBA without loss."""

DEEP_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")
"""The modes of Pillow for grey with more than 8 bits: 0 to 65535, or [0, 1] for F."""

_BAND = 1 << 20  # pixels that are converted at a time

# From an upright array to a view of it as it is stored, by EXIF orientation.
_STORED: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


def from_samples(samples: NDArray[Any]) -> Tensor:
    """Convert samples to an image.

    Args:
        samples: (H, W, C), uint8, uint16, or floating in [0, 1].

    Returns:
        (C, H, W) float32 in [0, 1].

    Examples:
        >>> import numpy as np
        >>> from fastfcs.images import from_samples
        >>> from_samples(np.array([[[0, 51, 255]]], np.uint8)).flatten()
        tensor([0.0000, 0.2000, 1.0000])
    """
    return to_floats(as_planes(samples))


def as_planes(samples: NDArray[Any]) -> Tensor:
    """View samples as a tensor, which shares their memory where it can.

    Args:
        samples: (H, W, C), of a dtype that torch has.

    Returns:
        (C, H, W), with the channels of a pixel next to each other.

    Examples:
        >>> import numpy as np
        >>> from fastfcs.images.samples import as_planes
        >>> planes = as_planes(np.zeros((16, 24, 3), np.uint8))
        >>> planes.shape, planes.stride()
        (torch.Size([3, 16, 24]), (1, 72, 3))
    """
    ordered = np.require(samples, requirements=("C", "W"))  # torch needs both
    return torch.from_numpy(ordered).permute(2, 0, 1)


def to_floats(planes: Tensor) -> Tensor:
    """Convert an image of samples to floats.

    Args:
        planes: (C, H, W), uint8, uint16, or floating in [0, 1].

    Returns:
        (C, H, W) float32 in [0, 1], contiguous; ``planes`` themselves if they are such already.

    Examples:
        >>> import torch
        >>> from fastfcs.images.samples import to_floats
        >>> to_floats(torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1)).flatten()
        tensor([0.0000, 0.2000, 1.0000])
    """
    if planes.dtype == torch.float32:
        return planes.contiguous()
    floats = planes.to(torch.float32, memory_format=torch.contiguous_format)
    return floats if planes.is_floating_point() else floats.div_(torch.iinfo(planes.dtype).max)


def to_samples(image: Tensor, depth: int) -> NDArray[Any]:
    """Convert an image to integer samples, rounded: the inverse of `from_samples`.

    Args:
        image: (C, H, W), uint8, uint16, or floating in [0, 1], on any device.
        depth: bits per channel, 8 or 16.

    Returns:
        (H, W, C), uint8 or uint16; a view of the image if it has this depth.

    Examples:
        >>> import torch
        >>> from fastfcs.images import to_samples
        >>> to_samples(torch.tensor([0.0, 0.2, 1.0]).view(3, 1, 1), 8)
        array([[[  0,  51, 255]]], dtype=uint8)
    """
    dtype = torch.uint8 if depth == 8 else torch.uint16
    image = image.detach().cpu()
    samples: NDArray[Any]
    if image.dtype == dtype:
        samples = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        return samples
    channels, height, width = image.shape
    samples = np.empty((height, width, channels), f"u{depth // 8}")
    rows = max(1, _BAND // max(1, width))
    for top in range(0, height, rows):
        band = to_floats(image[:, top : top + rows])
        scaled = (band * (2**depth - 1)).round_().to(dtype)
        samples[top : top + rows] = scaled.permute(1, 2, 0).numpy()
    return samples


def pil_samples(image: Image.Image, orientation: int = 1) -> NDArray[Any]:
    """Return the samples of a PIL image in one of `EIGHT_BIT_MODES` or `DEEP_MODES`.

    Args:
        image: the PIL image.
        orientation: its EXIF orientation, 1 to 8.

    Returns:
        (H, W, 3), or (H, W, 4) if the image has transparency, upright: uint8; uint16 or float32 for
        the `DEEP_MODES`.

    Raises:
        ValueError: mode I has values that 16 bits do not hold.

    Examples:
        >>> from PIL import Image
        >>> from fastfcs.images.samples import pil_samples
        >>> pil_samples(Image.new("LA", (24, 16))).shape
        (16, 24, 4)
        >>> pil_samples(Image.new("RGB", (24, 16)), orientation=6).shape
        (24, 16, 3)
    """
    if image.mode != "RGB" or image.has_transparency_data:
        return upright(_converted(image), orientation)
    width, height = image.size
    samples: NDArray[Any] = np.empty(_upright_shape((height, width, 3), orientation), np.uint8)
    stored = _STORED[orientation](samples)
    rows = max(1, _BAND // max(1, width))  # Pillow would copy all of it three times
    for top in range(0, height, rows):
        stored[top : top + rows] = image.crop((0, top, width, min(top + rows, height)))
    return samples


def upright(samples: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn samples as an EXIF orientation tells.

    Args:
        samples: (H, W, C).
        orientation: the EXIF orientation, 1 to 8.

    Returns:
        (H, W, C) or (W, H, C), contiguous.

    Examples:
        >>> import numpy as np
        >>> from fastfcs.images.samples import upright
        >>> upright(np.array([[[1], [2]]]), 6).ravel(), upright(np.array([[[1], [2]]]), 8).ravel()
        (array([1, 2]), array([2, 1]))
    """
    if orientation == 1:
        return samples
    result = np.empty(_upright_shape(samples.shape, orientation), samples.dtype)
    _STORED[orientation](result)[:] = samples
    return result


def _upright_shape(stored: tuple[int, ...], orientation: int) -> tuple[int, ...]:
    height, width, channels = stored
    return (width, height, channels) if orientation >= 5 else stored


def _converted(image: Image.Image) -> NDArray[Any]:
    if image.mode not in DEEP_MODES:
        return np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))
    grey = np.asarray(image)[..., None]
    if image.mode == "F":
        return grey[..., [0, 0, 0]]
    if grey.size and not 0 <= grey.min() <= grey.max() <= 65535:
        raise ValueError(
            f"values of Pillow's mode {image.mode} must be in [0, 65535], "
            f"got {grey.min()} to {grey.max()}"
        )
    samples: NDArray[Any] = grey[..., [0, 0, 0]].astype(np.uint16)
    transparent = image.info.get("transparency")  # a single grey value
    if transparent is not None:
        opaque = (grey != transparent) * np.uint16(65535)
        samples = np.concatenate([samples, opaque], -1)
    return samples
