"""Argument checks shared by several modules; each raises an error of one sentence."""

from __future__ import annotations

from torch import Tensor

MIN_SIDE = 16
"""The minimum height and width of an image, in pixels: the network halves both three times."""


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
    if not (low >= -1e-6 and high <= 1 + 1e-6):
        raise ValueError(
            f"{name} must be finite and in [0, 1], got values from {low:.4g} to {high:.4g}"
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
    if not (regions.min() >= 0 and regions.max() <= 1 and (regions.amax((1, 2)) > 0).all()):
        raise ValueError("regions must be masks in [0, 1], none of them empty")
