"""HEIC, JPEG XL and cameras' raw files, by pillow-heif, pyjpegxl and rawpy (LibRaw).

These packages are asked directly and not as plugins of Pillow, which has no RGB with 16 bits. Of
JPEG XL's packages, pyjpegxl alone reads and writes 16 bits, ICC profiles, EXIF and XMP;
pillow-jxl-plugin drops the second byte of every sample, XMP, and profiles in writing.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import cicp
from .extra import require
from .metadata import Metadata, gather, raw_metadata
from .picture import SAVE_OPTIONS, PictureError
from .recognise import is_cut

# The camera's white balance, and the curve of sRGB without brightening: of LibRaw's settings these
# come nearest to the JPEGs that cameras make of the same exposures.
_DEVELOPMENT = {
    "use_camera_wb": True,
    "no_auto_bright": True,
    "gamma": (2.4, 12.92),
    "output_bps": 16,
}


class Decoded(NamedTuple):
    """What a package has read from a file.

    Attributes:
        samples: (H, W, 3), or (H, W, 4) with alpha, uint8 or uint16, upright.
        metadata: the metadata without the orientation.
        icc: the colour profile, or None for sRGB.
        grey: whether the file has no colour.
        format: one of `READABLE`.
        notes: clauses on what was converted.

    Examples:
        >>> import numpy as np
        >>> from fastfcs.images.camera import Decoded
        >>> from fastfcs.images.metadata import Metadata
        >>> Decoded(np.zeros((16, 24, 3), np.uint8), Metadata()).format
        'RAW'
    """

    samples: NDArray[Any]
    metadata: Metadata
    icc: bytes | None = None
    grey: bool = False
    format: str = "RAW"
    notes: tuple[str, ...] = ()


def decode(data: bytes, kind: str) -> Decoded:
    """Decode a file that Pillow does not read.

    Args:
        data: the content of the file.
        kind: what `recognise` has told.

    Returns:
        The samples and what belongs to them.

    Raises:
        ImportError: the package for it is missing; the message is a sentence.
        PictureError: the file is cut off, has more pixels than Pillow would decode, or stores its
            samples in an unsupported way. Damaged files raise other errors, too.

    Examples:
        >>> import numpy as np
        >>> from fastfcs.images.camera import decode, encode
        >>> from fastfcs.images.metadata import Metadata
        >>> data = encode(np.zeros((16, 24, 3), np.uint8), Metadata(), "HEIF")
        >>> decode(data, "HEIF").samples.shape
        (16, 24, 3)
    """
    return {"HEIF": _decode_heif, "JXL": _decode_jxl}.get(kind, _decode_raw)(data, kind)


def encode(samples: NDArray[Any], metadata: Metadata, format: str) -> bytes:
    """Encode a picture as HEIC or JPEG XL.

    Args:
        samples: (H, W, 3 or 4), uint8 or uint16.
        metadata: what the file is to hold.
        format: "HEIF", which gets 10 bits of uint16, or "JXL".

    Returns:
        The content of the file.

    Examples:
        >>> import numpy as np
        >>> from fastfcs.images.camera import encode
        >>> from fastfcs.images.metadata import Metadata
        >>> encode(np.zeros((16, 24, 3), np.uint8), Metadata(), "HEIF")[4:12]
        b'ftypheic'
    """
    package = require(format)
    options = dict(SAVE_OPTIONS[format])
    if format == "JXL":
        # The box begins with the position of the TIFF header in it.
        exif = metadata.exif and bytes(4) + metadata.exif.removeprefix(b"Exif\0\0")
        blocks = {"exif": exif, "xmp": metadata.xmp, "icc": metadata.icc}
        encoded: bytes = package.encode_from_numpy(samples, **options, **blocks)
        return encoded
    blocks = {"exif": metadata.exif, "xmp": metadata.xmp, "icc_profile": metadata.icc}
    options |= {name: block for name, block in blocks.items() if block}
    height, width, channels = samples.shape
    mode = ("RGB" if channels == 3 else "RGBA") + (";16" if samples.dtype == np.uint16 else "")
    stream = BytesIO()
    package.encode(mode, (width, height), samples.tobytes(), stream, **options)
    return stream.getvalue()


def _decode_heif(data: bytes, kind: str) -> Decoded:
    file = require(kind).open_heif(data, convert_hdr_to_8bit=False, hdr_to_16bit=False)
    if not len(file):
        raise PictureError("its pictures are of a kind that pillow-heif does not decode")
    image = file[file.primary_index]
    _check_size(*image.size)
    if image.premultiplied_alpha:
        raise PictureError("its colours are premultiplied by alpha; save it as PNG first")
    info = image.info
    samples = np.asarray(image)
    if samples.dtype == np.uint16:
        bits = info["bit_depth"]
        samples = samples << (16 - bits)
        for row in samples:  # not at once, which would take another copy
            row |= row >> bits  # white remains white
    icc: bytes | None = info.get("icc_profile") or None
    notes: list[str] = []
    if not icc and (code := info.get("nclx_profile")):
        icc, notes = cicp.profile(code["color_primaries"], code["transfer_characteristics"])
    blocks = {block["type"]: block["data"] for block in info["metadata"]}
    metadata = gather(info["exif"], xmp=info.get("xmp"), iptc=blocks.get("iptc"))
    rgb, grey = _in_colour(samples)
    return Decoded(rgb, metadata, icc, grey, kind, tuple(notes))


def _decode_jxl(data: bytes, kind: str) -> Decoded:
    jxl = require(kind)
    header = jxl.probe(data)
    _check_size(header.width, header.height)
    if header.bits_per_sample > 16:
        raise PictureError(
            f"JPEG XL with {header.bits_per_sample}-bit samples; save it with 8 or 16 bits"
        )
    header, samples = jxl.decode_to_numpy(data)
    exif = header.exif or b""
    metadata = gather(exif[4 + int.from_bytes(exif[:4], "big") :], exif, xmp=header.xmp)
    rgb, grey = _in_colour(samples)
    return Decoded(rgb, metadata, header.icc, grey, kind)


def _decode_raw(data: bytes, kind: str) -> Decoded:
    rawpy = require(kind)
    if is_cut(data):
        raise PictureError(f"a camera's raw file ({kind}) that is cut off")
    try:
        with rawpy.imread(BytesIO(data)) as raw:
            _check_size(raw.sizes.width, raw.sizes.height)
            samples = raw.postprocess(**_DEVELOPMENT)
    except rawpy.LibRawError as error:
        reason = error.args[0]  # often bytes
        text = reason.decode() if isinstance(reason, bytes) else str(reason)
        raise PictureError(
            f"a camera's raw file ({kind}) that LibRaw cannot develop: {text}"
        ) from error
    note = f"raw file ({kind}) developed with the camera's white balance"
    rgb, grey = _in_colour(samples)
    return Decoded(rgb, raw_metadata(data), grey=grey, notes=(note,))


def _in_colour(samples: NDArray[Any]) -> tuple[NDArray[Any], bool]:
    """Samples of three channels, and alpha if there is one; and whether they were grey."""
    samples = np.atleast_3d(samples)
    grey = samples.shape[2] < 3
    return (samples[..., [0, 0, 0, 1][: samples.shape[2] + 2]] if grey else samples), grey


def _check_size(width: int, height: int) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > 2 * limit:
        raise Image.DecompressionBombError
