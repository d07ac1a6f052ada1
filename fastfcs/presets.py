"""Presets: the statistics H^s of one style, tuned by `fastfcs tune`; some ship with the package."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from math import isqrt
from pathlib import Path

import torch
from torch import Tensor

from .network import Statistics, save_tensors

_FOLDER = Path(str(files("fastfcs"))) / "weights" / "presets"


def shipped() -> list[Path]:
    """The files of the presets that ship, by name; all are tuned for the weights "universal"."""
    return sorted(_FOLDER.glob("*.safetensors"))


def names() -> list[str]:
    """The names of the presets that ship, for `Stylizer(name)`."""
    return [path.stem for path in shipped()]


def find(style: str | Path) -> Path | None:
    """The file of a preset: a .safetensors file, or a name that ships; None for a picture.

    A picture of that name in the working folder goes first.

    Raises:
        ValueError: a name without suffix that is neither.
    """
    path = Path(style)
    if path.suffix == ".safetensors":
        return path
    if path.exists():
        return None
    found = next((p for p in shipped() if p.stem == str(style)), None)
    if found is None and not path.suffix:
        presets = ", ".join(names())
        raise ValueError(f"style must be a picture file or a preset ({presets}), not {style}")
    return found


def title(path: Path) -> str:
    """What a preset's header says of its painting, "The Scream, Edvard Munch, 1893" or "".

    Raises:
        OSError: the file cannot be read.
    """
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return (file.metadata() or {}).get("title", "")


def write(statistics: Mapping[str, Tensor], path: Path, facts: dict[str, str]) -> None:
    """Write H^s of one style, symmetric matrices (1, c, c): their upper triangles."""
    packed = {}
    for key, h in statistics.items():
        rows, columns = torch.triu_indices(*h.shape[1:])
        packed[key] = h[0, rows, columns]
    save_tensors(packed, path, {"format": "fastfcs preset", **facts})


def read(path: Path) -> Statistics:
    """The statistics that `write` wrote, in float32.

    Raises:
        ValueError: the file cannot be read, or is not such a one.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return {key: _unpacked(h) for key, h in load_file(path).items()}
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ValueError(f"style: {path} cannot be read as a preset ({error})") from error


def _unpacked(triangle: Tensor) -> Tensor:
    side = (isqrt(8 * triangle.numel() + 1) - 1) // 2
    rows, columns = torch.triu_indices(side, side)
    h = triangle.new_empty(1, side, side, dtype=torch.float32)
    h[0, rows, columns] = h[0, columns, rows] = triangle.float()
    return h
