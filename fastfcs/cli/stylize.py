"""fastfcs stylize."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from .errors import BAD_INPUT, sentence, sentences
from .jobs import fitted, plan, reduction
from .options import DEVICE, REFINE, WEIGHTS, device_named

if TYPE_CHECKING:
    from rich.console import Console

    from ..regions import Regions
    from ..stylizer import Stylizer


@click.command()
@click.argument("content", nargs=-1, required=True)
@click.option(
    "--style",
    required=True,
    multiple=True,
    help="Reference picture, or a preset: a name that `fastfcs presets` lists, or a file made by "
    "tune. Several are blended.",
)
@click.option(
    "-o",
    "--output",
    required=True,
    help="A file (its suffix says the format), a folder, or - for standard output (PNG).",
)
@click.option("--photoreal", is_flag=True, help="Keep the result a photograph.")
@click.option(
    "--cutoff",
    type=float,
    help="With --photoreal: larger takes over more style, smaller keeps more structure.",
)
@click.option(
    "--blend", type=WEIGHTS, help="Weights of several styles, as 0.7,0.3; equal by default."
)
@click.option(
    "--mask",
    nargs=2,
    metavar="CONTENT STYLE",
    help="Two pictures, a flat colour a region: each region takes the style of its namesake.",
)
@click.option("--brush", type=float, default=1.0, show_default=True, help="Scale of the strokes.")
@click.option(
    "--keep", type=click.Choice(["colour", "luminance"]), help="What of CONTENT is not restyled."
)
@click.option("--strength", type=float, default=1.0, show_default=True, help="0 content, 1 style.")
@click.option(
    "--max-size", type=click.IntRange(min=16), help="Reduce to this longest side, pixels."
)
@click.option("--weights", default="universal", show_default=True, help="Name or file.")
@REFINE
@DEVICE
@click.option("--force", is_flag=True, help="Overwrite existing files.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a file on standard output.")
def stylize(
    content: tuple[str, ...],
    style: tuple[str, ...],
    output: str,
    photoreal: bool,
    cutoff: float | None,
    blend: list[float] | None,
    mask: tuple[str, str] | None,
    brush: float,
    keep: str | None,
    strength: float,
    max_size: int | None,
    weights: str,
    refine: bool,
    device: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Restyle pictures: CONTENT is one or many files, folders, or - for standard input.

    With many, or a folder, OUTPUT is a folder and names are kept (BMP and GIF become PNG). A
    picture that cannot be restyled is reported, the others are done, and the exit code is 2.
    """
    from ..regions import read_regions
    from ..stylizer import Stylizer

    with sentences():
        if cutoff is not None and not photoreal:
            raise ValueError("--cutoff belongs to --photoreal, which was not given")
        if as_json and output == "-":
            raise ValueError("--json and -o - both want standard output")
        if mask and (len(content) > 1 or len(style) > 1):
            raise ValueError("--mask takes one content and one style")
        jobs = plan(content, output, force)
        if mask and len(jobs) > 1:
            raise ValueError(f"--mask takes one content, not the {len(jobs)} of {content[0]}")
        masks = read_regions(*mask) if mask else None
        constraint: list[Any] = [
            *(["photoreal"] if photoreal else []),
            *([f"keep-{keep}"] if keep else []),
        ]
        stylizer = Stylizer(
            weights=weights,
            refine=refine,
            constraint=constraint,
            strength=strength,
            cutoff=cutoff,
            brush=brush,
        ).to(device_named(device))
        style_notes = _set_style(stylizer, style, blend, masks)
    from rich.console import Console

    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    for note in style_notes:
        console.print(note)
    failed = False
    for source, target in _progress(jobs, console, hidden=as_json):
        report: dict[str, Any] = {"input": source, "output": target}
        try:
            report |= _restyle(stylizer, source, target, max_size, masks)
            for note in report["notes"]:
                console.print(f"{source}: {note}")
            report["notes"] = style_notes + report["notes"]
            width, height = report["size"]
            console.print(f"{target}: {width} x {height}, {report['seconds']:.2f} s")
        except BAD_INPUT as error:
            failed = True
            message = sentence(error)
            report["error"] = message if message.startswith(source) else f"{source}: {message}"
            console.print(report["error"])
        if as_json:
            click.echo(json.dumps(report))
    if failed:
        sys.exit(2)


def _restyle(
    stylizer: Stylizer, source: str, target: str, max_size: int | None, masks: Regions | None
) -> dict[str, Any]:
    """Restyle one picture: what is reported of it."""
    from dataclasses import replace

    import torch

    from .. import images

    start = time.perf_counter()
    picture = images.read(sys.stdin.buffer if source == "-" else source)
    format = "PNG" if target == "-" else images.format_of(target)
    notes = [*picture.notes, *images.conversion_notes(picture, format)]
    if max_size is not None and max(picture.size) > max_size:
        notes.append(reduction(picture, max_size))
        picture = images.fit_picture(picture, max_size)
    regions = None
    if masks:
        regions, said = fitted(masks.content, picture.pixels)
        notes += said
        missing = 1 - regions.sum(0).mean().item()
        if missing > 0.005:
            notes.append(
                f"{missing:.0%} of it stays as it is: the style's mask lacks those colours"
            )
    with torch.inference_mode():
        result = stylizer(picture.pixels, regions)
    picture = replace(picture, pixels=result)
    images.write(picture, sys.stdout.buffer if target == "-" else target, format)
    seconds = round(time.perf_counter() - start, 3)
    return {"size": list(picture.size), "seconds": seconds, "notes": notes}


def _set_style(
    stylizer: Stylizer,
    styles: Sequence[str],
    blend: Sequence[float] | None,
    masks: Regions | None,
) -> list[str]:
    """Set the style: sentences on what was done to it."""
    from .. import images, presets

    found: list[Any] = []
    notes: list[str] = []
    for style in styles:
        if presets.find(style) is not None:
            found.append(style)
            continue
        picture = images.read(style)
        said = [*picture.notes, *images.style_notes(picture)]
        if stylizer.style_size is not None and max(picture.size) > stylizer.style_size:
            said.append(reduction(picture, stylizer.style_size))
        notes += [f"{style}: {note}" for note in said]
        found.append(picture.pixels)
    regions = None
    if masks:
        regions = masks.style
        if not isinstance(found[0], str):
            regions, said = fitted(regions, found[0])
            notes += [f"{styles[0]}: {note}" for note in said]
    if len(found) > 1 and blend is None:
        blend = [1.0] * len(found)
    stylizer.set_style(found, blend=blend, regions=regions)
    return notes


def _progress(
    jobs: list[tuple[str, str]], console: Console, hidden: bool
) -> Iterator[tuple[str, str]]:
    if len(jobs) == 1 or hidden or not console.is_terminal:
        yield from jobs
        return
    from rich.progress import track

    yield from track(jobs, description="", console=console)
