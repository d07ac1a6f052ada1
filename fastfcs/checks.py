"""Argument checks shared by several modules; each raises an error of one sentence."""

from __future__ import annotations

import torch
from torch import Tensor

MIN_SIDE = 16
"""The minimum height and width of an image, in pixels: the network halves both three times."""

# Torch has no public name for it.
_is_batched = getattr(torch._C._functorch, "is_batchedtensor", lambda tensor: False)


def check_not_mapped(name: str, image: Tensor) -> None:
    """Check that an image is not under `torch.vmap`, which hides a dimension.

    Args:
        name: the argument's name, for the message.
        image: any tensor.

    Raises:
        ValueError: it is.

    Examples:
        >>> from fastfcs.checks import check_not_mapped
        >>> import torch
        >>> check_not_mapped("content", torch.zeros(3, 16, 16))
        >>> torch.vmap(lambda image: check_not_mapped("content", image))(torch.zeros(2, 3, 16, 16))
        Traceback (most recent call last):
        ValueError: content must be a batch (B, 3, H, W), got (3, 16, 16) under torch.vmap
    """
    if _is_batched(image):
        raise ValueError(
            f"{name} must be a batch (B, 3, H, W), got {tuple(image.shape)} under torch.vmap"
        )


def check_image(name: str, image: Tensor) -> None:
    """Check that an image is a batch the network can process; its values are not checked.

    Args:
        name: the argument's name, for the message.
        image: (B, 3, H, W) expected, H and W at least `MIN_SIDE`.

    Raises:
        ValueError: the shape differs.

    Examples:
        >>> from fastfcs.checks import check_image
        >>> import torch
        >>> check_image("content", torch.zeros(1, 3, 16, 16))
        >>> check_image("content", torch.zeros(1, 3, 8, 16))
        Traceback (most recent call last):
        ValueError: content must be (B, 3, H, W) with H and W at least 16, got (1, 3, 8, 16)
    """
    if image.dim() != 4 or image.shape[1] != 3 or min(image.shape[-2:]) < MIN_SIDE:
        raise ValueError(
            f"{name} must be (B, 3, H, W) with H and W at least {MIN_SIDE}, "
            f"got {tuple(image.shape)}"
        )


def check_range(name: str, image: Tensor) -> None:
    """Check that all values lie in [0, 1], up to rounding. On CUDA this makes the host wait.

    Args:
        name: the argument's name, for the message.
        image: any shape, not empty.

    Raises:
        ValueError: a value is outside [0, 1] by more than 1e-6, or not finite.

    Examples:
        >>> from fastfcs.checks import check_range
        >>> import torch
        >>> check_range("content", torch.tensor([0.0, 1.0]))
        >>> check_range("content", torch.tensor([0.0, 255.0]))
        Traceback (most recent call last):
        ValueError: content must be finite and in [0, 1], got values from 0 to 255
    """
    low, high = image.detach().aminmax()
    # Conversions of colours and interpolation round values out of the range.
    valid = (low >= -1e-6) & (high <= 1 + 1e-6)
    if torch.compiler.is_compiling():
        # A guard on values cannot be traced; the assertion becomes part of the program.
        torch._assert_async(valid, f"{name} must be finite and in [0, 1]")
    elif not valid:
        raise ValueError(
            f"{name} must be finite and in [0, 1], got values from {low:.4g} to {high:.4g}"
        )


def check_alpha(name: str, image: Tensor, alpha: Tensor | None) -> None:
    """Check that an alpha channel fits a batch of images; its values are not checked.

    Args:
        name: the name of the images, for the message.
        image: (B, 3, H, W).
        alpha: (1, 1, H, W) or (B, 1, H, W) expected; None passes the check.

    Raises:
        ValueError: the shape differs.

    Examples:
        >>> from fastfcs.checks import check_alpha
        >>> import torch
        >>> check_alpha("content", torch.zeros(2, 3, 16, 24), torch.ones(1, 1, 16, 24))
        >>> check_alpha("content", torch.zeros(2, 3, 16, 24), torch.ones(16, 24))
        Traceback (most recent call last):
        ValueError: alpha must be (1, 1, 16, 24) or (2, 1, 16, 24), as the content, got (16, 24)
    """
    if alpha is None:
        return
    batch, _, *size = image.shape
    expected = (1, 1, *size), (batch, 1, *size)
    if tuple(alpha.shape) not in expected:
        raise ValueError(
            f"alpha must be {expected[0]} or {expected[1]}, as the {name}, got {tuple(alpha.shape)}"
        )


def check_regions(
    name: str, image: Tensor, regions: Tensor | None, styles: int | None = None
) -> None:
    """Check that regions are masks of one image. Values are not checked on CUDA.

    Args:
        name: the name of the image the masks belong to, for the message.
        image: (1, 3, H, W).
        regions: masks (R, H, W) in [0, 1], none of them empty; None passes the check.
        styles: the expected R; None allows any.

    Raises:
        ValueError: the masks have another shape or number, are empty or leave [0, 1].

    Examples:
        >>> from fastfcs.checks import check_regions
        >>> import torch
        >>> check_regions("content", torch.zeros(1, 3, 16, 16), torch.ones(2, 16, 16))
        >>> check_regions("content", torch.zeros(1, 3, 16, 16), torch.zeros(2, 16, 16))
        Traceback (most recent call last):
        ValueError: regions must be masks in [0, 1], none of them empty
    """
    if regions is None:
        return
    if regions.dim() != 3 or (1, *regions.shape[1:]) != (len(image), *image.shape[2:]):
        raise ValueError(
            f"regions must be masks (R, H, W) of one {name} {tuple(image.shape)}, "
            f"got {tuple(regions.shape)}"
        )
    if styles not in (None, len(regions)):
        raise ValueError(f"regions must be {styles} masks, one per style, got {len(regions)}")
    if regions.is_cuda:  # looking at the values would make the host wait
        return
    message = "regions must be masks in [0, 1], none of them empty"
    valid = (regions.min() >= 0) & (regions.max() <= 1) & (regions.amax((1, 2)) > 0).all()
    if torch.compiler.is_compiling():
        torch._assert_async(valid, message)
    elif not valid:
        raise ValueError(message)


def check_visible(name: str, alpha: Tensor | None, regions: Tensor | None = None) -> None:
    """Check that an image, or every region of it, has visible pixels. Not checked on CUDA.

    Args:
        name: the image's name, for the message.
        alpha: (1, 1, H, W) in [0, 1]; None passes the check.
        regions: masks (R, H, W), or None.

    Raises:
        ValueError: alpha is 0 everywhere, or throughout a region.

    Examples:
        >>> from fastfcs.checks import check_visible
        >>> import torch
        >>> check_visible("style", torch.zeros(1, 1, 16, 16))
        Traceback (most recent call last):
        ValueError: style must have visible pixels, got alpha 0 everywhere
    """
    if alpha is None or alpha.is_cuda or (regions is not None and regions.is_cuda):
        return
    masks = alpha[0] if regions is None else regions * alpha[0]
    if not masks.flatten(1).any(1).all():
        hidden = "everywhere" if regions is None else "throughout a region"
        raise ValueError(f"{name} must have visible pixels, got alpha 0 {hidden}")


def check_brush(brush: float) -> None:
    """Check a size of strokes.

    Args:
        brush: relative to the picture, see `fastfcs.Stylizer`.

    Raises:
        ValueError: it is not in [0.25, 4].

    Examples:
        >>> from fastfcs.checks import check_brush
        >>> check_brush(5)
        Traceback (most recent call last):
        ValueError: brush must be in [0.25, 4], got 5
    """
    if not 0.25 <= brush <= 4:
        raise ValueError(f"brush must be in [0.25, 4], got {brush}")
