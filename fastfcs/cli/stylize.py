"""fastfcs stylize."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from .errors import BAD_INPUT, sentence, sentences
from .jobs import plan, reduction
from .options import DEVICE, device_named

if TYPE_CHECKING:
    from rich.console import Console

    from ..stylizer import Stylizer


@click.command()
@click.argument("content", nargs=-1, required=True)
@click.option("--style", required=True, help="Reference picture, or a preset made by tune.")
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
@click.option("--strength", type=float, default=1.0, show_default=True, help="0 content, 1 style.")
@click.option(
    "--max-size", type=click.IntRange(min=16), help="Reduce to this longest side, pixels."
)
@click.option("--weights", default="universal", show_default=True, help="Name or file.")
@DEVICE
@click.option("--force", is_flag=True, help="Overwrite existing files.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a file on standard output.")
def stylize(
    content: tuple[str, ...],
    style: str,
    output: str,
    photoreal: bool,
    cutoff: float | None,
    strength: float,
    max_size: int | None,
    weights: str,
    device: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Restyle pictures: CONTENT is one or many files, folders, or - for standard input.

    With many, or a folder, OUTPUT is a folder and names are kept (BMP and GIF become PNG). A
    picture that cannot be restyled is reported, the others are done, and the exit code is 2.
    """
    with sentences():
        if cutoff is not None and not photoreal:
            raise ValueError("--cutoff belongs to --photoreal, which was not given")
        if as_json and output == "-":
            raise ValueError("--json and -o - both want standard output")
        jobs = plan(content, output, force)
        stylizer, style_notes = _stylizer(style, photoreal, cutoff, strength, weights, device)
    from rich.console import Console

    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    for note in style_notes:
        console.print(note)
    failed = False
    for source, target in _progress(jobs, console, hidden=as_json):
        report: dict[str, Any] = {"input": source, "output": target}
        try:
            report |= _restyle(stylizer, source, target, max_size)
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


def _restyle(stylizer: Stylizer, source: str, target: str, max_size: int | None) -> dict[str, Any]:
    """Restyle one picture: what is reported of it."""
    from dataclasses import replace

    import torch

    from .. import images

    start = time.perf_counter()
    picture = images.read(sys.stdin.buffer if source == "-" else source)
    format = "PNG" if target == "-" else images.format_of(target)
    notes = [*picture.notes, *images.losses(picture, format)]
    if max_size is not None and max(picture.size) > max_size:
        notes.append(reduction(picture, max_size))
        picture = images.fit_picture(picture, max_size)
    with torch.inference_mode():
        result = stylizer(picture.pixels)
    picture = replace(picture, pixels=result)
    images.write(picture, sys.stdout.buffer if target == "-" else target, format)
    seconds = round(time.perf_counter() - start, 3)
    return {"size": list(picture.size), "seconds": seconds, "notes": notes}


def _stylizer(
    style: str,
    photoreal: bool,
    cutoff: float | None,
    strength: float,
    weights: str,
    device: str | None,
) -> tuple[Stylizer, list[str]]:
    """The stylizer, its style set, and sentences on what was done to the style."""
    from .. import images
    from ..stylizer import Stylizer

    stylizer = Stylizer(
        weights=weights,
        constraint="photoreal" if photoreal else None,
        strength=strength,
        cutoff=cutoff,
    ).to(device_named(device))
    if style.endswith(".safetensors"):
        stylizer.set_style(style)
        return stylizer, []
    picture = images.read(style)
    stylizer.set_style(picture.pixels)
    notes = [*picture.notes]
    if stylizer.style_size is not None and max(picture.size) > stylizer.style_size:
        notes.append(reduction(picture, stylizer.style_size))
    return stylizer, [f"{style}: {note}" for note in notes]


def _progress(
    jobs: list[tuple[str, str]], console: Console, hidden: bool
) -> Iterator[tuple[str, str]]:
    if len(jobs) == 1 or hidden or not console.is_terminal:
        yield from jobs
        return
    from rich.progress import track

    yield from track(jobs, description="", console=console)
