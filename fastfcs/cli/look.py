"""fastfcs lut and fastfcs apply."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from ..start import import_torch
from .errors import sentences
from .jobs import check_folder, plan
from .options import (
    BLEND,
    CUTOFF,
    DEVICE,
    FORCE,
    JSON,
    KEEP,
    RECURSIVE,
    SKIP_EXISTING,
    STRENGTH,
    STYLE,
    WEIGHTS,
    device_named,
)
from .pictures import message_console, open_content, write_result
from .work import Report, work_through

if TYPE_CHECKING:
    from ..look import Look

_POINTS = "17", "33", "65"


@click.command()
@click.argument("content", nargs=-1, required=True)
@STYLE
@click.option(
    "-o",
    "--output",
    required=True,
    help="A file: .cube, or .png for a HALD image of level 8 (64 points) with 16 bits.",
)
@click.option(
    "--points",
    type=click.Choice(_POINTS),
    default="33",
    show_default=True,
    help="Points per side of the LUT.",
)
@CUTOFF
@BLEND
@KEEP
@STRENGTH
@WEIGHTS
@DEVICE
@FORCE
def lut(
    content: tuple[str, ...],
    style: tuple[str, ...],
    output: str,
    points: str,
    cutoff: float | None,
    blend: list[float] | None,
    keep: str | None,
    strength: float,
    weights: str,
    device: str | None,
    force: bool,
) -> None:
    """Save the look of a style for the photographs CONTENT as a 3D LUT for other programs.

    The LUT is one smooth map of colours, in sRGB, for all of them. How near it comes to restyling
    each picture by itself is reported as CIEDE2000: 1 is just noticeable, 5 is plain to see.
    """
    import_torch()
    import os

    import torch

    from .. import images
    from ..look import difference, suffix_of
    from ..restyling import set_style
    from ..stylizer import LOOK_SIZE, Stylizer

    with sentences():
        suffix_of(output)
        check_folder(output)
        if os.path.exists(output) and not force:
            raise ValueError(f"{output} exists already; --force overwrites")
        constraint: list[Any] = ["photoreal", *([f"keep-{keep}"] if keep else [])]
        stylizer = Stylizer(
            weights=weights, constraint=constraint, strength=strength, cutoff=cutoff
        ).to(device_named(device))
        notes = set_style(stylizer, style, blend)
        pictures = []
        for path in content:
            picture = images.read(path)
            images.image_to_tensor(path, picture)  # raises if it is too small
            notes += [f"{path}: {note}" for note in picture.notes]
            side = images.least_side(picture.size, LOOK_SIZE)
            pictures.append(images.fit_picture(picture, side))
        with torch.inference_mode():
            look = stylizer.look(pictures, int(points))
            look.save(output)
            differences = [difference(look(each), stylizer(each)) for each in pictures]
    console = message_console()
    for note in notes:
        console.print(note)
    for path, found in zip(content, differences, strict=True):
        mean, high = found.mean().item(), found.quantile(0.95).item()
        console.print(
            f"{path}: the LUT differs from restyling it by a CIEDE2000 of {mean:.1f} on average, "
            f"and {high:.1f} at the 95th percentile"
        )
    kind = "HALD image of 64 points" if output.lower().endswith(".png") else f"{points} points"
    console.print(f"{output}: {kind}")


@click.command()
@click.argument("look", type=click.Path(exists=True, dir_okay=False))
@click.argument("content", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    required=True,
    help="A file (its suffix sets the format), a folder, or - for standard output (PNG).",
)
@STRENGTH
@FORCE
@RECURSIVE
@SKIP_EXISTING
@JSON
def apply(
    look: str,
    content: tuple[str, ...],
    output: str,
    strength: float,
    force: bool,
    recursive: bool,
    skip_existing: bool,
    as_json: bool,
) -> None:
    """Apply LOOK, a .cube file or a HALD image, to the pictures or folders CONTENT.

    Interpolation is trilinear, in sRGB, at any size, with 8 or 16 bits per channel.
    """
    import_torch()
    from ..look import Look

    with sentences():
        if as_json and output == "-":
            raise ValueError("--json must be given without -o -: both write to standard output")
        jobs = plan(content, output, force, recursive=recursive, skip_existing=skip_existing)
        loaded = Look.read(look).scaled(strength)

    work_through(jobs, partial(apply_look, loaded), message_console(), as_json)


def apply_look(look: Look, source: str, target: str, max_size: int | None = None) -> Report:
    """Apply a look to one picture.

    Args:
        look: the look.
        source: a file, or - for standard input.
        target: a file, or - for standard output (PNG).
        max_size: longer side, in pixels, to which a larger picture is reduced.

    Returns:
        Its "size" and "notes".

    Raises:
        PictureError: the picture cannot be read or written.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import torch
        >>> from fastfcs import images
        >>> from fastfcs.cli.look import apply_look
        >>> from fastfcs.look import Look
        >>> folder = Path(tempfile.mkdtemp())
        >>> images.write(images.Picture(torch.rand(3, 16, 24)), folder / "a.png")
        >>> apply_look(Look.identity(), str(folder / "a.png"), str(folder / "b.png"))
        {'size': [24, 16], 'notes': []}
    """
    import torch

    picture, notes = open_content(source, target, max_size)
    with torch.inference_mode():
        result = look(picture)
    del picture  # encoding the result takes memory, too
    write_result(result, target)
    return {"size": list(result.size), "notes": notes}
