"""Conversion between the encoding of an ICC profile and sRGB, in which the network works.

Pillow's LittleCMS converts RGB with 8 bits per channel only. Profiles that consist of a matrix and
three curves (ICC.1:2022, annex F.3: those of phones, cameras and working spaces) or of one curve
for grey (F.2) are therefore evaluated here, in floating point. LittleCMS converts profiles with
tables of colours, and all pictures of 8 bits to sRGB: paintings depend so much on the last digit of
their content that only the same digits give the result of a file that was converted first.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from io import BytesIO
from typing import NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image, ImageCms
from torch import Tensor

from .samples import to_floats

_STRIP = 1 << 16  # pixels converted at a time, so that intermediate results stay in the cache
_SAME = 1.01 / 255  # a profile that changes no colour by more than a grey level is sRGB

# The primaries of sRGB, one per column, as XYZ relative to D50, in the units of the ICC's files.
_SRGB_PRIMARIES = torch.tensor(
    [[28576, 25239, 9375], [14581, 46983, 3972], [912, 6361, 46787]], dtype=torch.float64
).div_(65536)


def to_srgb(pixels: Tensor, icc: bytes | None, depth: int = 16) -> Tensor:
    """Convert pixels from the encoding of a profile to sRGB.

    Args:
        pixels: (3, H, W) float32 in [0, 1], on the CPU; three equal channels for a grey profile.
        icc: RGB or grey profile; None stands for sRGB, and so does a profile that cannot be
            evaluated, see `rgb_encoding`.
        depth: bits per channel of the picture; the result has as many if it is 8.

    Returns:
        (3, H, W) float32 in [0, 1]. Colours outside sRGB are clipped, as LittleCMS does.
        ``pixels`` itself if the profile is that of sRGB.

    Examples:
        >>> import torch
        >>> from PIL import ImageCms
        >>> from fastfcs.images.colour import to_srgb
        >>> icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        >>> pixels = torch.rand(3, 16, 24)
        >>> to_srgb(pixels, icc) is pixels
        True
    """
    conversion = None if icc is None else _conversion(icc)
    return pixels if conversion is None else conversion.to_srgb(pixels, depth)


def from_srgb(srgb: Tensor, icc: bytes | None, original: Tensor, depth: int = 16) -> Tensor:
    """Convert restyled pixels from sRGB to the encoding of the picture they were made from.

    The part of the original colours that sRGB cannot hold is added back where the restyled colour
    is still near the bound at which the original was clipped.

    Args:
        srgb: (3, H, W) float32 in [0, 1], made from ``to_srgb(original, icc, depth)``.
        icc: the profile of ``original``, or None.
        original: (3, H, W) float32 in [0, 1], in the encoding of the profile.
        depth: bits per channel of the picture.

    Returns:
        (3, H, W) float32 in [0, 1], in the encoding of the profile; exactly ``original`` where
        ``srgb`` is unchanged.

    Examples:
        >>> import torch
        >>> from fastfcs.images.colour import from_srgb
        >>> original = torch.rand(3, 16, 24)
        >>> bool(torch.equal(from_srgb(1 - original, None, original), 1 - original))
        True
    """
    conversion = None if icc is None else _conversion(icc)
    return srgb if conversion is None else conversion.from_srgb(srgb, original, depth)


def rgb_encoding(
    samples: Tensor, icc: bytes | None, depth: int = 8
) -> tuple[Tensor, bytes | None, list[str]]:
    """Find an encoding in which a restyled picture, which has colours, can be stored.

    Args:
        samples: (3, H, W), uint8, uint16, or float32 in [0, 1]; three equal channels for a grey
            profile.
        icc: the profile of the file, or None.
        depth: bits per channel of the file.

    Returns:
        The samples, which a grey profile converts to sRGB, in floats; their RGB profile, or None
        for sRGB; and clauses on what was converted, or cannot be.

    Examples:
        >>> import torch
        >>> from fastfcs.images.colour import rgb_encoding
        >>> rgb_encoding(torch.rand(3, 16, 24), b"damaged")[1:]
        (None, ['colour profile cannot be evaluated, so its colours are taken as sRGB'])
    """
    if icc is None:
        return samples, None, []
    notes = []
    conversion, is_rgb = _conversion(icc), icc[16:20] == b"RGB "
    if conversion is None:
        notes.append("colour profile cannot be evaluated, so its colours are taken as sRGB")
    elif not is_rgb and not isinstance(conversion, _Identity):
        samples = conversion.to_srgb(to_floats(samples), depth)
        notes.append("grey profile converted to sRGB, since the result has colours")
    elif depth > 8 and isinstance(conversion, _Tables):
        notes.append("colour profile has tables, which are evaluated with 8 bits per channel")
    return samples, icc if is_rgb else None, notes


def cmyk_to_srgb(image: Image.Image, icc: bytes | None) -> tuple[Image.Image, bytes]:
    """Convert a CMYK image to sRGB, 8 bits per channel.

    Args:
        image: PIL image of mode CMYK.
        icc: its profile.

    Returns:
        The image in RGB, and the profile of sRGB.

    Raises:
        ValueError: there is no profile, or it is damaged.

    Examples:
        >>> from PIL import Image
        >>> from fastfcs.images.colour import cmyk_to_srgb
        >>> cmyk_to_srgb(Image.new("CMYK", (24, 16)), None)
        Traceback (most recent call last):
        ValueError: CMYK without an ICC profile leaves its colours unknown; convert it to RGB first
    """
    if not icc:
        raise ValueError(
            "CMYK without an ICC profile leaves its colours unknown; convert it to RGB first"
        )
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(icc))
        converted = ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB")
    except (OSError, ImageCms.PyCMSError) as error:
        raise ValueError(
            "CMYK with a damaged ICC profile leaves its colours unknown; convert it to RGB first"
        ) from error
    assert converted is not None
    return converted, srgb.tobytes()


class _Conversion(Protocol):
    def to_srgb(self, pixels: Tensor, depth: int) -> Tensor: ...

    def from_srgb(self, srgb: Tensor, original: Tensor, depth: int) -> Tensor: ...


class _Identity:
    """The profile is that of sRGB."""

    def to_srgb(self, pixels: Tensor, depth: int) -> Tensor:
        return pixels

    def from_srgb(self, srgb: Tensor, original: Tensor, depth: int) -> Tensor:
        return srgb


class _Parametric(NamedTuple):
    """The curve y = (a x + b)^g + e for x >= d, and c x + f below (ICC.1:2022, 10.18)."""

    g: float
    a: float = 1
    b: float = 0
    c: float = 0
    d: float = 0
    e: float = 0
    f: float = 0

    def decode(self, x: Tensor) -> Tensor:
        if self == (1, 1, 0, 0, 0, 0, 0):
            return x
        upper = (self.a * x).add_(self.b).clamp_(min=0).pow_(self.g).add_(self.e)
        return torch.where(x >= self.d, upper, self.c * x + self.f)

    def encode(self, y: Tensor) -> Tensor:
        if self == (1, 1, 0, 0, 0, 0, 0):
            return y
        bend = max(0.0, self.a * self.d + self.b) ** self.g + self.e
        upper = (y - self.e).clamp_(min=0).pow_(1 / self.g).sub_(self.b).div_(self.a)
        if self.c == 0:
            return upper.clamp_(min=self.d)
        lower = ((y - self.f) / self.c).clamp_(max=self.d)
        return torch.where(y >= bend, upper, lower)


class _Sampled:
    """The curve through equidistant samples, made monotonic."""

    def __init__(self, samples: Tensor) -> None:
        self._samples = samples.cummax(0).values
        self._last = len(samples) - 1

    def decode(self, x: Tensor) -> Tensor:
        place = x * self._last
        k = place.long().clamp_(0, self._last - 1)
        return torch.lerp(self._samples[k], self._samples[k + 1], place - k)

    def encode(self, y: Tensor) -> Tensor:
        k = torch.searchsorted(self._samples, y.contiguous(), right=True).sub_(1)
        k.clamp_(0, self._last - 1)
        low = self._samples[k]
        rise = (self._samples[k + 1] - low).clamp_(min=1e-9)
        return ((y - low) / rise).clamp_(0, 1).add_(k).div_(self._last)


_Curve = _Parametric | _Sampled
_Transform = ImageCms.ImageCmsTransform
_SRGB = _Parametric(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)  # IEC 61966-2-1


class _Curves:
    """A curve per channel, then a matrix from linear RGB to XYZ; LittleCMS's transform, if any."""

    def __init__(
        self, curves: Sequence[_Curve], primaries: Tensor, forth: _Transform | None = None
    ) -> None:
        self._curves, self._forth = curves, forth
        self._to_linear_srgb = torch.linalg.solve(_SRGB_PRIMARIES, primaries).tolist()
        self._from_linear_srgb = torch.linalg.solve(primaries, _SRGB_PRIMARIES).tolist()

    def to_srgb(self, pixels: Tensor, depth: int) -> Tensor:
        return _by_strips(partial(self._inside, depth), pixels)

    def from_srgb(self, srgb: Tensor, original: Tensor, depth: int) -> Tensor:
        return _by_strips(partial(self._restore, depth), srgb, original)

    def _inside(self, depth: int, pixels: Tensor) -> Tensor:
        if depth == 8 and self._forth is not None:
            return _apply(self._forth, pixels)
        return self._extended(pixels).clamp_(0, 1)

    def _restore(self, depth: int, srgb: Tensor, original: Tensor) -> Tensor:
        inside = self._inside(depth, original)
        extended = self._extended(original)
        outside = extended - extended.clamp(0, 1)
        # The part outside fades linearly as the restyled channel moves away from the bound by the
        # same distance. Colours remain in order: [0, r] is stretched to [-r, r].
        reach = outside.abs().clamp_(1e-6, 1)

        def encoded(x: Tensor) -> Tensor:
            near = (x - inside).abs_().div_(reach).neg_().add_(1).clamp_(min=0)
            return self._encode(x + near * outside)

        # The difference is exactly zero where nothing has changed.
        return (encoded(srgb) - encoded(inside)).add_(original).clamp_(0, 1)

    def _extended(self, pixels: Tensor) -> Tensor:
        """To sRGB without bounds: the curve of sRGB is continued as an odd function."""
        linear = [curve.decode(x) for curve, x in zip(self._curves, pixels, strict=True)]
        srgb = _product(self._to_linear_srgb, linear)
        return _SRGB.encode(srgb.abs()).copysign_(srgb)

    def _encode(self, extended: Tensor) -> Tensor:
        """The inverse of `_extended`, clipped to the profile's own range."""
        linear = _SRGB.decode(extended.abs()).copysign_(extended)
        own = _product(self._from_linear_srgb, linear).clamp_(0, 1)
        return torch.stack([curve.encode(y) for curve, y in zip(self._curves, own, strict=True)])


class _Tables:
    """A profile that LittleCMS converts, 8 bits per channel."""

    def __init__(self, icc: bytes) -> None:
        own, srgb = ImageCms.ImageCmsProfile(BytesIO(icc)), ImageCms.createProfile("sRGB")
        self._forth = ImageCms.buildTransform(own, srgb, "RGB", "RGB")
        self._back = ImageCms.buildTransform(srgb, own, "RGB", "RGB")

    def to_srgb(self, pixels: Tensor, depth: int) -> Tensor:
        return _by_strips(partial(_apply, self._forth), pixels)

    def from_srgb(self, srgb: Tensor, original: Tensor, depth: int) -> Tensor:
        return _by_strips(self._restore, srgb, original)

    def _restore(self, srgb: Tensor, original: Tensor) -> Tensor:
        unchanged = _apply(self._back, _apply(self._forth, original))
        return (_apply(self._back, srgb) - unchanged).add_(original).clamp_(0, 1)


def _apply(transform: _Transform, pixels: Tensor) -> Tensor:
    """Transform pixels (3, H, W) by LittleCMS, 8 bits per channel."""
    samples = (pixels * 255).round_().to(torch.uint8).permute(1, 2, 0).contiguous()
    image = ImageCms.applyTransform(Image.fromarray(samples.numpy()), transform)
    assert image is not None
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div_(255)


def _product(matrix: list[list[float]], channels: Sequence[Tensor] | Tensor) -> Tensor:
    """The matrix times each pixel; by elements, since a BLAS may round by the pixel's place."""
    r, g, b = channels
    return torch.stack([(r * row[0]).add_(g, alpha=row[1]).add_(b, alpha=row[2]) for row in matrix])


def _by_strips(convert: Callable[..., Tensor], *pictures: Tensor) -> Tensor:
    """Apply a conversion of pixels (3, H, W) to some rows at a time."""
    result = torch.empty_like(pictures[0], memory_format=torch.contiguous_format)
    rows = max(1, _STRIP // result.shape[2])
    strips = (picture.split(rows, 1) for picture in pictures)
    for target, *strip in zip(result.split(rows, 1), *strips, strict=True):
        # In one layout, since torch may round a power by the layout of its argument.
        target.copy_(convert(*(part.contiguous() for part in strip)))
    return result


@lru_cache(maxsize=8)
def _conversion(icc: bytes) -> _Conversion | None:
    """The conversion of a profile, or None if it cannot be evaluated."""
    grey = torch.linspace(0, 1, 256).expand(3, -1)
    if icc[16:20] == b"RGB ":
        grey = torch.cat([grey, torch.cartesian_prod(*[torch.linspace(0, 1, 16)] * 3).T], 1)
    colours = grey[:, None].contiguous()
    make: Callable[[bytes], _Conversion]
    for make in (_curves_of, _Tables):
        try:
            conversion = make(icc)
            change = (conversion.to_srgb(colours, 16) - colours).abs().max()
        except (ValueError, struct.error, RuntimeError, OSError, ImageCms.PyCMSError, ImportError):
            continue
        if change.isfinite():
            return _Identity() if change <= _SAME else conversion
    return None


def _curves_of(icc: bytes) -> _Curves:
    """The conversion of a profile without tables of colours; raises an error if it has some."""
    space, connection = icc[16:20], icc[20:24]
    (count,) = struct.unpack_from(">I", icc, 128)
    tags = {}
    for k in range(min(count, 100)):
        name, start, size = struct.unpack_from(">4sII", icc, 132 + 12 * k)
        tags[name] = icc[start : start + size]
    if connection != b"XYZ " or b"A2B0" in tags:
        raise ValueError("the profile has tables")
    if space == b"GRAY":
        return _Curves([_curve(tags.get(b"kTRC", b""))] * 3, _SRGB_PRIMARIES)
    if space != b"RGB ":
        raise ValueError("the profile is neither RGB nor grey")
    columns = [struct.unpack_from(">3i", tags.get(c + b"XYZ", b""), 8) for c in (b"r", b"g", b"b")]
    primaries = torch.tensor(columns, dtype=torch.float64).T / 65536
    curves = [_curve(tags.get(c + b"TRC", b"")) for c in (b"r", b"g", b"b")]
    own, srgb = ImageCms.ImageCmsProfile(BytesIO(icc)), ImageCms.createProfile("sRGB")
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    forth = ImageCms.buildTransform(own, srgb, "RGB", "RGB", intent)
    return _Curves(curves, primaries, forth)


def _curve(tag: bytes) -> _Curve:
    """The curve of a tag, from the encoded to the linear value."""
    if tag[:4] == b"curv":
        (count,) = struct.unpack_from(">I", tag, 8)
        if count > 1:
            samples = np.frombuffer(tag, ">u2", count, 12).astype(np.float32) / 65535
            if samples[-1] <= samples[0]:
                raise ValueError("the curve falls")
            return _Sampled(torch.from_numpy(samples))
        curve = _Parametric(struct.unpack_from(">H", tag, 12)[0] / 256 if count else 1)
    elif tag[:4] == b"para":
        (kind,) = struct.unpack_from(">H", tag, 8)
        count = {0: 1, 1: 3, 2: 4, 3: 5, 4: 7}.get(kind, 0)
        if not count:
            raise ValueError("the curve is of no known kind")
        values = [n / 65536 for n in struct.unpack_from(f">{count}i", tag, 12)]
        if kind in (1, 2):  # constant below -b / a
            g, a, b, *offset = values
            values = [g, a, b, 0, -b / a if a else 0, *offset * 2]
        curve = _Parametric(*values)
    else:
        raise ValueError("there is no curve")
    if not (curve.g > 0 and curve.a > 0):
        raise ValueError("the curve has no inverse")
    return curve
