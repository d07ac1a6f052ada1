"""The arithmetic of the network by the machine: float32, or a half type that accumulates in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, cast, get_args

import torch

from ._C import build_info, has_fast_bfloat16

Name = Literal["auto", "float32", "bfloat16", "float16"]

# Constants of traced programs
HAS_TILES = build_info()["cpu"] == "amx"  # the processor's AMX multiplies bfloat16
_FAST_BFLOAT16 = has_fast_bfloat16()


class Arithmetic(NamedTuple):
    """How convolutions multiply.

    Attributes:
        dtype: that of the maps.
        exact: whether float32 is multiplied as such, or may be in tiles, see
            `fastfcs.ops.convolution`.

    Examples:
        >>> import torch
        >>> from fastfcs.precision import Arithmetic
        >>> Arithmetic(torch.float32)
        Arithmetic(dtype=torch.float32, exact=True)
    """

    dtype: torch.dtype
    exact: bool = True


@dataclass(frozen=True)
class Precision:
    """The arithmetic of an unrolled solver: the same everywhere.

    Attributes:
        dtype: that of features and gradients.

    Examples:
        >>> import torch
        >>> from fastfcs.precision import Precision
        >>> Precision(torch.bfloat16).of_features(0, 4)
        Arithmetic(dtype=torch.bfloat16, exact=True)
    """

    dtype: torch.dtype

    def of_features(self, t: int, updates: int) -> Arithmetic:
        """Choose the arithmetic of the forward maps.

        Args:
            t: index of the update.
            updates: N, the number of updates.

        Returns:
            The arithmetic.
        """
        return Arithmetic(self.dtype)

    def of_gradients(self, t: int, updates: int) -> Arithmetic:
        """Choose the arithmetic of the backward maps.

        Args:
            t, updates: see `of_features`.

        Returns:
            The arithmetic.
        """
        return Arithmetic(self.dtype)

    def coarse(self) -> Precision:
        """The arithmetic of all scales but the last, see `fastfcs.pyramid`."""
        return self


class PaintingPrecision(Precision):
    """Float32, and faster where few updates follow.

    An artistic update amplifies differences: where a feature is near 0, rounding decides on which
    side, and the gates make that a difference of the stroke. After four updates, contents that
    differ by one unit in the last place of float32 have results 0.01 to 0.7 grey levels apart on
    average, and 1 to 15 at the 99.9th percentile; all in bfloat16, 2 to 5 and 13 to 42. Gradients
    decide on no gate themselves, and in the last updates little follows. So the gradients of the
    last update are of ``dtype``, a half type; and tiles serve in the last two updates and, for the
    gradients, in the one before them.

    Examples:
        >>> import torch
        >>> from fastfcs.precision import PaintingPrecision
        >>> precision = PaintingPrecision(torch.bfloat16)
        >>> [precision.of_features(t, 4).exact for t in range(4)]
        [True, True, False, False]
        >>> precision.of_gradients(3, 4).dtype
        torch.bfloat16
    """

    def of_features(self, t: int, updates: int) -> Arithmetic:
        """Choose the arithmetic of the forward maps, see `Precision.of_features`."""
        return Arithmetic(torch.float32, exact=updates - t > 2)

    def of_gradients(self, t: int, updates: int) -> Arithmetic:
        """Choose the arithmetic of the backward maps, see `Precision.of_gradients`."""
        if t == updates - 1:
            return Arithmetic(self.dtype)
        return Arithmetic(torch.float32, exact=updates - t > 3)

    def coarse(self) -> Precision:
        """Float32, since many updates follow, see `Precision.coarse`."""
        return Precision(torch.float32)


class PhotoPrecision(Precision):
    """A half type throughout, except that the features of the first updates do without bfloat16.

    The projection damps the differences that later updates would amplify. What remains is mostly
    that of the features in the first half of the updates, which are in float32 in place of
    bfloat16. The eight times finer float16 serves everywhere.

    Examples:
        >>> import torch
        >>> from fastfcs.precision import PhotoPrecision
        >>> precision = PhotoPrecision(torch.bfloat16)
        >>> precision.of_features(1, 4).dtype, precision.of_features(2, 4).dtype
        (torch.float32, torch.bfloat16)
    """

    def of_features(self, t: int, updates: int) -> Arithmetic:
        """Choose the arithmetic of the forward maps, see `Precision.of_features`."""
        if self.dtype == torch.bfloat16 and t < updates // 2:
            return Arithmetic(torch.float32, exact=False)
        return Arithmetic(self.dtype)


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
        The arithmetic; None leaves it to `torch.autocast`, or to the network's parameters.

    Examples:
        >>> import torch
        >>> from fastfcs.precision import choose
        >>> choose("bfloat16", torch.device("cuda"), photoreal=False, measured=True)
        Precision(dtype=torch.bfloat16)
    """
    if name != "auto":
        return Precision(getattr(torch, name))
    half = fast_half_type(device)
    if half is None or not measured:
        return None
    return PhotoPrecision(half) if photoreal else PaintingPrecision(half)


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
