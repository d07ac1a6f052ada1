"""fastfcs optimize."""

from __future__ import annotations

import time
from typing import Any

import click

from .errors import sentences
from .jobs import fitted, plan, reduction
from .options import DEVICE, PATH, PRECISION, STEPS, device_named


class _Weights(click.ParamType):
    """Layers and weights, as "conv1_2=1,conv3_1=0.5"; a layer alone weighs 1."""

    name = "LAYER[=WEIGHT],..."

    def convert(self, value: Any, *_: Any) -> Any:
        try:
            pairs = [part.partition("=") for part in value.split(",")]
            return {layer: float(weight or 1) for layer, _, weight in pairs}
        except ValueError:
            self.fail(f"{value!r}: layers and weights are wanted, such as conv1_2=1,conv3_1=0.5")


@click.command()
@click.argument("content")
@click.option("--style", required=True, help="Reference picture.")
@click.option("-o", "--output", required=True, help="A file; - is standard output (PNG).")
@click.option(
    "--steps",
    type=STEPS,
    default="200",
    show_default=True,
    help="Iterations; several, as 200,100,50, go from coarse to fine, each scale twice the last.",
)
@click.option(
    "--method",
    type=click.Choice(["lbfgs", "adam", "gradient"]),
    default="lbfgs",
    show_default=True,
)
@click.option("--lr", type=float, help="Step size; the method's own by default.")
@click.option(
    "--start", type=click.Choice(["content", "noise"]), default="content", show_default=True
)
@click.option("--photoreal", is_flag=True, help="Project after every update.")
@click.option("--cutoff", type=float, help="With --photoreal: larger takes over more style.")
@click.option("--content-weight", type=float)
@click.option("--style-weight", type=float)
@click.option(
    "--matting-weight", type=float, help="Of the photorealism term of Luan et al.; they take 1e4."
)
@click.option("--structure-weight", type=float, help="Of 1 - SSIM of the gradient magnitudes.")
@click.option("--content-layers", type=_Weights(), help="conv4_2 by default.")
@click.option("--style-layers", type=_Weights(), help="conv1_2,conv2_2,conv3_2,conv4_2 by default.")
@click.option(
    "--mask",
    nargs=2,
    metavar="CONTENT STYLE",
    help="Two pictures, a flat colour a region: a Gram matrix for each region.",
)
@click.option("--tolerance", type=float, help="Stop once 10 iterations gain less than this share.")
@click.option("--seed", type=int, help="Of the noise.")
@PRECISION
@click.option("--max-size", type=click.IntRange(min=16), help="Longest side, pixels, of both.")
@click.option("--vgg", type=PATH, help="Other weights of VGG-19, torchvision's.")
@DEVICE
@click.option("--force", is_flag=True, help="Overwrite existing files.")
def optimize(
    content: str,
    style: str,
    output: str,
    photoreal: bool,
    mask: tuple[str, str] | None,
    max_size: int | None,
    vgg: Any,
    device: str | None,
    force: bool,
    **given: Any,
) -> None:
    """Restyle a picture by an iterative solver: minutes, where stylize takes seconds.

    Gatys et al. (2016) by default; Luan et al. (2017) with --matting-weight 1e4 and --mask; the
    projected gradient of Puy and Pérez (2018) with --photoreal --method adam.
    """
    with sentences():
        [(_, target)] = plan([content], output, force)
        _optimize(content, style, target, photoreal, mask, max_size, vgg, device, given)


def _optimize(
    content: str,
    style: str,
    target: str,
    photoreal: bool,
    mask: tuple[str, str] | None,
    max_size: int | None,
    vgg: Any,
    device: str | None,
    given: dict[str, Any],
) -> None:
    import sys
    from dataclasses import replace

    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from .. import images
    from ..regions import read_regions
    from ..solvers import solve
    from ..vgg import load_vgg19

    start = time.perf_counter()
    place = device_named(device)
    options = {name: value for name, value in given.items() if value is not None}
    names, pictures = (content, style), [images.read(name) for name in (content, style)]
    masks = read_regions(*mask) if mask else None
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    format = "PNG" if target == "-" else images.format_of(target)
    for k, (name, picture) in enumerate(zip(names, pictures, strict=True)):
        notes = [
            *picture.notes,
            *(images.style_notes(picture) if k else images.conversion_notes(picture, format)),
        ]
        if max_size is not None and max(picture.size) > max_size:
            notes.append(reduction(picture, max_size))
            pictures[k] = images.fit_picture(picture, max_size)
        for note in notes:
            console.print(f"{name}: {note}")
    photo, reference = (picture.pixels.to(place) for picture in pictures)
    regions: Any = None
    if masks:
        regions = ()
        for name, m, image in zip(
            names, (masks.content, masks.style), (photo, reference), strict=True
        ):
            m, notes = fitted(m, image)
            regions += (m.to(place),)
            for note in notes:
                console.print(f"{name}: {note}")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=sum(options["steps"]))

        def show(step: int, image: Any, losses: dict[str, float]) -> None:
            text = "  ".join(f"{name} {loss:.3g}" for name, loss in losses.items() if loss)
            progress.update(task, description=text, advance=1 if step else 0)

        result = solve(
            photo,
            reference,
            regions=regions,
            constraint="photoreal" if photoreal else None,
            callback=show,
            vgg=load_vgg19(vgg),
            **options,
        )
    picture = replace(pictures[0], pixels=result[0].cpu())
    images.write(picture, sys.stdout.buffer if target == "-" else target, format)
    width, height = picture.size
    console.print(f"{target}: {width} x {height}, {time.perf_counter() - start:.0f} s")
