"""fastfcs optimize."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..progress import ProgressBar
from .errors import sentences
from .jobs import plan
from .options import (
    CUTOFF,
    DEVICE,
    FORCE,
    INTEGERS,
    MASK,
    PATH,
    PICTURE,
    PRECISION,
    device_named,
)
from .pictures import message_console, open_content, write_result

if TYPE_CHECKING:
    from torch import Tensor

    from ..images import Picture


def layer_weights(text: str) -> dict[str, float]:
    """Parse the weights of layers.

    Args:
        text: layers, each with its weight if that is not 1.

    Returns:
        The weights by layer.

    Raises:
        click.BadParameter: a weight is not a number.

    Examples:
        >>> from fastfcs.cli.optimize import layer_weights
        >>> layer_weights("conv1_2,conv3_1=0.5")
        {'conv1_2': 1.0, 'conv3_1': 0.5}
    """
    try:
        pairs = [part.partition("=") for part in text.split(",")]
        return {layer: float(weight or 1) for layer, _, weight in pairs}
    except ValueError as error:
        raise click.BadParameter(
            f"must be layers and weights such as conv1_2=1,conv3_1=0.5, got {text!r}"
        ) from error


@click.command()
@click.argument("content", type=PICTURE)
@click.option("--style", required=True, help="Picture whose style to apply.")
@click.option(
    "-o",
    "--output",
    required=True,
    help="A file (its suffix sets the format), or - for standard output (PNG).",
)
@click.option(
    "--steps",
    type=INTEGERS,
    metavar="N[,N...]",
    default="200",
    show_default=True,
    help="Iterations. Several numbers, for example 200,100,50, go from coarse to fine: each scale "
    "is twice the size of the one before.",
)
@click.option(
    "--method",
    type=click.Choice(["lbfgs", "adam", "gradient"]),
    default="lbfgs",
    show_default=True,
    help="Optimiser.",
)
@click.option("--lr", type=float, help="Step size; by default the optimiser's own.")
@click.option(
    "--start",
    type=click.Choice(["content", "noise"]),
    default="content",
    show_default=True,
    help="Image to start from.",
)
@click.option("--photoreal", is_flag=True, help="Keep the result a photograph, by projection.")
@CUTOFF
@click.option("--content-weight", type=float, help="Weight of the content loss.")
@click.option("--style-weight", type=float, help="Weight of the style loss.")
@click.option(
    "--matting-weight",
    type=float,
    help="Weight of the photorealism term of Luan et al., who take 1e4.",
)
@click.option(
    "--structure-weight", type=float, help="Weight of 1 - SSIM of the gradient magnitudes."
)
@click.option(
    "--content-layers",
    type=layer_weights,
    metavar="LAYER[=WEIGHT],...",
    help="VGG-19 layers of the content loss; by default conv4_2.",
)
@click.option(
    "--style-layers",
    type=layer_weights,
    metavar="LAYER[=WEIGHT],...",
    help="VGG-19 layers of the style loss; by default conv1_2,conv2_2,conv3_2,conv4_2.",
)
@MASK
@click.option(
    "--tolerance",
    type=float,
    help="Stop once 10 iterations lower the loss by less than this fraction.",
)
@click.option("--seed", type=int, help="Seed of --start noise.")
@PRECISION
@click.option(
    "--max-size",
    type=click.IntRange(min=16),
    help="Reduce larger pictures, the style too, to this longer side, in pixels.",
)
@click.option("--vgg", type=PATH, help="Other weights of VGG-19, in the format of torchvision.")
@DEVICE
@FORCE
def optimize(
    content: str,
    style: str,
    output: str,
    mask: tuple[str, str] | None,
    max_size: int | None,
    device: str | None,
    force: bool,
    **options: Any,
) -> None:
    """Restyle CONTENT with an iterative solver, which takes minutes.

    CONTENT is a picture, or - for standard input.

    The default is Gatys et al. (2016). Luan et al. (2017) is --matting-weight 1e4 with --mask; the
    projected gradient of Puy and Pérez (2018) is --photoreal with --method adam.
    """
    with sentences():
        [(_, target)] = plan([content], output, force)
        start = time.perf_counter()
        place = device_named(device)
        picture, style_picture, regions, notes = _open_pair(content, style, target, mask, max_size)
        console = message_console()
        for note in notes:
            console.print(note)
        of_content, of_style = regions or (None, None)
        photo, content_masks, convert_back = _visible_part("content", picture, of_content)
        reference, style_masks, _ = _visible_part("style", style_picture, of_style)
        masks = content_masks.to(place), style_masks.to(place)
        result = _solve(photo.to(place), reference.to(place), masks, **options)
        write_result(convert_back(result[None]), target)
        width, height = picture.size
        console.print(f"{target}: {width} x {height}, {time.perf_counter() - start:.0f} s")


def _open_pair(
    content: str, style: str, target: str, mask: tuple[str, str] | None, max_size: int | None
) -> tuple[Picture, Picture, tuple[Tensor, Tensor] | None, list[str]]:
    """Open the content and the style, and their masks (R, H, W) if any; return notes as well."""
    from ..restyling import fit_mask, open_masks, open_style

    picture, content_notes = open_content(content, target, max_size)
    style_picture, style_notes = open_style(style, max_size)
    regions = None
    if mask:
        content_mask, style_mask = open_masks(*mask)
        of_content, content_mask_notes = fit_mask(content_mask, picture)
        of_style, style_mask_notes = fit_mask(style_mask, style_picture)
        regions = of_content, of_style
        content_notes += content_mask_notes
        style_notes += style_mask_notes
    notes = [f"{content}: {note}" for note in content_notes]
    notes += [f"{style}: {note}" for note in style_notes]
    return picture, style_picture, regions, notes


def _visible_part(
    name: str, picture: Picture, regions: Tensor | None
) -> tuple[Tensor, Tensor, Callable[[Tensor], Any]]:
    """Prepare a picture for the solver, in which hidden pixels count for nothing.

    Args:
        name: the picture's name, for messages.
        picture: the picture.
        regions: its masks (R, H, W), by default a single region.

    Returns:
        Its pixels (3, H, W), the hidden ones filled; the masks times alpha; and a function from a
        result (1, 3, H, W) to a picture.
    """
    import torch

    from .. import images
    from ..checks import check_visible

    batch = images.image_to_tensor(name, picture)
    pixels, alpha = batch.pixels, batch.alpha
    masks = torch.ones_like(pixels[0, :1]) if regions is None else regions
    if alpha is not None:
        check_visible(name, alpha, regions)
        pixels, masks = images.fill_hidden(pixels, alpha), masks * alpha[0]
    return pixels[0], masks, batch.convert_back


def _solve(
    content: Tensor,
    style: Tensor,
    regions: Any,
    *,
    steps: list[int],
    photoreal: bool,
    vgg: Path | None,
    **options: Any,
) -> Tensor:
    """Run the solver with a progress bar. None stands for a default of the solver.

    Args:
        content, style: (3, H, W), on the device to compute on.
        regions: masks (R, H, W) of both.
        steps: iterations per scale.
        photoreal: whether to project.
        vgg: file of other VGG-19 weights.
        options: keyword arguments of `fastfcs.solvers.solve`.

    Returns:
        The result (3, H, W) on the CPU.
    """
    from ..solvers import solve
    from ..vgg import load_vgg19

    with ProgressBar(sum(steps), smoothing=0) as bar:

        def show(step: int, image: Tensor, losses: dict[str, float]) -> None:
            if step > 0:  # step 0 is the image that a scale starts from
                bar.report({name: loss for name, loss in losses.items() if loss})
                bar.advance()

        result = solve(
            content,
            style,
            steps=steps,
            regions=regions,
            constraint="photoreal" if photoreal else None,
            callback=show,
            vgg=load_vgg19(vgg),
            **{name: value for name, value in options.items() if value is not None},
        )
    return result[0].cpu()
