"""Reading pictures."""

from __future__ import annotations

import re
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, TiffImagePlugin

from .convert import from_samples, samples_of
from .picture import READABLE, Picture, PictureError, picture_errors, reason

# EXIF: description, camera, software, date, author, copyright, resolution. The rest of a TIFF's
# first directory, and of some phones', describes the layout of the old file. Then two directories
# of their own, for exposure and GPS; of the first, not the old file's pixels across and down.
_EXIF_TAGS = (270, 271, 272, 282, 283, 296, 305, 306, 315, 33432)
_EXIF_DIRECTORIES = (0x8769, 0x8825)
_EXIF_SIZE = (0xA002, 0xA003)


def read(source: str | Path | BinaryIO) -> Picture:
    """Read a picture from a file or an open binary stream.

    Raises:
        PictureError: no such file; not a picture of the `READABLE` formats; damaged; too large to
            be decoded safely (Pillow's limit, about 180 megapixels); several frames; pixels of a
            kind that is not handled.
    """
    if isinstance(source, (str, Path)):
        name = str(source)
        try:
            data = Path(source).read_bytes()
        except OSError as error:
            raise PictureError(f"{name} cannot be read: {reason(error)}") from error
    else:
        name = _stream_name(source)
        data = source.read()
    with picture_errors(name), warnings.catch_warnings():
        # Pillow warns of odd metadata, and of pictures over half of its limit.
        warnings.simplefilter("ignore")
        return _decode(name, data)


def _decode(name: str, data: bytes) -> Picture:
    image = _open(data)
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # MPO: a photograph and its previews
        raise PictureError(f"{name} holds {frames} pictures and must hold one")
    icc = image.info.get("icc_profile")
    # What Pillow finds in other places is EXIF's, or its own invention.
    says = image.format == "PNG" or image.info.get("jfif_unit") in (1, 2)
    dpi = image.info.get("dpi") if says else None
    notes = []
    grey = image.mode in ("1", "L", "LA", "I;16", "I;16B")
    depth = _depth(name, image)
    if image.mode == "CMYK":
        image, icc = _to_srgb(name, image, icc)
        depth = 8
        notes.append("CMYK converted to sRGB, 8 bits a channel")
    elif icc and icc[16:20] != b"RGB ":
        icc = None
        notes.append("ICC profile for grey left out: the result has colours; pixels taken as sRGB")

    if depth == 8:
        samples: NDArray[Any] = samples_of(ImageOps.exif_transpose(image))
    else:
        samples, grey = _deep_samples(data, image)
    pixels = from_samples(samples)
    return Picture(
        pixels=pixels[:3].contiguous(),
        alpha=pixels[3].contiguous() if len(pixels) == 4 else None,
        icc=icc,
        exif=_exif(image),
        dpi=dpi,
        grey=grey,
        depth=depth,
        format="JPEG" if image.format == "MPO" else str(image.format or "TIFF"),
        notes=tuple(notes),
    )


def _open(data: bytes) -> Image.Image:
    return Image.open(BytesIO(data), formats=READABLE)


def _depth(name: str, image: Image.Image) -> int:
    """8 or 16, from what the file says of itself, for Pillow's modes do not tell."""
    raw = _raw_mode(image)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = max(image.tag_v2.get(258, (1,)))
        inverted = image.mode.startswith("I;16") and image.tag_v2.get(262) == 0
        if bits <= 8 or image.mode == "CMYK":
            return 8
        if bits != 16 or inverted or re.fullmatch(r"I;16[BN]?|RGBA?;16[LBN]", raw) is None:
            raise PictureError(
                f"{name} is a TIFF of {bits} bits a channel in a layout that is not handled; write "
                "it with 8 or 16 bits, unsigned, channels interleaved, alpha not premultiplied"
            )
        return 16
    return 16 if raw.endswith(";16B") else 8


def _raw_mode(image: Image.Image) -> str:
    """How the samples lie in the file, in Pillow's words ("RGB;16B" ...)."""
    args = image.tile[0].args if getattr(image, "tile", None) else ""  # type: ignore[attr-defined]
    return str(args[0] if isinstance(args, tuple) and args else args or "")


_SWAPPED = {"B": "L", "L": "B", "N": "B" if np.little_endian else "L"}


def _deep_samples(data: bytes, image: Image.Image) -> tuple[NDArray[Any], bool]:
    """uint16 samples (H, W, 3 or 4), and whether they are grey.

    Pillow's decoders keep the high byte of each RGB sample; told the opposite byte order, they keep
    the low one.
    """
    samples: NDArray[Any]
    raw = _raw_mode(image)
    transparent = image.info.get("transparency")  # PNG: the one colour that is
    if image.mode.startswith("I;16"):
        samples = np.asarray(ImageOps.exif_transpose(image))[..., None].astype(np.uint16)
        grey = True
    elif raw == "LA;16B":  # four bytes a pixel, which is how RGBA lies in a file
        bytes_ = np.asarray(ImageOps.exif_transpose(_open_as(data, "RGBA")))
        samples = np.ascontiguousarray(bytes_).view(">u2").astype(np.uint16)
        grey = True
    else:
        high, low = (
            np.asarray(ImageOps.exif_transpose(_open_as(data, mode))).astype(np.uint16)
            for mode in (raw, raw[:-1] + _SWAPPED[raw[-1]])
        )
        samples = high << 8 | low
        grey = False
    if transparent is not None:
        opaque = (samples != np.asarray(transparent)).any(-1, keepdims=True)
        samples = np.concatenate([samples, opaque * np.uint16(65535)], -1)
    if grey:
        samples = samples[..., [0, 0, 0, *range(1, samples.shape[-1])]]
    return samples, grey


def _open_as(data: bytes, raw: str) -> Image.Image:
    """The file opened anew, its samples to be unpacked as another raw mode."""
    image: Any = _open(data)
    image.tile = [
        tile._replace(args=(raw, *tile.args[1:]) if isinstance(tile.args, tuple) else raw)
        for tile in image.tile
    ]
    return image


def _to_srgb(name: str, image: Image.Image, icc: bytes | None) -> tuple[Image.Image, bytes]:
    from PIL import ImageCms

    if not icc:
        raise PictureError(
            f"{name} is CMYK without an ICC profile, which leaves its colours unknown; "
            "convert it to RGB first"
        )
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    profile = ImageCms.ImageCmsProfile(BytesIO(icc))
    converted = ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB")
    assert converted is not None
    return converted, srgb.tobytes()


def _exif(image: Image.Image) -> bytes | None:
    found, kept = image.getexif(), Image.Exif()
    for tag in _EXIF_TAGS:
        if tag in found:
            kept[tag] = found[tag]
    for directory in _EXIF_DIRECTORIES:
        tags = {k: v for k, v in found.get_ifd(directory).items() if k not in _EXIF_SIZE}
        kept.get_ifd(directory).update(tags)
    return kept.tobytes() if len(kept) or any(map(kept.get_ifd, _EXIF_DIRECTORIES)) else None


def _stream_name(stream: BinaryIO) -> str:
    name = getattr(stream, "name", None)
    return name if isinstance(name, str) else "the stream"
