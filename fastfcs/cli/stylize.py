"""fastfcs stylize."""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from ..progress import ProgressBar
from .errors import BAD_INPUT, sentence, sentences
from .jobs import plan
from .options import CUTOFF, DEVICE, FORCE, MASK, MEMORY, NUMBERS, REFINE, WEIGHTS, device_named
from .pictures import (
    Mask,
    fit_mask,
    message_console,
    open_content,
    open_masks,
    open_style,
    reduction_notes,
    write_result,
)
from .start import import_torch

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

    from ..images import Picture
    from ..stylizer import Stylizer

_UNMASKED = 0.005  # fraction of the content outside all regions above which a note is printed
_NIGHT = 0.5  # fraction of a content that is nearly black from which it is called a night
_BRIGHTER = 0.1  # how much brighter than a night a style must be for a note
_FILES = 2  # updates that reading and writing a picture are worth to the progress bar


@click.command()
@click.argument("content", nargs=-1, required=True)
@click.option(
    "--style",
    required=True,
    multiple=True,
    help="Picture whose style to apply, or a preset: a name that `fastfcs presets` lists, or a "
    "file made by `fastfcs tune`. Repeat the option to blend several.",
)
@click.option(
    "-o",
    "--output",
    required=True,
    help="A file (its suffix sets the format), a folder, or - for standard output (PNG).",
)
@click.option("--photoreal", is_flag=True, help="Keep the result a photograph.")
@CUTOFF
@click.option(
    "--blend",
    type=NUMBERS,
    metavar="W[,W...]",
    help="One weight per style, for example 0.7,0.3; equal by default.",
)
@MASK
@click.option(
    "--brush",
    type=float,
    help="Size of the strokes relative to the picture, 0.25 to 4. By default 1: as in the style "
    "picture.",
)
@click.option(
    "--levels",
    type=click.IntRange(min=1),
    help="Scales from coarse to fine, at most; 1 paints at the picture's own size alone, with "
    "strokes of 30 pixels. By default as many as the picture's size allows.",
)
@click.option(
    "--structure",
    type=float,
    help="How much of the content's structure to keep, 0 to 1: less gives a bolder painting. "
    "By default 0.3.",
)
@click.option(
    "--keep",
    type=click.Choice(["colour", "luminance"]),
    help="Component of the content to preserve.",
)
@click.option(
    "--strength",
    type=float,
    default=1.0,
    show_default=True,
    help="0 returns the content, 1 the full result.",
)
@click.option(
    "--max-size",
    type=click.IntRange(min=16),
    help="Reduce larger pictures to this longer side, in pixels.",
)
@WEIGHTS
@REFINE
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
    help="Arithmetic of the network; auto is the fastest that is as good as float32.",
)
@MEMORY
@DEVICE
@FORCE
@click.option(
    "--recursive", is_flag=True, help="Folders with their subfolders, mirrored in OUTPUT."
)
@click.option(
    "--skip-existing", is_flag=True, help="Leave out pictures whose output exists: resumes a batch."
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object per picture on standard output."
)
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
    from ..stylizer import Stylizer

    with sentences():
        if cutoff is not None and not photoreal:
            raise ValueError("--cutoff must be given with --photoreal")
        options = ("brush", brush), ("levels", levels), ("structure", structure)
        painting: dict[str, Any] = {name: value for name, value in options if value is not None}
        if painting and photoreal:
            raise ValueError(f"--{next(iter(painting))} must be given without --photoreal")
        if as_json and output == "-":
            raise ValueError("--json must be given without -o -: both write to standard output")
        if skip_existing and force:
            raise ValueError("--skip-existing must be given without --force")
        jobs = plan(content, output, force, recursive=recursive, skip_existing=skip_existing)
        if not jobs:
            return
        if mask and (len(jobs) > 1 or len(style) > 1):
            raise ValueError(
                "--mask must be given with one content and one style, "
                f"got {len(jobs)} and {len(style)}"
            )
        content_mask, style_mask = open_masks(*mask) if mask else (None, None)
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
            precision=precision,
            memory=memory,
            **painting,
        ).to(device_named(device))
        style_notes = _set_style(stylizer, style, blend, style_mask)
    console = message_console()
    for note in style_notes:
        console.print(note)
    failed = False
    shown = not as_json and console.is_terminal
    with ProgressBar(len(jobs), shown=shown, console=console) as bar:
        for source, target in jobs:
            with _one_step(bar, stylizer):
                report = _restyle_or_report(stylizer, source, target, max_size, content_mask)
            _print_report(console, report)
            if as_json:
                if "notes" in report:
                    report["notes"] = style_notes + report["notes"]
                click.echo(json.dumps(report))
            failed |= "error" in report
    if failed:
        sys.exit(2)


@contextmanager
def _one_step(bar: ProgressBar, stylizer: Stylizer) -> Iterator[None]:
    """Advance a bar by one picture, in proportion to the pixels whose features are computed."""
    from torch import nn

    from ..network import ForwardMaps
    from ..vgg import VGG19

    left, work = 1.0, 1.0  # work is in pixels

    def begin(_: object, content: tuple[Picture, ...]) -> None:
        nonlocal work
        width, height = content[0].size
        work = stylizer.work(height, width) + _FILES * height * width

    def advance(_: object, image: tuple[Tensor, ...]) -> None:
        nonlocal left
        part = min(image[0].shape[-2] * image[0].shape[-1] / work, left)
        bar.advance(part)
        left -= part

    # Every update, and every pass over a tile, begins with the forward maps of the network, or the
    # refinement's first rectifier.
    modules = list(stylizer.modules())
    first = [m for m in modules if isinstance(m, ForwardMaps)] + [
        next(layer for layer in vgg.modules() if isinstance(layer, nn.ReLU))
        for vgg in modules
        if isinstance(vgg, VGG19)
    ]
    hooks = [module.register_forward_pre_hook(advance) for module in first]
    hooks.append(stylizer.register_forward_pre_hook(begin))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        bar.advance(left)


def _set_style(
    stylizer: Stylizer,
    styles: Sequence[str],
    blend: Sequence[float] | None,
    mask: Mask | None,
) -> list[str]:
    """Set pictures or presets as the style of a stylizer, and return notes on them."""
    from .. import presets

    images: list[Any] = []
    notes: list[str] = []
    regions = mask.regions if mask else None
    for style in styles:
        if presets.find(style) is not None:
            images.append(style)
            continue
        picture, picture_notes = open_style(style)
        picture_notes += reduction_notes(picture, stylizer.style_size)  # by the stylizer
        if mask:
            regions, mask_notes = fit_mask(mask, picture)
            picture_notes += mask_notes
        notes += [f"{style}: {note}" for note in picture_notes]
        images.append(picture)
    if len(images) > 1 and blend is None:
        blend = [1.0] * len(images)
    stylizer.set_style(images, blend=blend, regions=regions)
    return notes


def _restyle_or_report(
    stylizer: Stylizer, source: str, target: str, max_size: int | None, mask: Mask | None
) -> dict[str, Any]:
    """Restyle one picture, and return the report on it: its "notes" or the "error"."""
    report: dict[str, Any] = {"input": source, "output": target}
    try:
        return report | _restyle(stylizer, source, target, max_size, mask)
    except BAD_INPUT as error:
        message = sentence(error)
        named = message if message.startswith(source) else f"{source}: {message}"
        return report | {"error": named}


def _restyle(
    stylizer: Stylizer, source: str, target: str, max_size: int | None, mask: Mask | None
) -> dict[str, Any]:
    """Restyle one picture, and return its "size", the "seconds" taken, its "tiles" and "notes"."""
    import torch

    start = time.perf_counter()
    picture, notes = open_content(source, target, max_size)
    regions = None
    if mask:
        regions, mask_notes = fit_mask(mask, picture)
        notes += mask_notes
        unmasked = 1 - regions.sum(0).mean().item()
        if unmasked > _UNMASKED:
            notes.append(
                f"{unmasked:.0%} of it is not restyled: it is in no region that both masks have"
            )
    notes += _night_notes(stylizer, picture)
    width, height = picture.size
    tiles = stylizer.tiles(height, width)
    with torch.inference_mode(), warnings.catch_warnings(record=True) as caught:
        result = stylizer(picture, regions)
    notes += [str(warning.message) for warning in caught]
    write_result(result, target)
    seconds = round(time.perf_counter() - start, 3)
    return {"size": [width, height], "seconds": seconds, "tiles": tiles, "notes": notes}


def _night_notes(stylizer: Stylizer, picture: Picture) -> list[str]:
    """A note if a photograph of the night is asked to become much brighter."""
    from ..constraints import KeepShadows
    from ..constraints.registry import is_photoreal
    from ..losses import luma

    statistics = stylizer.statistics.get()
    if statistics is None or not is_photoreal(stylizer.constraint):
        return []
    content = picture.srgb[None]
    visible = 1 if picture.alpha is None else picture.alpha / picture.alpha.mean().clamp_min(1e-6)
    dark = (KeepShadows(content).dark * visible).mean().item()
    mean = (luma(content) * visible).mean()
    brighter = (luma(statistics[-1].colours[..., None, None]).mean() - mean).item()
    if dark < _NIGHT or brighter < _BRIGHTER:
        return []
    return [f"{dark:.0%} of it is nearly black and stays dark, since brightening would show noise"]


def _print_report(console: Console, report: dict[str, Any]) -> None:
    if "error" in report:
        console.print(report["error"])
        return
    for note in report["notes"]:
        console.print(f"{report['input']}: {note}")
    width, height = report["size"]
    console.print(f"{report['output']}: {width} x {height}, {report['seconds']:.2f} s")
