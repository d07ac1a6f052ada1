"""The command line. Torch is imported only when a command runs, so that ``--help`` is fast."""

from __future__ import annotations

import warnings

import click

from .app import app
from .batch import batch
from .evaluate import evaluate
from .info import info
from .look import apply, lut
from .optimize import optimize
from .presets import presets
from .stylize import stylize
from .train import train, tune
from .video import video


def main() -> None:
    """Run the command ``fastfcs``."""
    warnings.simplefilter("ignore")  # users of the command cannot act on Python warnings
    cli()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fastfcs")
def cli() -> None:
    """Give a picture the style of another, as a painting or as a photograph."""


for command in (
    stylize,
    batch,
    video,
    app,
    lut,
    apply,
    presets,
    train,
    tune,
    optimize,
    evaluate,
    info,
):
    cli.add_command(command)
