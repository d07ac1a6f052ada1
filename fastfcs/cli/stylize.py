"""fastfcs stylize."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import click

from ..memory import return_freed
from ..progress import ProgressBar
from ..start import import_torch
from .errors import sentences
from .jobs import plan
from .look import apply_look
from .options import (
    ARITHMETIC,
    BLEND,
    BRUSH,
    CUTOFF,
    DEVICE,
    FORCE,
    JSON,
    KEEP,
    LEVELS,
    MASK,
    MAX_SIZE,
    MEMORY,
    ONE_LOOK,
    PHOTOREAL,
    RECURSIVE,
    REFINE,
    SKIP_EXISTING,
    SOLVE_SIZE,
    STRENGTH,
    STRUCTURE,
    STYLE,
    WEIGHTS,
)
from .pictures import message_console, open_content, write_result
from .styling import make_stylizer
from .work import one_picture, work_through

if TYPE_CHECKING:
    from ..restyling import Mask
    from ..stylizer import Stylizer


@click.command()
@click.argument("content", nargs=-1, required=True)
@STYLE
@click.option(
    "-o",
    "--output",
    required=True,
    help="A file (its suffix sets the format), a folder, or - for standard output (PNG).",
)
@PHOTOREAL
@CUTOFF
@BLEND
@MASK
@BRUSH
@LEVELS
@STRUCTURE
@KEEP
@STRENGTH
@MAX_SIZE
@SOLVE_SIZE
@ONE_LOOK
@WEIGHTS
@REFINE
@ARITHMETIC
@MEMORY
@DEVICE
@FORCE
@RECURSIVE
@SKIP_EXISTING
@JSON
def stylize(
    content: tuple[str, ...],
    style: tuple[str, ...],
    output: str,
    photoreal: bool,
    cutoff: float | None,
    blend: list[float] | None,
    mask: tuple[str, str] | None,
    brush: float | None,
    levels: int | None,
    structure: float | None,
    keep: str | None,
    strength: float,
    max_size: int | None,
    solve_size: int | None,
    one_look: bool,
    weights: str,
    refine: bool | None,
    precision: str,
    memory: int | None,
    device: str | None,
    force: bool,
    recursive: bool,
    skip_existing: bool,
    as_json: bool,
) -> None:
    """Restyle CONTENT in the style of another picture.

    CONTENT is one or more pictures or folders, or - for standard input. For several pictures or a
    folder, OUTPUT is a folder, and files keep their names (formats that cannot be written, such as
    cameras' raw files, become PNG). Hidden files in folders are left out. If a picture cannot be
    restyled, the error is reported, the other pictures are still restyled, and the exit code is 2.
    """
    import_torch()
    from ..large import SOLVE_SIZE as DEFAULT
    from ..restyling import find_look, open_masks, set_style
    from ..steps import follow

    with sentences():
        if solve_size is not None and not photoreal:
            raise ValueError("--solve-size must be given with --photoreal")
        if one_look and (not photoreal or mask):
            raise ValueError("--one-look must be given with --photoreal and without --mask")
        if one_look and "-" in content:
            raise ValueError("--one-look must be given with files, got standard input")
        without = {
            "--skip-existing": skip_existing,
            "--solve-size": solve_size is not None,
            "--no-refine": refine is False,
        }
        for name, is_given in without.items():
            if one_look and is_given:
                raise ValueError(f"--one-look must be given without {name}")
        if as_json and output == "-":
            raise ValueError("--json must be given without -o -: both write to standard output")
        stylizer = make_stylizer(
            photoreal=photoreal,
            keep=keep,
            cutoff=cutoff,
            brush=brush,
            levels=levels,
            structure=structure,
            memory=memory,
            device=device,
            weights=weights,
            refine=refine,
            strength=strength,
            precision=precision,
            solve_size=DEFAULT if solve_size is None else solve_size or None,
        )
        jobs = plan(content, output, force, recursive=recursive, skip_existing=skip_existing)
        if not jobs:
            return
        if mask and (len(jobs) > 1 or len(style) > 1):
            raise ValueError(
                "--mask must be given with one content and one style, "
                f"got {len(jobs)} and {len(style)}"
            )
        content_mask, style_mask = open_masks(*mask) if mask else (None, None)
        notes = set_style(stylizer, style, blend, style_mask)
        look = find_look(stylizer, [source for source, _ in jobs]) if one_look else None

    def process(source: str, target: str) -> dict[str, Any]:
        if look is not None:
            return apply_look(look, source, target, max_size)
        return _restyle(stylizer, source, target, max_size, content_mask)

    def step(bar: ProgressBar) -> AbstractContextManager[None]:
        return one_picture(bar) if look else follow(stylizer, bar.advance)

    work_through(jobs, process, message_console(), as_json, notes, step)


def _restyle(
    stylizer: Stylizer, source: str, target: str, max_size: int | None, mask: Mask | None
) -> dict[str, Any]:
    """Restyle one picture, and return its "size", how it was restyled, and "notes"."""
    from ..restyling import restyle

    picture, notes = open_content(source, target, max_size)
    size = picture.size
    restyled = restyle(stylizer, picture, mask)
    del picture  # encoding the result takes memory, too
    return_freed()
    write_result(restyled.picture, target)
    return {
        "size": list(size),
        "solve_size": list(restyled.solve_size),
        "tiles": restyled.tiles,
        "notes": notes + restyled.notes,
    }
