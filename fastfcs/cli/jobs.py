"""Which pictures become which files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from torch import Tensor

    from ..images import Picture


def reduction(picture: Picture, longest: int) -> str:
    width, height = picture.size
    return f"reduced from {width} x {height} to a longer side of {longest} pixels"


def fitted(masks: Tensor, image: Tensor) -> tuple[Tensor, list[str]]:
    """Masks (R, H, W) at the size of their picture (1, 3, H', W'), and what there is to say."""
    from ..regions import resize

    height, width = image.shape[-2:]
    said = f"its mask was resized to {width} x {height}"
    return resize(masks, (height, width)), [] if masks.shape[-2:] == (height, width) else [said]


def plan(contents: Iterable[str], output: str, force: bool) -> list[tuple[str, str]]:
    """Which file becomes which; all that can be refused before any work is."""
    from ..images import format_of

    sources: list[str] = []
    for content in contents:
        sources += _pictures_in(Path(content)) if os.path.isdir(content) else [content]
    if len(sources) == 1 and sources[0] in contents and not _is_folder(output):
        jobs = [(sources[0], output)]
    elif output == "-" or "-" in sources or os.path.isfile(output):
        raise ValueError(
            "with many pictures, or a folder of them, files become files of the same name: "
            "the output must be a folder, and - cannot be among the content"
        )
    else:
        jobs = [(source, str(Path(output) / _kept_name(source))) for source in sources]
    taken: dict[str, str] = {}
    for source, target in jobs:
        if target in taken:
            raise ValueError(f"{taken[target]} and {source} would both become {target}")
        taken[target] = source
        if target != "-":
            format_of(target)
    existing = [target for target in taken if target != "-" and os.path.lexists(target)]
    if existing and not force:
        more = f" (and {len(existing) - 1} more)" if len(existing) > 1 else ""
        raise ValueError(f"{existing[0]}{more} exists already; --force overwrites")
    folder = Path(jobs[0][1]).parent
    if len(jobs) == 1 and jobs[0][1] == output and not folder.is_dir():
        raise ValueError(f"{folder} is not a folder to write {output} in")
    folder.mkdir(parents=True, exist_ok=True)
    return jobs


def _is_folder(output: str) -> bool:
    return output != "-" and (output.endswith(("/", os.sep)) or os.path.isdir(output))


def _pictures_in(folder: Path) -> list[str]:
    from ..images import SUFFIXES

    files = sorted(path for path in folder.iterdir() if path.is_file())
    found = [str(path) for path in files if path.suffix.lower() in SUFFIXES]
    if not found:
        raise ValueError(f"{folder} holds no picture ({', '.join(sorted(SUFFIXES))})")
    if len(found) < len(files):
        click.echo(f"{folder}: {len(files) - len(found)} other files left alone", err=True)
    return found


def _kept_name(source: str) -> str:
    from ..images import WRITABLE

    path = Path(source)
    return path.name if path.suffix.lower() in WRITABLE else path.stem + ".png"
