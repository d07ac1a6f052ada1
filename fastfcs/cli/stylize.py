"""fastfcs stylize."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING, Any

import click

from ..errors import BAD_INPUT
from ..memory import return_freed
from ..progress import ProgressBar
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
    MEMORY,
    PHOTOREAL,
    RECURSIVE,
    REFINE,
    SKIP_EXISTING,
    STRENGTH,
    STRUCTURE,
    STYLE,
    WEIGHTS,
    pixels_or_full,
)
from .pictures import message_console, open_content, write_result
from .start import import_torch
from .styling import make_stylizer
from .work import one_picture, work_through

if TYPE_CHECKING:
    from ..look import Look
    from ..restyling import Mask
    from ..stylizer import Stylizer

_CANDIDATES, _REPRESENTATIVES = 32, 6  # pictures of a series, to choose from and chosen


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
@click.option(
    "--max-size",
    type=click.IntRange(min=16),
    help="Reduce larger pictures to this longer side, in pixels.",
)
@click.option(
    "--solve-size",
    type=pixels_or_full,
    metavar="PIXELS|full",
    help="With --photoreal: restyle larger photographs at this longer side, and apply the change "
    "at full size; full restyles them at their own size. By default 768.",
)
@click.option(
    "--one-look",
    is_flag=True,
    help="With --photoreal: the same change of colours for all of CONTENT, found on a few of its "
    "pictures together.",
)
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
    from ..large import SOLVE_SIZE
    from ..restyling import open_masks, set_style
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
            solve_size=SOLVE_SIZE if solve_size is None else solve_size or None,
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
        look = _one_look(stylizer, jobs) if one_look else None

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


def _one_look(stylizer: Stylizer, jobs: Sequence[tuple[str, str]]) -> Look:
    """The look of a series, from a few of its pictures that differ most."""
    import torch

    from .. import images
    from ..checks import MIN_SIDE
    from ..look import representatives
    from ..stylizer import LOOK_SIZE

    step = -(-len(jobs) // _CANDIDATES)
    candidates = []
    for source, _ in jobs[::step]:
        with suppress(*BAD_INPUT):  # reported when its turn comes
            picture = images.read(source)
            visible = picture.alpha is None or picture.alpha.any()
            if visible and min(picture.size) >= MIN_SIDE:
                side = images.least_side(picture.size, LOOK_SIZE)
                candidates.append(images.fit_picture(picture, side))
    if not candidates:
        raise ValueError("content must hold pictures that can be restyled, got none")
    chosen = representatives(candidates, _REPRESENTATIVES)
    with torch.inference_mode():
        return stylizer.look([candidates[k] for k in chosen])
