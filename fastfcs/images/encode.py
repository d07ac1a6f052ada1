"""Encoding pictures.

Pillow cannot write 16-bit RGB as PNG or TIFF, so these two are written by hand. The tests compare
them with pypng and tifffile, which are not worth a dependency for 50 lines.
"""

from __future__ import annotations

import zlib
from io import BytesIO
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin, TiffImagePlugin, TiffTags

from .convert import to_samples
from .picture import HOLDS_16_BITS, HOLDS_ALPHA, SAVE_OPTIONS, Picture


def encode(picture: Picture, format: str) -> bytes:
    """Encode a picture as a file.

    Args:
        picture: the picture.
        format: "JPEG", "PNG", "TIFF" or "WEBP".

    Returns:
        The content of the file, with 16 bits per channel and alpha if the format holds them.

    Examples:
        >>> import torch
        >>> from fastfcs.images import Picture
        >>> from fastfcs.images.encode import encode
        >>> encode(Picture(torch.rand(3, 16, 24)), "PNG")[1:4]
        b'PNG'
    """
    depth = picture.depth if format in HOLDS_16_BITS else 8
    alpha = picture.alpha if format in HOLDS_ALPHA else None
    image = picture.pixels.cpu()
    if alpha is not None:
        image = torch.cat([image, alpha.cpu()[None]])
    samples = to_samples(image, depth)
    if format == "TIFF":
        return _tiff(samples, picture)
    if depth == 16:
        return _png_16(samples, picture)
    stream = BytesIO()
    options = dict(SAVE_OPTIONS[format])
    if picture.icc:
        options["icc_profile"] = picture.icc
    if picture.exif:
        options["exif"] = picture.exif
    if picture.dpi:
        options["dpi"] = picture.dpi
    Image.fromarray(samples).save(stream, format, **options)
    return stream.getvalue()


def _png_16(samples: NDArray[np.uint16], picture: Picture) -> bytes:
    """Encode (H, W, 3 or 4) as PNG (W3C, third edition), every row with filter 1, differences."""
    height, width, channels = samples.shape
    rows = samples.astype(">u2").view(np.uint8).reshape(height, -1)
    lines = np.ones((height, 1 + rows.shape[1]), np.uint8)  # each begins with its filter type
    lines[:, 1:] = rows
    lines[:, 1 + 2 * channels :] -= rows[:, : -2 * channels]
    header = b"".join(n.to_bytes(4, "big") for n in (width, height))
    stream = BytesIO()
    stream.write(b"\x89PNG\r\n\x1a\n")
    colour_type = 2 if channels == 3 else 6  # RGB, RGBA
    PngImagePlugin.putchunk(stream, b"IHDR", header, bytes((16, colour_type, 0, 0, 0)))
    if picture.icc:
        PngImagePlugin.putchunk(stream, b"iCCP", b"ICC Profile\0\0", zlib.compress(picture.icc))
    if picture.dpi:
        density = b"".join(round(d / 0.0254).to_bytes(4, "big") for d in picture.dpi)  # per metre
        PngImagePlugin.putchunk(stream, b"pHYs", density, b"\1")
    if picture.exif:
        PngImagePlugin.putchunk(stream, b"eXIf", picture.exif.removeprefix(b"Exif\0\0"))
    PngImagePlugin.putchunk(stream, b"IDAT", zlib.compress(lines.data))
    PngImagePlugin.putchunk(stream, b"IEND")
    return stream.getvalue()


def _tiff(samples: NDArray[Any], picture: Picture) -> bytes:
    """Encode (H, W, 3 or 4) as TIFF 6.0: one deflated strip with predictor 2, differences."""
    height, width, channels = samples.shape
    bits = 8 * samples.itemsize
    differences = samples.astype(f"<u{samples.itemsize}")
    differences[:, 1:] -= samples[:, :-1]
    strip = zlib.compress(differences.data)
    ifd = TiffImagePlugin.ImageFileDirectory_v2()  # little-endian
    tags = Image.Exif()
    tags.load(picture.exif or b"")
    if picture.dpi:
        ifd[282], ifd[283], ifd[296] = *picture.dpi, 2  # per inch; EXIF takes precedence
    for tag in tags:
        ifd[tag] = tags.get_ifd(tag) if tag in TiffTags.TAGS_V2_GROUPS else tags[tag]
    ifd[256], ifd[257], ifd[258], ifd[277] = width, height, (bits,) * channels, channels
    ifd[259], ifd[317] = 8, 2  # Adobe deflate, differences
    ifd[262], ifd[284] = 2, 1  # RGB, interleaved
    ifd[273], ifd[278], ifd[279] = 0, height, len(strip)  # Pillow adds the offset of the data
    if channels == 4:
        ifd[338] = 2  # alpha, not premultiplied
    if picture.icc:
        ifd[34675] = picture.icc
    stream = BytesIO()
    ifd.save(stream)
    stream.write(strip)
    return stream.getvalue()
