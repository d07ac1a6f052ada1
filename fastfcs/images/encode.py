"""Encoding pictures.

Pillow cannot write 16-bit RGB as PNG or TIFF, so these two are written by hand. The tests compare
them with pypng and tifffile, which are not worth a dependency for 50 lines.
"""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from . import camera
from .extra import PACKAGES
from .metadata import (
    LONG,
    SHORT,
    UNDEFINED,
    Field,
    Metadata,
    jpeg_segments,
    pack_directory,
    png_text,
    tiff_directory,
)
from .picture import HOLDS_ALPHA, HOLDS_BITS, SAVE_OPTIONS, Picture, metadata_for
from .samples import to_samples


def encode(picture: Picture, format: str) -> bytes:
    """Encode a picture as a file.

    Args:
        picture: the picture.
        format: one of the values of `WRITABLE`.

    Returns:
        The content of the file, with 16 bits per channel and alpha if the format holds them.

    Examples:
        >>> import torch
        >>> from fastfcs.images import Picture
        >>> from fastfcs.images.encode import encode
        >>> encode(Picture(torch.rand(3, 16, 24)), "PNG")[1:4]
        b'PNG'
    """
    depth = picture.depth if HOLDS_BITS.get(format, 8) > 8 else 8
    alpha = picture.alpha if format in HOLDS_ALPHA else None
    samples = to_samples(picture.samples, depth)
    if alpha is not None:
        samples = np.concatenate([samples, to_samples(alpha[None], depth)], -1)
    metadata = metadata_for(picture, format)
    if format == "TIFF":
        return _tiff(samples, metadata)
    if format in PACKAGES:
        return camera.encode(samples, metadata, format)
    if depth == 16:
        return _png_16(samples, metadata)
    stream = BytesIO()
    options = dict(SAVE_OPTIONS[format])
    if metadata.icc:
        options["icc_profile"] = metadata.icc
    if metadata.exif:
        options["exif"] = metadata.exif
    if metadata.dpi and max(metadata.dpi) < 65535:  # JFIF holds no more; EXIF does
        options["dpi"] = metadata.dpi
    if format == "JPEG":
        options["extra"] = jpeg_segments(metadata)
    elif format == "PNG":
        options["pnginfo"] = chunks = PngImagePlugin.PngInfo()
        if text := png_text(metadata):
            chunks.add(b"iTXt", text)
    elif metadata.xmp:
        options["xmp"] = metadata.xmp
    Image.fromarray(samples).save(stream, format, **options)
    return stream.getvalue()


def _png_16(samples: NDArray[np.uint16], metadata: Metadata) -> bytes:
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
    if metadata.icc:
        PngImagePlugin.putchunk(stream, b"iCCP", b"ICC Profile\0\0", zlib.compress(metadata.icc))
    if text := png_text(metadata):
        PngImagePlugin.putchunk(stream, b"iTXt", text)
    if metadata.dpi:
        density = b"".join(round(d / 0.0254).to_bytes(4, "big") for d in metadata.dpi)  # per metre
        PngImagePlugin.putchunk(stream, b"pHYs", density, b"\1")
    if metadata.exif:
        PngImagePlugin.putchunk(stream, b"eXIf", metadata.exif.removeprefix(b"Exif\0\0"))
    PngImagePlugin.putchunk(stream, b"IDAT", zlib.compress(lines.data))
    PngImagePlugin.putchunk(stream, b"IEND")
    return stream.getvalue()


def _tiff(samples: NDArray[Any], metadata: Metadata) -> bytes:
    """Encode (H, W, 3 or 4) as TIFF 6.0: one deflated strip with predictor 2, differences."""
    height, width, channels = samples.shape
    bits = 8 * samples.itemsize
    order, tags = tiff_directory(metadata)
    differences = samples.astype(f"{order}u{samples.itemsize}")
    differences[:, 1:] -= samples[:, :-1]
    strip = zlib.compress(differences.data)

    def numbers(kind: str, *values: int) -> Field:
        return {"H": SHORT, "I": LONG}[kind], struct.pack(f"{order}{len(values)}{kind}", *values)

    tags |= {
        256: numbers("I", width),
        257: numbers("I", height),
        258: numbers("H", *(bits,) * channels),
        259: numbers("H", 8),  # Adobe deflate
        262: numbers("H", 2),  # RGB
        273: numbers("I", 8),  # position of the strip
        277: numbers("H", channels),
        278: numbers("I", height),
        279: numbers("I", len(strip)),
        284: numbers("H", 1),  # interleaved
        317: numbers("H", 2),  # differences
    }
    if channels == 4:
        tags[338] = numbers("H", 2)  # alpha, not premultiplied
    if metadata.icc:
        tags[34675] = UNDEFINED, metadata.icc
    strip += bytes(len(strip) % 2)
    start = 8 + len(strip)
    header = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, start)
    return header + strip + pack_directory(tags, order, start)
