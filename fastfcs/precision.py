"""The arithmetic of the network by the machine: float32, or a half type that accumulates in it."""

from __future__ import annotations

from typing import Literal, NamedTuple, cast, get_args

import torch

from ._C import has_fast_bfloat16

Name = Literal["auto", "float32", "bfloat16", "float16"]

_FAST_BFLOAT16 = has_fast_bfloat16()  # a constant of traced programs

# Levels, the finest ones, whose gradients stay in the dtype of the features: of the last update and
# of the one before it. In earlier updates all do.
_EXACT_LEVELS = 0, 2


class Precision(NamedTuple):
    """The dtypes of an unrolled solver's features and gradients.

    An artistic update amplifies differences: where a feature is near 0, rounding decides on which
    side, and the gates make that a difference of the stroke. After four updates, contents that
    differ by one unit in the last place of float32 have results 0.1 to 0.25 grey levels apart on
    average, and 3 to 7 at the 99.9th percentile. With all features and gradients in bfloat16 these
    are 2 to 5 and 13 to 38. The gradients of the last updates have few updates after them:
    therefore, where ``gradients`` is a half type and ``features`` is not, only those of the last
    update, and at the two coarsest of four levels of the one before it, are of that type.

    The projection of "photoreal" damps all such differences.

    Attributes:
        features: dtype of the forward maps.
        gradients: dtype of the backward maps in the last updates.

    Examples:
        >>> import torch
        >>> from fastfcs.precision import Precision
        >>> Precision(torch.float32, torch.bfloat16).of_gradients(3, 4, 2)
        [torch.bfloat16, torch.bfloat16]
    """

    features: torch.dtype
    gradients: torch.dtype

    def of_gradients(self, t: int, updates: int, levels: int) -> list[torch.dtype]:
        """The dtype of the backward maps of every level.

        Args:
            t: index of the update.
            updates: N, the number of updates.
            levels: number of levels.

        Returns:
            One dtype per level, finest first.
        """
        later = updates - 1 - t
        exact = _EXACT_LEVELS[later] if later < len(_EXACT_LEVELS) else levels
        return [self.features if level < exact else self.gradients for level in range(levels)]


def parse(name: str) -> Name:
    """Check a ``precision`` argument.

    Args:
        name: one of `Name`.

    Returns:
        The name.

    Raises:
        ValueError: it is none of them.

    Examples:
        >>> from fastfcs.precision import parse
        >>> parse("auto")
        'auto'
    """
    if name not in get_args(Name):
        names = ", ".join(map(repr, get_args(Name)))
        raise ValueError(f"precision must be one of {names}, got {name!r}")
    return cast(Name, name)


def choose(
    name: Name, device: torch.device, *, photoreal: bool, measured: bool
) -> Precision | None:
    """Choose the arithmetic.

    Args:
        name: a dtype for everything, or "auto": the fastest whose results are as close to those of
            float32 as docs/results.md says.
        device: where the network runs.
        photoreal: whether the projection of "photoreal" follows every update.
        measured: whether the network is one of those that ship, for which "auto" was measured.

    Returns:
        The dtypes; None leaves them to `torch.autocast`, or to the network's parameters.

    Examples:
        >>> import torch
        >>> from fastfcs.precision import choose
        >>> choose("bfloat16", torch.device("cpu"), photoreal=False, measured=True)
        Precision(features=torch.bfloat16, gradients=torch.bfloat16)
    """
    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return Precision(dtype, dtype)
    half = fast_half_type(device)
    if half is None or not measured:
        return None
    return Precision(half if photoreal else torch.float32, half)


def fast_half_type(device: torch.device) -> torch.dtype | None:
    """Find the half type in which a device convolves faster than in float32.

    Args:
        device: a CPU or CUDA device.

    Returns:
        float16 on CUDA (tensor cores); bfloat16 on processors with AMX, and on AMD's with
        AVX512-BF16, where it has twice the rate of float32; otherwise None.

    Examples:
        >>> import torch
        >>> from fastfcs.precision import fast_half_type
        >>> fast_half_type(torch.device("cuda"))
        torch.float16
    """
    if device.type == "cuda":
        return torch.float16
    return torch.bfloat16 if device.type == "cpu" and _FAST_BFLOAT16 else None
