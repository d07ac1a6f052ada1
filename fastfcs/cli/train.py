"""fastfcs train, fastfcs tune."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from ..training.config import Precision, TrainConfig, TuneConfig
from .errors import sentences
from .options import DEVICE, FILE, FOLDER, FORCE, PATH, device_named

_Command = TypeVar("_Command", bound=Callable[..., Any])

VGG = click.option("--vgg", type=PATH, help="Other weights of VGG-19: torchvision's.")


def _setting(
    config: type[TrainConfig] | type[TuneConfig], name: str, **attributes: Any
) -> Callable[[_Command], _Command]:
    """Make an option for a field of the settings, with the field's default."""
    default = getattr(config, name)
    attributes.setdefault("show_default", default not in (None, ""))
    return click.option(f"--{name.replace('_', '-')}", default=default, **attributes)


def _shared(config: type[TrainConfig] | type[TuneConfig]) -> Callable[[_Command], _Command]:
    """Make the options that both commands share."""
    options = (
        _setting(config, "batch", type=click.IntRange(min=1), help="Pictures per step."),
        _setting(config, "style_weight", type=float, help="Weight of the style loss."),
        _setting(
            config,
            "precision",
            type=click.Choice(get_args(Precision)),
            help="Precision of the convolutions.",
        ),
        _setting(config, "lr", type=float, help="The highest learning rate."),
        _setting(config, "seed", type=int, help="Seed of all random choices."),
        VGG,
        DEVICE,
    )

    def decorate(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


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
    "--pairs", type=FOLDER, help="With folders and --pack: pairs to measure on, as for evaluate."
)
@click.option("-o", "--output", type=PATH, help="The weights, .safetensors.")
@_setting(
    TrainConfig,
    "steps",
    type=click.IntRange(min=1),
    show_default=f"{TrainConfig.STEPS} without --minutes",
    help="Number of steps.",
)
@_setting(
    TrainConfig,
    "minutes",
    type=click.FloatRange(min=0, min_open=True),
    help="Duration in minutes; the learning rate follows the clock.",
)
@_setting(
    TrainConfig,
    "size",
    type=click.IntRange(min=16),
    multiple=True,
    help="Side of the crops in pixels; repeatable: contents and styles take turns.",
)
@_setting(
    TrainConfig,
    "levels",
    type=click.IntRange(min=1),
    help="Scales from coarse to fine in the steps without the photorealistic constraint, at most.",
)
@_setting(
    TrainConfig,
    "weights",
    show_default="none, from scratch",
    help="Weights to continue from, name or file.",
)
@_setting(
    TrainConfig,
    "channels",
    type=click.IntRange(min=5),
    multiple=True,
    help="Channels of a new network; repeatable, once per level, finest first.",
)
@_setting(
    TrainConfig,
    "residual",
    type=click.IntRange(min=0),
    multiple=True,
    help="Residual convolutions of a new network; repeatable, once per level.",
)
@_setting(
    TrainConfig,
    "distil_steps",
    type=click.IntRange(min=0),
    help="Number of steps in which the forward maps of a new network first learn from VGG.",
)
@_setting(
    TrainConfig,
    "photoreal",
    type=click.FloatRange(0, 1),
    help="Fraction of the steps with the photorealistic constraint.",
)
@_setting(
    TrainConfig,
    "structure_weight",
    type=float,
    help="Weight of 1 - SSIM of the gradients in the photorealistic steps.",
)
@_setting(
    TrainConfig, "noise_weight", type=float, help="Weight of noise amplification, for less flicker."
)
@_setting(
    TrainConfig,
    "alignment_weight",
    type=float,
    help="Weight of the mismatch between the gradients and VGG's.",
)
@click.option("--tensorboard", type=PATH, help="Folder for TensorBoard's log.")
@_setting(
    TrainConfig,
    "holdout",
    type=click.IntRange(min=0),
    help="Number of photos to hold out, the last.",
)
@_setting(
    TrainConfig, "preview_every", type=click.IntRange(min=1), help="Steps between checkpoints."
)
@_setting(
    TrainConfig,
    "scores",
    type=click.IntRange(min=0),
    help="Number of held-out photos and pairs to measure the network on, before and after.",
)
@_shared(TrainConfig)
@FORCE
@click.pass_context
def train(
    context: click.Context,
    /,
    content: Path | None,
    style: tuple[Path, ...],
    pack: Path | None,
    pairs: Path | None,
    output: Path | None,
    tensorboard: Path | None,
    vgg: Path | None,
    device: str | None,
    force: bool,
    **settings: Any,
) -> None:
    """Train a network for any style.

    A checkpoint and a preview are written next to OUTPUT; the same command resumes from the
    checkpoint. On several devices: torchrun --nproc-per-node N --no-python fastfcs train ...

    Pictures come from folders (--content, --style) or from a pack, one file that holds them, for
    machines where the folders are not available. With both, the pack is written, and nothing is
    trained.
    """
    with sentences():
        if content is None and (pack is None or style):
            raise ValueError("--content must be given with --style, or --pack without either")
        if content is not None and not style:
            raise ValueError("--style must be given with --content")
        if content is not None and pack is not None:
            _allow_only(context, "content", "style", "pack", "pairs", "holdout", "force")
            _check_existing(pack, force)
            _write_pack(content, style, pairs, pack, settings["holdout"])
            return
        if pairs is not None:
            raise ValueError("--pairs must be given with --content, --style and --pack")
        if content is None and "holdout" in _on_command_line(context):
            raise ValueError("--holdout must be given where the pack is written, not with the pack")
        if output is None:
            raise ValueError("--output must be given")
        _check_output(output, force)
        for name in ("channels", "residual"):
            settings[name] = settings[name] or None

        from .. import training

        training.train(
            content,
            style,
            output,
            TrainConfig(**settings),
            pack=pack,
            device=device_named(device),
            tensorboard=tensorboard,
            vgg=vgg,
        )


def _on_command_line(context: click.Context) -> list[str]:
    """The parameters set on the command line, without those left at their defaults."""
    default = click.core.ParameterSource.DEFAULT
    return [name for name in context.params if context.get_parameter_source(name) != default]


def _allow_only(context: click.Context, *names: str) -> None:
    """Raise if another parameter is set on the command line."""
    for name in _on_command_line(context):
        if name not in names:
            option = name.replace("_", "-")
            raise ValueError(f"--{option} must be left out when a pack is written")


def _check_output(output: Path, force: bool) -> None:
    if output.suffix != ".safetensors":
        raise ValueError(f"--output must end in .safetensors, got {output}")
    # With a checkpoint next to it, the file is of the run that is resumed, which checks this.
    if not output.with_suffix(".checkpoint.pt").is_file():
        _check_existing(output, force)


def _check_existing(output: Path, force: bool) -> None:
    if output.exists() and not force:
        raise ValueError(f"{output} exists already; --force overwrites")


def _write_pack(
    content: Path, style: tuple[Path, ...], pairs: Path | None, pack: Path, holdout: int
) -> None:
    from ..training.pack import from_folders, write_pack

    click.echo(write_pack(from_folders(content, style, holdout, pairs), pack))


@click.command()
@click.argument("style", type=FILE)
@click.option("--content", type=FOLDER, required=True, help="Photos to tune on.")
@click.option("-o", "--output", type=PATH, required=True, help="The preset, .safetensors.")
@_setting(TuneConfig, "steps", type=click.IntRange(min=1), help="Number of steps.")
@_setting(TuneConfig, "weights", help="Weights of the network, name or file.")
@_setting(
    TuneConfig, "size", type=click.IntRange(min=16), help="Largest side of the crops in pixels."
)
@_setting(TuneConfig, "levels", type=click.IntRange(min=1), help="Scales, at most.")
@_setting(TuneConfig, "brush", type=float, help="Size of the strokes, as for stylize.")
@_setting(TuneConfig, "title", help="For the preset's header: the painting, its painter, its year.")
@_shared(TuneConfig)
@FORCE
def tune(
    style: Path,
    content: Path,
    output: Path,
    vgg: Path | None,
    device: str | None,
    force: bool,
    **settings: Any,
) -> None:
    """Tune the statistics of one STYLE picture: a preset for stylize --style."""
    with sentences():
        from .. import training

        _check_output(output, force)
        config = TuneConfig(**settings)
        training.tune(style, content, output, config, device=device_named(device), vgg=vgg)
