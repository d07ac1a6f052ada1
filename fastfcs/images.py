"""Reading and writing pictures: every rule about files, metadata, colour and bit depth is here.

- **Orientation**: EXIF's is applied to the pixels and reset.
- **Colour**: pixels stay in the encoding of the picture's own ICC profile, which is written back;
  nothing is converted. Two exceptions, both noted: CMYK with a profile becomes sRGB (without one it
  is refused), and a grey profile is dropped, for a restyled picture has colours.
- **Alpha** (also a palette's or a transparent colour's) is kept apart from the pixels and written
  back.
- **Depth**: 8 or 16 bits a channel. Pillow decodes 16-bit RGB but holds only one byte of each
  sample, so such a file is decoded twice, once for each byte; what it cannot write at all (16-bit
  RGB as PNG or TIFF) is put together here.
- **EXIF** camera, author, date, resolution, GPS and exposure tags are kept; thumbnails, XMP and
  IPTC are not.
- JPEG and WebP are written at quality 95, JPEG without chroma subsampling.
- What the output format cannot hold: transparency is refused, 16 bits become 8 with a note
  (`losses`).
"""

from __future__ import annotations

import os
import re
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, PngImagePlugin, TiffImagePlugin, TiffTags, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

READABLE = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP")
WRITABLE = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
}
SUFFIXES = {*WRITABLE, ".bmp", ".gif"}
"""Suffixes by which pictures are found in a folder; a file named by itself may have any."""

_HOLDS_ALPHA = {"PNG", "TIFF", "WEBP"}
_HOLDS_16_BITS = {"PNG", "TIFF"}
_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "PNG": {},
    "TIFF": {},
    "WEBP": {"quality": 95},
}

# EXIF: description, camera, software, date, author, copyright, resolution. The rest of a TIFF's
# first directory, and of some phones', describes the layout of the old file. Then two directories
# of their own, for exposure and GPS; of the first, not the old file's pixels across and down.
_EXIF_TAGS = (270, 271, 272, 282, 283, 296, 305, 306, 315, 33432)
_EXIF_DIRECTORIES = (0x8769, 0x8825)
_EXIF_SIZE = (0xA002, 0xA003)


class PictureError(ValueError):
    """A picture that cannot be read or written; the message is one sentence that names the file."""


@dataclass(frozen=True)
class Picture:
    """A picture in memory.

    Attributes:
        pixels: (3, H, W) float32 in [0, 1], in the encoding of ``icc`` (sRGB if None); grey is
            three equal channels.
        alpha: (H, W) float32 in [0, 1], or None if the picture has no transparency.
        icc: RGB profile, or None.
        exif: tags, orientation removed, or None.
        dpi: pixels an inch, across and down, as JPEG and PNG say beside EXIF, or None.
        grey: whether the file held no colour.
        depth: bits a channel, 8 or 16.
        format: the file's, as Pillow names it ("JPEG", "PNG" ...).
        notes: sentences on what was changed or given up in reading.
    """

    pixels: Tensor
    alpha: Tensor | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None
    grey: bool = False
    depth: int = 8
    format: str = "PNG"
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.pixels.shape[2], self.pixels.shape[1]


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
            raise PictureError(f"{name} cannot be read: {_reason(error)}") from error
    else:
        name = _stream_name(source)
        data = source.read()
    with _one_sentence(name), warnings.catch_warnings():
        # Pillow warns of odd metadata, and of pictures over half of its limit.
        warnings.simplefilter("ignore")
        return _decode(name, data)


def write(picture: Picture, target: str | Path | BinaryIO, format: str | None = None) -> None:
    """Write a picture, its profile, alpha and EXIF.

    Args:
        target: a path, written under another name beside it and then renamed, so that it is whole
            or not there at all (an old file is replaced); or a binary stream.
        format: "JPEG", "PNG", "TIFF" or "WEBP"; by default that of the path's suffix.

    Raises:
        PictureError: a format that is none of these or cannot hold the picture's alpha (`losses`
            says what else is given up); a place that cannot be written.
    """
    if format is None:
        format = format_of(target) if isinstance(target, (str, Path)) else "PNG"
    losses(picture, format)
    if not isinstance(target, (str, Path)):
        target.write(_encode(picture, format))
        return
    with _one_sentence(str(target), "written"):
        data = _encode(picture, format)
        path = Path(target)
        partial = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            partial.write_bytes(data)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def format_of(path: str | Path) -> str:
    """The format that a suffix stands for; raises PictureError if it cannot be written."""
    suffix = Path(path).suffix.lower()
    if suffix not in WRITABLE:
        raise PictureError(f"{path} must end in one of {', '.join(WRITABLE)}")
    return WRITABLE[suffix]


def losses(picture: Picture, format: str) -> list[str]:
    """Sentences on what is given up by writing the picture in a format.

    Raises:
        PictureError: the picture is transparent somewhere and the format cannot say so.
    """
    if format not in _OPTIONS:
        raise PictureError(f"format must be one of {', '.join(_OPTIONS)}, not {format!r}")
    found = []
    if picture.alpha is not None and format not in _HOLDS_ALPHA:
        if picture.alpha.min() < 1:
            raise PictureError(
                f"{format} cannot hold this picture's transparency; PNG, TIFF and WebP can"
            )
        found.append(f"alpha channel, opaque everywhere, left out: {format} has none")
    if picture.depth == 16 and format not in _HOLDS_16_BITS:
        found.append(f"16 bits a channel written as 8: {format} holds no more")
    return found


def ignored(picture: Picture) -> list[str]:
    """Sentences on what a picture has that a style does without."""
    if picture.alpha is None or picture.alpha.min() == 1:
        return []
    return ["its transparency is ignored: a style is taken from all of its pixels"]


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


# Reading


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


# Writing


def _encode(picture: Picture, format: str) -> bytes:
    depth = picture.depth if format in _HOLDS_16_BITS else 8
    alpha = picture.alpha if format in _HOLDS_ALPHA else None
    image = picture.pixels.cpu()
    if alpha is not None:
        image = torch.cat([image, alpha.cpu()[None]])
    samples = to_samples(image, depth)
    if format == "TIFF":
        return _tiff(samples, picture)
    if depth == 16:
        return _png_16(samples, picture)
    stream = BytesIO()
    options = dict(_OPTIONS[format])
    if picture.icc:
        options["icc_profile"] = picture.icc
    if picture.exif:
        options["exif"] = picture.exif
    if picture.dpi:
        options["dpi"] = picture.dpi
    Image.fromarray(samples).save(stream, format, **options)
    return stream.getvalue()


def _png_16(samples: NDArray[np.uint16], picture: Picture) -> bytes:
    """(H, W, 3 or 4) as PNG (W3C, third edition): rows of differences to the left, filter 1."""
    height, width, channels = samples.shape
    rows = samples.astype(">u2").view(np.uint8).reshape(height, -1)
    lines = np.ones((height, 1 + rows.shape[1]), np.uint8)  # each begins with the filter's number
    lines[:, 1:] = rows
    lines[:, 1 + 2 * channels :] -= rows[:, : -2 * channels]
    header = b"".join(n.to_bytes(4, "big") for n in (width, height))
    stream = BytesIO()
    stream.write(b"\x89PNG\r\n\x1a\n")
    kind = 2 if channels == 3 else 6  # RGB, RGBA
    PngImagePlugin.putchunk(stream, b"IHDR", header, bytes((16, kind, 0, 0, 0)))
    if picture.icc:
        PngImagePlugin.putchunk(stream, b"iCCP", b"ICC Profile\0\0", zlib.compress(picture.icc))
    if picture.dpi:
        density = b"".join(round(d / 0.0254).to_bytes(4, "big") for d in picture.dpi)  # a metre
        PngImagePlugin.putchunk(stream, b"pHYs", density, b"\1")
    if picture.exif:
        PngImagePlugin.putchunk(stream, b"eXIf", picture.exif.removeprefix(b"Exif\0\0"))
    PngImagePlugin.putchunk(stream, b"IDAT", zlib.compress(lines.data))
    PngImagePlugin.putchunk(stream, b"IEND")
    return stream.getvalue()


def _tiff(samples: NDArray[Any], picture: Picture) -> bytes:
    """(H, W, 3 or 4) as TIFF 6.0: one strip of differences to the left (predictor 2), deflated."""
    height, width, channels = samples.shape
    bits = 8 * samples.itemsize
    differences = samples.astype(f"<u{samples.itemsize}")
    differences[:, 1:] -= samples[:, :-1]
    strip = zlib.compress(differences.data)
    ifd = TiffImagePlugin.ImageFileDirectory_v2()  # little-endian
    tags = Image.Exif()
    tags.load(picture.exif or b"")
    if picture.dpi:
        ifd[282], ifd[283], ifd[296] = *picture.dpi, 2  # inches; EXIF's, if there are, go before
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


# Errors


@contextmanager
def _one_sentence(name: str, verb: str = "read") -> Iterator[None]:
    """Whatever Pillow raises, which on a damaged file is nearly anything, as a PictureError."""
    try:
        yield
    except PictureError as error:
        if str(error).startswith(name):
            raise
        raise PictureError(f"{name}: {error}") from error
    except UnidentifiedImageError as error:
        raise PictureError(f"{name} is not a JPEG, PNG, TIFF, WebP, BMP or GIF picture") from error
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise PictureError(f"{name} has more than {limit} megapixels, the limit") from error
    except MemoryError as error:
        raise PictureError(f"{name} cannot be {verb}: not enough memory") from error
    except Exception as error:
        raise PictureError(f"{name} cannot be {verb}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0].rstrip(".")


def _stream_name(stream: BinaryIO) -> str:
    name = getattr(stream, "name", None)
    return name if isinstance(name, str) else "the stream"


def list_images(folder: str | Path) -> list[Path]:
    """The pictures below a folder, sorted by path, as absolute paths.

    Raises:
        ValueError: not a folder, or no picture in it.
    """
    folder = Path(folder).resolve()
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not found:
        raise ValueError(f"content and style must be folders with pictures in them, not {folder}")
    return found
