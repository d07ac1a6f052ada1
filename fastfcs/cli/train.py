"""fastfcs train, fastfcs tune."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .errors import sentences
from .options import DEVICE, FILE, FOLDER, PATH, PRECISION, device_named

_SEARCH = (
    click.option("--steps", type=click.IntRange(min=1), help="How many."),
    click.option("--batch", type=click.IntRange(min=1)),
    click.option("--style-weight", type=float),
    PRECISION,
    click.option("--lr", type=float, help="Learning rate."),
    click.option("--seed", type=int),
    click.option("--vgg", type=PATH, help="Other weights of VGG-19, torchvision's."),
    DEVICE,
)


def _search(command: Any) -> Any:
    """The options of `fastfcs.training`; one that is not given keeps the default written there."""
    for option in reversed(_SEARCH):
        command = option(command)
    return command


@click.command()
@click.option("--content", type=FOLDER, help="Photos.")
@click.option("--style", type=FOLDER, multiple=True, help="Styles; repeatable.")
@click.option(
    "--pack",
    type=PATH,
    help="With folders, a file of at most 30 MiB to write their pictures to; without them, such a "
    "file to train on.",
)
@click.option(
    "--pairs", type=FOLDER, help="With folders and --pack: pairs to measure with, as for evaluate."
)
@click.option("-o", "--output", type=PATH, help="The weights, .safetensors.")
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    help="Train for so long: the learning rate follows the clock.",
)
@click.option(
    "--size",
    type=click.IntRange(min=16),
    multiple=True,
    help="Side of the crops, pixels; repeatable: contents and styles take turns.",
)
@click.option("--weights", help="To go on from, name or file; anew, by default.")
@click.option(
    "--channels",
    type=click.IntRange(min=5),
    multiple=True,
    help="Of a new network; repeatable, once a level, finest first.",
)
@click.option(
    "--residual",
    type=click.IntRange(min=0),
    multiple=True,
    help="Convolutions beside each level's two, of a new network; repeatable, once a level.",
)
@click.option(
    "--distil-steps",
    type=click.IntRange(min=0),
    help="In which the forward maps of a new network learn from VGG.",
)
@click.option(
    "--photoreal",
    type=click.FloatRange(0, 1),
    help="Share of the steps whose updates are projected.",
)
@click.option("--structure-weight", type=float, help="In those steps, of 1 - SSIM of gradients.")
@click.option("--noise-weight", type=float, help="Of how much noise is amplified: flicker.")
@click.option("--alignment-weight", type=float, help="Of how unlike VGG's the gradients are.")
@click.option("--tensorboard", type=PATH, help="Folder for its log.")
@click.option("--holdout", type=click.IntRange(min=0), help="Last photos kept out of training.")
@click.option("--preview-every", type=click.IntRange(min=1), help="Steps.")
@click.option(
    "--scores",
    type=click.IntRange(min=0),
    help="Measure the network on so many held-out photos and pairs, before and after.",
)
@_search
def train(
    content: Path | None,
    style: tuple[Path, ...],
    pack: Path | None,
    pairs: Path | None,
    output: Path | None,
    device: str | None,
    **given: Any,
) -> None:
    """Train a network for any style.

    A checkpoint and a preview sheet stand beside OUTPUT; the same command goes on from the
    checkpoint. On several devices: torchrun --nproc-per-node N --no-python fastfcs train ...

    Pictures come from folders (--content, --style) or from a pack, one file that holds them, and
    travels to where there is a GPU. With both, the pack is written, and nothing is trained.
    """
    with sentences():
        options = {name: value for name, value in given.items() if value not in (None, ())}
        if content is None and (pack is None or style):
            raise ValueError("--content must be given with --style, or --pack without either")
        if content is not None and not style:
            raise ValueError("--style must be given with --content")
        if content is not None and pack is not None:
            _write_pack(
                content, style, pairs, pack, {**options, "output": output, "device": device}
            )
            return
        if pairs is not None:
            raise ValueError("--pairs must be given with --content, --style and --pack")
        if content is None and "holdout" in options:
            raise ValueError("--holdout must be given where the pack is written, not with the pack")
        if output is None:
            raise ValueError("--output must be given")

        from .. import training

        if pack is not None:
            options["pack"] = pack
        training.train(content, style, output, device=device_named(device), **options)


def _write_pack(
    content: Path,
    style: tuple[Path, ...],
    pairs: Path | None,
    pack: Path,
    options: dict[str, Any],
) -> None:
    from ..training.pack import from_folders, write_pack

    holdout = options.pop("holdout", None)
    for name, value in options.items():
        if value is not None:
            option = name.replace("_", "-")
            raise ValueError(f"--{option} must be left out where folders become a pack")
    chosen = {} if holdout is None else {"holdout": holdout}
    click.echo(write_pack(from_folders(content, style, pairs=pairs, **chosen), pack))


@click.command()
@click.argument("style", type=FILE)
@click.option("--content", type=FOLDER, required=True, help="Photos to tune on.")
@click.option("-o", "--output", type=PATH, required=True, help="The preset, .safetensors.")
@click.option("--weights", help="Name or file; universal, by default.")
@click.option("--size", type=click.IntRange(min=16), help="Side of the crops, pixels.")
@click.option("--style-size", type=click.IntRange(min=16), help="Longer side of STYLE, pixels.")
@click.option("--title", help="Kept in the preset: the painting, its painter, its year.")
@_search
def tune(style: Path, content: Path, output: Path, device: str | None, **given: Any) -> None:
    """Tune the statistics of one STYLE picture: a preset for stylize --style."""
    from .. import training

    with sentences():
        options = {name: value for name, value in given.items() if value is not None}
        training.tune(style, content, output, device=device_named(device), **options)
