"""Pictures on their way between the visitor and the network."""

from __future__ import annotations

import base64
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .. import images
from ..checks import MIN_SIDE
from ..images import Picture
from ..presets import title

MAX_PIXELS = 120_000_000
"""The largest number of pixels of a picture."""

MAX_BYTES = 300_000_000
"""The largest size of an uploaded file."""

_PRESETS = Path(__file__).parent / "presets"


def read_upload(path: Path) -> Picture:
    """Read a picture within the limits.

    Args:
        path: its file.

    Returns:
        The picture.

    Raises:
        ValueError: it is no picture, too large or too small.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from fastfcs.app.uploads import read_upload
        >>> path = Path(tempfile.mkdtemp()) / "dot.png"
        >>> Image.new("RGB", (1, 1)).save(path)
        >>> read_upload(path)
        Traceback (most recent call last):
        ValueError: dot.png must have at least 16 x 16 pixels, got 1 x 1
    """
    size = None
    with suppress(Exception), Image.open(path) as image:  # `images.read` reports the error
        size = image.size
    if size is not None:  # before it takes memory
        _check_size(path.name, *size)
    picture = images.read(path)
    _check_size(path.name, *picture.size)
    return picture


def _check_size(name: str, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"{name} must have at most {MAX_PIXELS // 10**6} megapixels, "
            f"got {width * height / 10**6:.1f}"
        )
    if min(width, height) < MIN_SIDE:
        raise ValueError(
            f"{name} must have at least {MIN_SIDE} x {MIN_SIDE} pixels, got {width} x {height}"
        )


def suffix_of(path: Path, picture: Picture) -> str:
    """Choose the suffix of a restyled picture's file.

    Args:
        path: the file that the picture was read from.
        picture: the picture.

    Returns:
        The file's own suffix, if pictures of its format are written; ".png" if not.

    Examples:
        >>> from pathlib import Path
        >>> import torch
        >>> from fastfcs.app.uploads import suffix_of
        >>> from fastfcs.images import Picture
        >>> suffix_of(Path("a.JPG"), Picture(torch.rand(3, 16, 16), format="JPEG"))
        '.JPG'
        >>> suffix_of(Path("a.gif"), Picture(torch.rand(3, 16, 16), format="GIF"))
        '.png'
    """
    if images.WRITABLE.get(path.suffix.lower()) == picture.format:
        return path.suffix
    return next((s for s, f in images.WRITABLE.items() if f == picture.format), ".png")


def deepened(picture: Picture) -> Picture:
    """Give a picture 16 bits per channel, so that its result may be saved with as many.

    Args:
        picture: of 8 or 16 bits.

    Returns:
        The same picture with 16.

    Examples:
        >>> import torch
        >>> from fastfcs.app.uploads import deepened
        >>> from fastfcs.images import Picture
        >>> deepened(Picture(torch.full((3, 16, 16), 255, dtype=torch.uint8))).pixels.max().item()
        1.0
    """
    if picture.samples.dtype != torch.uint8:
        return picture
    samples = torch.from_numpy(np.multiply(picture.samples.numpy(), 257, dtype=np.uint16))
    return replace(picture, samples=samples, depth=16)


def data_url(srgb: Tensor, alpha: Tensor | None = None, longest: int | None = None) -> str:
    """Encode pixels for a page.

    Args:
        srgb: (3, H, W) in [0, 1].
        alpha: (H, W) in [0, 1], or None.
        longest: longer side, in pixels, to which larger pictures are reduced.

    Returns:
        A WebP picture as a data URL.

    Examples:
        >>> import torch
        >>> from fastfcs.app.uploads import data_url
        >>> data_url(torch.rand(3, 16, 16))[:23]
        'data:image/webp;base64,'
    """
    planes = srgb if alpha is None else torch.cat([srgb, alpha[None]])
    image = Image.fromarray(images.to_samples(planes, 8))
    if longest is not None:
        image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    stream = BytesIO()
    image.save(stream, "WEBP", quality=88)
    return _url(stream.getvalue())


def preset_thumbnail(name: str) -> str:
    """Return the picture by which a preset is chosen.

    Args:
        name: one of `fastfcs.presets.names`.

    Returns:
        A WebP picture as a data URL.

    Examples:
        >>> from fastfcs.app.uploads import preset_thumbnail
        >>> preset_thumbnail("udnie")[:23]
        'data:image/webp;base64,'
    """
    return _url((_PRESETS / f"{name}.webp").read_bytes())


def short_title(preset: Path) -> str:
    """Return the title of a preset's painting, without the painter.

    Args:
        preset: its file.

    Returns:
        The title.

    Examples:
        >>> from fastfcs.app.uploads import short_title
        >>> from fastfcs.presets import find
        >>> short_title(find("the-scream"))
        'The Scream'
    """
    return title(preset).partition(",")[0] or preset.stem


def _url(webp: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(webp).decode()}"
