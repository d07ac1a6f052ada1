"""Images of any kind as tensors, and back; resizing."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..checks import MIN_SIDE, check_not_mapped, check_range
from .colour import cmyk_to_srgb, from_srgb, rgb_encoding, to_srgb
from .fill import fill_hidden
from .metadata import turn_upright
from .picture import Picture
from .samples import (
    DEEP_MODES,
    EIGHT_BIT_MODES,
    as_planes,
    from_samples,
    pil_samples,
    to_floats,
    to_samples,
)

_BAND = 1 << 20  # pixels that are converted at a time

AnyImage: TypeAlias = Tensor | Image.Image | NDArray[Any] | Picture


def fit(image: Tensor, longest: int) -> Tensor:
    """Reduce an image if its longer side exceeds a number of pixels.

    The resizing is bicubic with antialiasing, clipped to [0, 1] where it overshoots.

    Args:
        image: (B, C, H, W), floating, in [0, 1].
        longest: the longest side allowed, in pixels.

    Returns:
        The reduced image, (B, C, H', W'), in its own dtype, or ``image`` if it is small enough.

    Examples:
        >>> import torch
        >>> from fastfcs.images import fit
        >>> fit(torch.rand(1, 3, 20, 40), 10).shape
        torch.Size([1, 3, 5, 10])
    """
    if max(image.shape[-2:]) <= longest:
        return image
    small = _resized(image.float(), fitted(image.shape[-2:], longest))
    return small.clamp_(0, 1).to(image.dtype)


def fitted(size: Sequence[int], longest: int) -> tuple[int, int]:
    """Tell the size of an image that `fit` reduces.

    Args:
        size: its height and width, in pixels.
        longest: the longest side allowed, in pixels.

    Returns:
        The height and width afterwards.

    Examples:
        >>> from fastfcs.images.convert import fitted
        >>> fitted((3000, 4000), 1000), fitted((30, 40), 1000)
        ((750, 1000), (30, 40))
    """
    height, width = size
    scale = min(1.0, longest / max(size))
    return max(1, round(height * scale)), max(1, round(width * scale))


def least_side(size: Sequence[int], longest: int) -> int:
    """Tell how far an image can be reduced and still be restyled.

    Args:
        size: its height and width, in pixels.
        longest: the longest side wanted, in pixels.

    Returns:
        The longest side for `fit`: more than ``longest`` where the shorter side would have less
        than `MIN_SIDE` pixels.

    Examples:
        >>> from fastfcs.images import least_side
        >>> least_side((3000, 4000), 768), least_side((20, 3000), 768)
        (768, 2400)
    """
    return max(longest, -(-MIN_SIDE * max(size) // min(size)))


def fit_samples(samples: Tensor, longest: int) -> Tensor:
    """Reduce samples as `fit` does, without a copy of them in floats.

    Args:
        samples: (C, H, W), uint8, uint16, or floating in [0, 1].
        longest: the longest side allowed, in pixels.

    Returns:
        (C, H', W') float32 in [0, 1].

    Examples:
        >>> import torch
        >>> from fastfcs.images.convert import fit_samples
        >>> fit_samples(torch.zeros(3, 20, 40, dtype=torch.uint8), 10).shape
        torch.Size([3, 5, 10])
    """
    channels, height, width = samples.shape
    size = fitted((height, width), longest)
    if size == (height, width):
        return to_floats(samples)
    narrow = torch.empty(channels, height, size[1])
    rows = max(1, _BAND // width)
    for top in range(0, height, rows):  # the two directions are independent
        band = to_floats(samples[:, top : top + rows])
        narrow[:, top : top + rows] = _resized(band[None], (band.shape[1], size[1]))[0]
    return _resized(narrow[None], size)[0].clamp_(0, 1)


def _resized(image: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(image, list(size), mode="bicubic", antialias=True)


def fit_picture(picture: Picture, longest: int) -> Picture:
    """Reduce a picture and its alpha if its longer side exceeds a number of pixels, as `fit` does.

    Hidden pixels are filled first (`fill_hidden`), so that their colours do not bleed into others.

    Args:
        picture: the picture.
        longest: the longest side allowed, in pixels.

    Returns:
        A picture with the same metadata.

    Examples:
        >>> import torch
        >>> from fastfcs.images import Picture, fit_picture
        >>> fit_picture(Picture(torch.rand(3, 20, 40)), 10).size
        (10, 5)
    """
    if max(picture.size) <= longest:
        return picture
    alpha = None if picture.alpha is None else picture.alpha[None, None]
    small, small_alpha = _fit_visible(picture.samples[None], alpha, longest)
    return replace(
        picture,
        samples=small[0],
        alpha=None if small_alpha is None else small_alpha[0, 0],
    )


def _fit_visible(
    samples: Tensor, alpha: Tensor | None, longest: int
) -> tuple[Tensor, Tensor | None]:
    """Reduce a batch in [0, 1], or a single image of integer samples, and its alpha, to floats."""
    if alpha is not None:
        filled = fill_hidden(to_floats(samples[0])[None], alpha)
        return fit(filled, longest), fit(alpha, longest)
    if samples.is_floating_point():
        return fit(samples, longest), None
    return fit_samples(samples[0], longest)[None], None


@dataclass(frozen=True)
class ImageBatch:
    """An image of any kind as a batch for the network, with the way back.

    Attributes:
        samples: (B, 3, H, W), uint8, uint16, or floating in [0, 1], in the encoding of ``icc``.
        alpha: (1, 1, H, W) in [0, 1], or None if the image has no transparency.
        icc: RGB colour profile; None stands for sRGB.
        depth: bits per channel of the image.
        wrap: converts samples, or floats in [0, 1] of their shape, to the image's kind.

    Examples:
        >>> import torch
        >>> from fastfcs.images import image_to_tensor
        >>> batch = image_to_tensor("content", torch.rand(3, 16, 24))
        >>> batch.pixels.shape, batch.alpha, batch.convert_back(batch.pixels).shape
        (torch.Size([1, 3, 16, 24]), None, torch.Size([3, 16, 24]))
    """

    samples: Tensor
    alpha: Tensor | None
    wrap: Callable[[Tensor], AnyImage]
    icc: bytes | None = None
    depth: int = 16

    @property
    def pixels(self) -> Tensor:
        """(B, 3, H, W), floating in [0, 1], in sRGB."""
        if self.icc is None and self.samples.is_floating_point():
            return self.samples
        return to_srgb(to_floats(self.samples[0]), self.icc, self.depth)[None]

    def encode(self, x: Tensor) -> Tensor:
        """Convert a result from sRGB to the image's own encoding.

        Hidden pixels stay as they are, since another colour there would only make files larger.

        Args:
            x: (B, 3, H, W), floating in [0, 1], made from `pixels`.

        Returns:
            (B, 3, H, W), floating in [0, 1].
        """
        if self.icc is None and self.alpha is None:
            return x
        original = to_floats(self.samples[0]).cpu()
        x = from_srgb(x[0].detach().float().cpu(), self.icc, original, self.depth)[None]
        return x if self.alpha is None else torch.where(self.alpha.cpu() > 0, x, original)

    def convert_back(self, x: Tensor) -> AnyImage:
        """Convert a result to the kind, dtype, dimensions and colour profile of the image.

        Args:
            x: (B, 3, H, W), floating in [0, 1], made from `pixels`.

        Returns:
            An image like the one that the batch was made from.
        """
        return self.wrap(self.encode(x))

    def rows(self, top: int, count: int) -> ImageBatch:
        """Take some rows.

        Args:
            top: the first row.
            count: their number, at most as many as there are.

        Returns:
            A batch of views that ``wrap`` does not change.
        """
        count = min(count, self.samples.shape[-2] - top)
        alpha = None if self.alpha is None else self.alpha.narrow(-2, top, count)
        samples = self.samples.narrow(-2, top, count)
        return ImageBatch(samples, alpha, lambda x: x, self.icc, self.depth)

    def reduced(self, longest: int) -> ImageBatch:
        """Reduce the image, whose longer side exceeds a number of pixels, as `fit` does.

        Hidden pixels are filled first (`fill_hidden`), so that their colours do not bleed into
        others. No copy of integer samples in floats is made, unless there is alpha.

        Args:
            longest: the longest side allowed, in pixels.

        Returns:
            A batch in floats that ``wrap`` does not change.
        """
        samples, alpha = _fit_visible(self.samples, self.alpha, longest)
        return ImageBatch(samples, alpha, lambda x: x, self.icc)


def image_to_tensor(name: str, image: AnyImage, smallest: int = MIN_SIDE) -> ImageBatch:
    """Convert an image of any kind to a batch.

    Args:
        name: the argument's name, for error messages.
        image: one of

            - a tensor (3, H, W) or (B, 3, H, W), floating, in [0, 1], on any device;
            - an array (H, W, 3), uint8, uint16, or floating in [0, 1];
            - a PIL image: 8 bits per channel, 16-bit grey (modes I;16 and I, 0 to 65535), grey in
              [0, 1] (mode F), or CMYK with a profile. Its EXIF orientation is applied;
            - a `Picture`.

        smallest: what H and W are at least, in pixels.

    Returns:
        The image as a batch, without a copy where that is possible. Its ``convert_back`` gives a
        PIL image its transparency, colour profile, EXIF, XMP and resolution back. The result of any
        PIL image has 8 bits per channel, since Pillow has no RGB with more; a `Picture` keeps 16.
        Grey with a profile and CMYK become sRGB.

    Warns:
        UserWarning: the colour profile of a PIL image is grey, or cannot be evaluated.

    Raises:
        TypeError: the image is of another kind or dtype.
        ValueError: the image's shape, size or mode is not as described, or a value is outside
            [0, 1]. The values of CUDA tensors are not checked.

    Examples:
        >>> import numpy as np
        >>> import torch
        >>> from fastfcs.images import image_to_tensor
        >>> batch = image_to_tensor("content", np.zeros((16, 24, 3), np.uint8))
        >>> batch.pixels.shape, batch.convert_back(1 - batch.pixels)[0, 0]
        (torch.Size([1, 3, 16, 24]), array([255, 255, 255], dtype=uint8))
        >>> image_to_tensor("content", torch.rand(3, 8, 16))
        Traceback (most recent call last):
        ValueError: content must be at least 16 pixels per side, got 16 x 8
    """
    if isinstance(image, Tensor):
        batch = _from_tensor(name, image)
    elif isinstance(image, np.ndarray):
        batch = _from_array(name, image)
    elif isinstance(image, Image.Image):
        batch = _from_pil(name, image)
    elif isinstance(image, Picture):
        batch = _from_picture(image)
    else:
        kind = type(image).__name__
        raise TypeError(f"{name} must be a tensor, array, PIL image or Picture, got {kind}")
    height, width = batch.samples.shape[-2:]
    if min(height, width) < smallest:
        raise ValueError(
            f"{name} must be at least {smallest} pixels per side, got {width} x {height}"
        )
    # On CUDA the check would make the host wait, which CUDA graphs forbid.
    if batch.samples.is_floating_point() and not batch.samples.is_cuda:
        check_range(name, batch.samples)
    return batch


def _from_tensor(name: str, image: Tensor) -> ImageBatch:
    if image.is_meta:
        raise ValueError(f"{name} must hold values, got a tensor on the device meta")
    if not image.is_floating_point():
        advice = {torch.uint8: " (divide it by 255)", torch.uint16: " (divide it by 65535)"}
        raise TypeError(
            f"{name} must be a floating tensor in [0, 1], "
            f"got {image.dtype}{advice.get(image.dtype, '')}"
        )
    check_not_mapped(name, image)
    if image.dim() not in (3, 4) or image.shape[-3] != 3 or image.numel() == 0:
        raise ValueError(
            f"{name} must be a tensor (3, H, W) or (B, 3, H, W), got {tuple(image.shape)}"
        )
    if image.dim() == 3:
        return ImageBatch(image[None], None, lambda x: x[0])
    return ImageBatch(image, None, lambda x: x)


def _from_array(name: str, image: NDArray[Any]) -> ImageBatch:
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        advice = ""
        if image.ndim == 2:
            advice = " (for a grey array pass np.stack([array] * 3, -1))"
        elif image.ndim == 3 and image.shape[2] == 4:
            advice = " (pass array[..., :3], or Image.fromarray(array) to keep alpha)"
        raise ValueError(f"{name} must be an array (H, W, 3), got {image.shape}{advice}")
    if image.dtype in (np.uint8, np.uint16):
        depth = 8 * image.itemsize
        planes = as_planes(image)[None]
        return ImageBatch(planes, None, lambda x: to_samples(x[0], depth), depth=depth)
    if image.dtype not in (np.float16, np.float32, np.float64):
        advice = "array.astype(float)" if image.dtype == bool else "array.astype(np.uint8)"
        limit = "" if image.dtype == bool else " if its values are at most 255"
        raise TypeError(
            f"{name} must be an array of uint8, uint16 or floats, "
            f"got {image.dtype} (pass {advice}{limit})"
        )
    planes = torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C"))
    return ImageBatch(
        planes[None], None, lambda x: x[0].detach().permute(1, 2, 0).contiguous().cpu().numpy()
    )


def _from_pil(name: str, image: Image.Image) -> ImageBatch:
    upright = turn_upright(image)
    survivors = ("icc_profile", "exif", "xmp", "dpi")
    metadata: dict[Any, Any] = {k: v for k, v in upright.info.items() if k in survivors}
    icc = metadata.pop("icc_profile", None)
    if image.mode == "CMYK":
        try:
            upright, icc = cmyk_to_srgb(upright, icc)
        except ValueError as error:
            raise ValueError(f"{name} must be RGB: {error}") from error
    elif image.mode not in (*EIGHT_BIT_MODES, *DEEP_MODES):
        modes = ", ".join((*EIGHT_BIT_MODES, *DEEP_MODES, "CMYK"))
        raise ValueError(f"{name} must be a PIL image of mode {modes}, got {image.mode}")
    array = pil_samples(upright)
    depth = 16 if image.mode in DEEP_MODES else 8
    samples, icc, notes = rgb_encoding(as_planes(array[..., :3]), icc, depth)
    for note in notes:
        warnings.warn(f"{name}: {note}", stacklevel=4)
    alpha = from_samples(array[..., 3:])[None] if array.shape[2] == 4 else None

    def wrap(x: Tensor) -> Image.Image:
        planes = to_samples(x[0], 8)
        if alpha is not None:
            planes = np.concatenate([planes, to_samples(alpha[0], 8)], -1)
        result = Image.fromarray(planes)
        result.info = metadata | ({"icc_profile": icc} if icc else {})
        return result

    return ImageBatch(samples[None], alpha, wrap, icc, depth)


def _from_picture(picture: Picture) -> ImageBatch:
    return ImageBatch(
        picture.samples[None],
        None if picture.alpha is None else picture.alpha[None, None],
        lambda x: replace(picture, samples=x[0].detach().cpu()),
        picture.icc,
        picture.depth,
    )
