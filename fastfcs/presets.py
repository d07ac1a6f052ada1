"""Presets: the statistics H^s of one style, tuned by `fastfcs tune`; some ship with the package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

_FOLDER = Path(str(files("fastfcs"))) / "weights" / "presets"


def shipped() -> list[Path]:
    """The files of the presets that ship, by name; all are tuned for the weights "universal"."""
    return sorted(_FOLDER.glob("*.safetensors"))


def names() -> list[str]:
    """The names of the presets that ship, for `Stylizer(name)`."""
    return [path.stem for path in shipped()]


def find(style: str | Path) -> Path | None:
    """The file of a preset: a .safetensors file, or a name that ships; None for anything else.

    A picture of that name in the working folder goes first.
    """
    path = Path(style)
    if path.suffix == ".safetensors":
        return path
    return None if path.exists() else next((p for p in shipped() if p.stem == str(style)), None)


def title(path: Path) -> str:
    """What a preset's header says of its painting, "The Scream, Edvard Munch, 1893" or "".

    Raises:
        OSError: the file cannot be read.
    """
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return (file.metadata() or {}).get("title", "")
