"""Reading pictures."""

from __future__ import annotations

import re
import warnings
from contextlib import suppress
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, TiffImagePlugin

from . import camera, cicp
from .camera import Decoded
from .colour import cmyk_to_srgb, rgb_encoding
from .metadata import separate
from .picture import READABLE, SUFFIXES, Picture, PictureError, picture_errors
from .recognise import code_points, coded_bits, embedded_profile, recognise
from .samples import EIGHT_BIT_MODES, as_planes, from_samples, pil_samples

_SWAPPED = {"B": "L", "L": "B", "N": "B" if np.little_endian else "L"}  # opposite byte orders
_PLUGINS = "Jpeg", "Png", "Tiff", "Bmp", "Gif", "WebP", "Avif", "Jpeg2K"  # Pillow's of `READABLE`


def read(source: str | Path | BinaryIO, *, labels: bool = False) -> Picture:
    """Read a picture.

    Args:
        source: a file, or a binary stream that is open for reading.
        labels: whether the samples are labels, as in a mask, so that RGB and grey profiles are
            ignored.

    Returns:
        The picture, upright.

    Raises:
        PictureError: the file does not exist, is not in one of the `READABLE` formats, is damaged,
            needs a package of the extra ``camera`` that is missing, has more pixels than Pillow
            decodes (about 180 million), contains several frames, or stores its samples in an
            unsupported way.

    Examples:
        >>> from io import BytesIO
        >>> from PIL import Image
        >>> from fastfcs.images import read
        >>> stream = BytesIO()
        >>> Image.new("L", (24, 16), 255).save(stream, "PNG")
        >>> _ = stream.seek(0)
        >>> picture = read(stream)
        >>> picture.size, picture.grey, picture.pixels.shape
        ((24, 16), True, torch.Size([3, 16, 24]))
    """
    with picture_errors(_name(source)), warnings.catch_warnings():
        # Pillow warns of odd metadata, and of pictures larger than half its limit.
        warnings.simplefilter("ignore")
        data = Path(source).read_bytes() if isinstance(source, (str, Path)) else source.read()
        return _decode(data, labels)


def list_images(folder: str | Path) -> list[Path]:
    """List the pictures in a folder and its subfolders.

    Args:
        folder: the folder.

    Returns:
        Their absolute paths, sorted.

    Raises:
        ValueError: the folder does not exist or contains no pictures.

    Examples:
        >>> from pathlib import Path
        >>> from fastfcs.images import list_images
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "a.png").write_bytes(b""), (folder / "notes.txt").write_bytes(b"")
        >>> [path.name for path in list_images(folder)]
        ['a.png']
    """
    folder = Path(folder).resolve()
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise ValueError(f"folder must contain pictures, got {folder}")
    return paths


def _name(source: str | Path | BinaryIO) -> str:
    if isinstance(source, (str, Path)):
        return str(source)
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else "the stream"


def _decode(data: bytes, labels: bool) -> Picture:
    kind = recognise(data)
    decoded = camera.decode(data, kind) if kind else _decode_by_pillow(data)
    samples, metadata = decoded.samples, decoded.metadata
    depth = 8 * samples.itemsize
    alpha = from_samples(samples[..., 3:])[0] if samples.shape[2] == 4 else None
    planes = as_planes(samples[..., :3])
    planes, icc, profile_notes = rgb_encoding(planes, None if labels else decoded.icc, depth)
    return Picture(
        samples=planes,
        alpha=alpha,
        icc=icc,
        exif=metadata.exif,
        xmp=metadata.xmp,
        iptc=metadata.iptc,
        dpi=metadata.dpi,
        grey=decoded.grey,
        depth=depth,
        format=decoded.format,
        notes=(*decoded.notes, *profile_notes, *metadata.notes),
    )


def _decode_by_pillow(data: bytes) -> Decoded:
    data, metadata = separate(data)
    image: Image.Image = _open(data)
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # MPO: a photograph and its previews
        raise PictureError(f"it holds {frames} pictures and must hold one")
    icc = metadata.icc or image.info.get("icc_profile") or embedded_profile(data)
    notes = []
    grey = image.mode in ("1", "L", "LA", "I;16", "I;16B")
    depth = _depth(image)
    if coded_bits(data) > depth:
        notes.append(f"{coded_bits(data)} bits per channel read as 8: Pillow decodes no more")
    if not icc and (code := code_points(data)):
        icc, clauses = cicp.profile(*code)
        notes += clauses
    if image.mode == "CMYK":
        image, icc = cmyk_to_srgb(image, icc)
        depth = 8
        notes.append("CMYK converted to sRGB, 8 bits per channel")

    samples: NDArray[Any]
    if depth == 16:
        samples, grey = _samples_16(data, image)
    elif image.mode in EIGHT_BIT_MODES:
        samples = pil_samples(image, _orientation(image))
    else:
        raise PictureError(
            f"pixels of Pillow's mode {image.mode} are not supported; convert them to RGB first"
        )
    format = "JPEG" if image.format == "MPO" else str(image.format or "TIFF")
    return Decoded(samples, metadata, icc, grey, format, tuple(notes))


def _open(data: bytes) -> ImageFile.ImageFile:
    for plugin in _PLUGINS:  # Image.init would import another thirty
        with suppress(ImportError):  # AVIF needs Pillow 11.3
            import_module(f"PIL.{plugin}ImagePlugin")
    known = [format for format in READABLE if format in Image.OPEN]
    return Image.open(BytesIO(data), formats=known)


def _orientation(image: Image.Image) -> int:
    image.load()  # turns a TIFF
    orientation = image.getexif().get(0x0112, 1)
    return int(orientation) if orientation in range(1, 9) else 1


def _depth(image: Image.Image) -> int:
    """8 or 16 bits per channel, from the file's header: Pillow's modes do not distinguish them."""
    raw = _raw_mode(image)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = max(image.tag_v2.get(258, (1,)))
        inverted = image.mode.startswith("I;16") and image.tag_v2.get(262) == 0
        if bits <= 8 or image.mode == "CMYK":
            return 8
        if bits != 16 or inverted or re.fullmatch(r"I;16[BN]?|RGBA?;16[LBN]", raw) is None:
            raise PictureError(
                f"a TIFF with {bits} bits per channel in this layout is not supported; save it "
                "with 8 or 16 bits, unsigned, channels interleaved, alpha not premultiplied"
            )
        return 16
    return 16 if raw.endswith(";16B") or image.mode == "I;16" else 8


def _raw_mode(image: Image.Image) -> str:
    """The layout of the samples in the file, as Pillow names it ("RGB;16B", ...)."""
    tile: Any = getattr(image, "tile", None)
    args = tile[0].args if tile else ""
    return str(args[0] if isinstance(args, tuple) and args else args or "")


def _samples_16(data: bytes, image: Image.Image) -> tuple[NDArray[Any], bool]:
    """uint16 samples (H, W, 3 or 4), and whether they are grey.

    Pillow's decoders keep the high byte of each RGB sample. A second decoding with the opposite
    byte order keeps the low byte.
    """
    samples: NDArray[Any]
    raw = _raw_mode(image)
    transparent = image.info.get("transparency")  # a PNG's single transparent colour
    if image.mode.startswith("I;16"):
        return pil_samples(image, _orientation(image)), True
    if raw == "LA;16B":  # four bytes per pixel, like RGBA with 8 bits
        pairs = np.asarray(ImageOps.exif_transpose(_open_as(data, "RGBA")))
        samples = np.ascontiguousarray(pairs).view(">u2").astype(np.uint16)
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
    """Open the file again, to unpack its samples as another raw mode."""
    image = _open(data)
    image.tile = [
        tile._replace(args=(raw, *tile.args[1:]) if isinstance(tile.args, tuple) else raw)
        for tile in image.tile
    ]
    return image
