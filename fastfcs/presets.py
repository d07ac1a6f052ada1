"""Presets: the Gram matrices of one style, tuned by `fastfcs tune`; some ship with the package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from math import isqrt
from pathlib import Path

import torch
from torch import Tensor

from .files import save_tensors
from .statistics import Scales, Statistics, named_scales, scales_from_named

_FOLDER = Path(str(files("fastfcs"))) / "weights" / "presets"

_RANK = 64  # columns of the factors of VGG's Gram matrices


def shipped() -> list[Path]:
    """List the files of the presets that ship.

    Returns:
        Their paths, sorted by name. All are tuned for the weights "universal".

    Examples:
        >>> from fastfcs.presets import shipped
        >>> shipped()[0].name
        'composition-vii.safetensors'
    """
    return sorted(_FOLDER.glob("*.safetensors"))


def names() -> list[str]:
    """List the names of the presets that ship.

    Returns:
        The names, sorted, for `Stylizer(name)`.

    Examples:
        >>> from fastfcs.presets import names
        >>> "the-scream" in names()
        True
    """
    return [path.stem for path in shipped()]


def find(style: str | Path) -> Path | None:
    """Find the file of a preset. A picture of the same name in the working folder takes precedence.

    Args:
        style: a .safetensors file, the name of a preset that ships, or a picture file.

    Returns:
        The preset's file; None for a picture.

    Raises:
        ValueError: the style has no suffix and is neither a preset nor a file.

    Examples:
        >>> from fastfcs.presets import find
        >>> find("udnie").name, find("photo.jpg")
        ('udnie.safetensors', None)
    """
    path = Path(style)
    if path.suffix == ".safetensors":
        return path
    if path.exists():
        return None
    preset = next((p for p in shipped() if p.stem == str(style)), None)
    if preset is None and not path.suffix:
        presets = ", ".join(names())
        raise ValueError(f"style must be a picture file or a preset ({presets}), got {style}")
    return preset


def title(path: Path) -> str:
    """Read the title of the painting that a preset was tuned on.

    Args:
        path: the preset's file.

    Returns:
        The title, the painter and the year, or "" if the file records none.

    Raises:
        OSError: the file cannot be read.

    Examples:
        >>> from fastfcs.presets import find, title
        >>> title(find("the-scream"))
        'The Scream, Edvard Munch, 1893'
    """
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return str((file.metadata() or {}).get("title", ""))


def write(scales: Sequence[Statistics], path: str | Path, metadata: Mapping[str, str]) -> None:
    """Write a preset atomically.

    Of the network's Gram matrices the upper triangle is stored, and of those of VGG's features,
    whose eigenvalues fall quickly, a factor F (c, 64): F F^T differs by 2 % from the matrix.

    Args:
        scales: the statistics of one style at every scale, coarse to fine, symmetric matrices
            (1, c, c).
        path: the safetensors file.
        metadata: strings for the file's header.

    Raises:
        OSError: the file cannot be written.

    Examples:
        >>> from pathlib import Path
        >>> import torch
        >>> from fastfcs.presets import read, title, write
        >>> from fastfcs.statistics import Statistics
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "flat.safetensors"
        >>> write([Statistics((torch.eye(4)[None],))], file, {"title": "Flat"})
        >>> title(file), read(file)[0].widths
        ('Flat', ((4,), ()))
    """
    stored = {
        name: _factor(h[0]) if ".vgg." in name else _triangle(h[0])
        for name, h in named_scales(scales).items()
    }
    save_tensors(stored, path, {"format": "fastfcs preset", **metadata})


def read(path: str | Path) -> Scales:
    """Read a preset.

    Args:
        path: a file that `write` wrote.

    Returns:
        Its statistics in float32, coarse to fine.

    Raises:
        ValueError: the file cannot be read or is not a preset.

    Examples:
        >>> from fastfcs.presets import find, read
        >>> preset = read(find("udnie"))
        >>> preset[0].widths
        ((16, 32, 96, 256), (64, 128, 256, 256))
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        stored = load_file(path)
        return scales_from_named(
            {name: _product(h) if h.dim() == 2 else _symmetric(h) for name, h in stored.items()}
        )
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise ValueError(f"style: {path} cannot be read as a preset ({error})") from error


def _factor(h: Tensor) -> Tensor:
    variances, directions = torch.linalg.eigh(h.double())
    factor: Tensor = directions * variances.clamp(min=0).sqrt()
    return factor[:, -_RANK:].to(h.dtype).contiguous()


def _product(factor: Tensor) -> Tensor:
    f = factor.float()
    return (f @ f.mT)[None]


def _triangle(h: Tensor) -> Tensor:
    rows, columns = torch.triu_indices(*h.shape)
    return h[rows, columns]


def _symmetric(triangle: Tensor) -> Tensor:
    side = (isqrt(8 * triangle.numel() + 1) - 1) // 2
    rows, columns = torch.triu_indices(side, side)
    h = triangle.new_empty(1, side, side, dtype=torch.float32)
    h[0, rows, columns] = h[0, columns, rows] = triangle.float()
    return h
