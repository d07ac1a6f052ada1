"""Options that several commands share."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

T = TypeVar("T")


def separated_by_commas(parse: Callable[[str], T], noun: str) -> Callable[[str], list[T]]:
    """Make the type of an option that takes a list such as 200,100,50.

    Args:
        parse: converts one item; raises ValueError if it cannot.
        noun: the items in the plural, for the error message.

    Returns:
        The conversion of the whole text.

    Examples:
        >>> from fastfcs.cli.options import separated_by_commas
        >>> separated_by_commas(int, "integers")("200,100,50")
        [200, 100, 50]
    """

    def convert(text: str) -> list[T]:
        try:
            return [parse(item) for item in text.split(",")]
        except ValueError as error:
            message = f"must be one or several {noun} separated by commas, got {text!r}"
            raise click.BadParameter(message) from error

    return convert


def size_in_bytes(text: str) -> int:
    """Read an amount of memory.

    Args:
        text: a number of MB or GB.

    Returns:
        The number of bytes.

    Raises:
        click.BadParameter: it is anything else.

    Examples:
        >>> from fastfcs.cli.options import size_in_bytes
        >>> size_in_bytes("1.5GB"), size_in_bytes("800 mb")
        (1500000000, 800000000)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([MG])B", text.strip(), re.IGNORECASE)
    amount = int(float(match[1]) * {"M": 10**6, "G": 10**9}[match[2].upper()]) if match else 0
    if amount < 1:
        raise click.BadParameter(f"must be a number of MB or GB, such as 800MB, got {text!r}")
    return amount


def pixels_or_full(text: str) -> int:
    """Convert the value of --solve-size.

    Args:
        text: a number of pixels, at least 16, or "full".

    Returns:
        The number; 0 for "full".

    Raises:
        click.BadParameter: it is neither.

    Examples:
        >>> from fastfcs.cli.options import pixels_or_full
        >>> pixels_or_full("640"), pixels_or_full("full")
        (640, 0)
    """
    if text == "full":
        return 0
    if not text.isdecimal() or int(text) < 16:
        raise click.BadParameter(f"must be at least 16 pixels, or full, got {text!r}")
    return int(text)


PATH = click.Path(path_type=Path)
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
PICTURE = click.Path(dir_okay=False, allow_dash=True)
FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
INTEGERS = separated_by_commas(int, "integers")
NUMBERS = separated_by_commas(float, "numbers")
PHOTOREAL = click.option("--photoreal", is_flag=True, help="Keep the result a photograph.")
CUTOFF = click.option(
    "--cutoff",
    type=float,
    help="With --photoreal: a larger value transfers more style, a smaller one preserves more "
    "structure.",
)
MEMORY = click.option(
    "--memory",
    type=size_in_bytes,
    metavar="SIZE",
    help="What a painting may take, such as 800MB or 2GB; larger ones are made in tiles, which "
    "takes longer. By default most of what is free, on a CPU at most 1.3GB.",
)
MASK = click.option(
    "--mask",
    nargs=2,
    metavar="CONTENT STYLE",
    help="Two pictures with one flat colour, or label, per region: each region of the content "
    "takes the style of the region of the same colour.",
)
_STYLE_HELP = (
    "Picture whose style to apply, or a preset: a name that `fastfcs presets` lists, or a file "
    "made by `fastfcs tune`. Repeat the option to blend several."
)
STYLE = click.option("--style", required=True, multiple=True, help=_STYLE_HELP)
STYLE_IF_ANY = click.option("--style", multiple=True, help=_STYLE_HELP)
BLEND = click.option(
    "--blend",
    type=NUMBERS,
    metavar="W[,W...]",
    help="One weight per style, for example 0.7,0.3; equal by default.",
)
BRUSH = click.option(
    "--brush",
    type=float,
    help="Size of the strokes relative to the picture, 0.25 to 4. By default 1: as in the style "
    "picture.",
)
LEVELS = click.option(
    "--levels",
    type=click.IntRange(min=1),
    help="Scales from coarse to fine, at most; 1 paints at the picture's own size alone, with "
    "strokes of 30 pixels. By default as many as the picture's size allows.",
)
STRUCTURE = click.option(
    "--structure",
    type=float,
    help="How much of the content's structure to keep, 0 to 1: less gives a bolder painting. "
    "By default 0.25.",
)
KEEP = click.option(
    "--keep",
    type=click.Choice(["colour", "luminance"]),
    help="Component of the content to preserve.",
)
STRENGTH = click.option(
    "--strength",
    type=float,
    default=1.0,
    show_default=True,
    help="0 returns the content, 1 the full result.",
)
MAX_SIZE = click.option(
    "--max-size",
    type=click.IntRange(min=16),
    help="Reduce larger pictures to this longer side, in pixels.",
)
SOLVE_SIZE = click.option(
    "--solve-size",
    type=pixels_or_full,
    metavar="PIXELS|full",
    help="With --photoreal: restyle larger photographs at this longer side, and apply the change "
    "at full size; full restyles them at their own size. By default 768.",
)
ONE_LOOK = click.option(
    "--one-look",
    is_flag=True,
    help="With --photoreal: the same change of colours for all pictures, found on a few of them "
    "together.",
)
HOLD = click.option(
    "--hold",
    type=click.Choice(["scene", "flow"]),
    help="Videos with --photoreal: scene, the default, applies one look to each scene, which "
    "cannot flicker; flow restyles every frame and smooths the change along the optical flow, "
    "which is slower.",
)
STEADINESS = click.option(
    "--steadiness",
    type=float,
    help="Videos as paintings, or with --hold flow: the share of each frame that is taken from the "
    "previous one, from 0 to below 1; less follows changes of light sooner. By default 0.9.",
)
CODEC = click.option(
    "--codec",
    help="Encoder of FFmpeg for videos. By default libx264, or libvpx-vp9 for .webm.",
)
CRF = click.option(
    "--crf",
    type=click.FloatRange(0, 63),
    help="Constant rate factor of videos: libx264 (by default 18), libx265 (20), libvpx-vp9, "
    "libaom-av1 and libsvtav1 (24); a smaller one gives better pictures and larger files.",
)
RECURSIVE = click.option(
    "--recursive", is_flag=True, help="Folders with their subfolders, mirrored in OUTPUT."
)
SKIP_EXISTING = click.option(
    "--skip-existing", is_flag=True, help="Leave out pictures whose output exists: resumes a batch."
)
JSON = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object per picture on standard output."
)
FORCE = click.option("--force", is_flag=True, help="Overwrite existing files.")
DEVICE = click.option("--device", help="cpu, cuda, cuda:1, ...; by default cuda if available.")
WEIGHTS = click.option(
    "--weights",
    default="universal",
    show_default=True,
    help="Network: universal, small, tiny, or a .safetensors file.",
)
REFINE = click.option(
    "--refine/--no-refine",
    default=None,
    help="Further updates with VGG-like features: closer to the style, but slower. Without either, "
    "photographs are refined and paintings are not.",
)
ARITHMETIC = click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
    help="Arithmetic of the network; auto is the fastest that is as good as float32.",
)
PRECISION = click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    help="Number format of the convolutions that are differentiated; float32 by default.",
)


def device_named(name: str | None) -> str:
    """Check the value of --device.

    Args:
        name: a device of torch; None is cuda if that is available, and cpu otherwise.

    Returns:
        The device's name.

    Raises:
        ValueError: there is no such device.

    Examples:
        >>> from fastfcs.cli.options import device_named
        >>> device_named("cpu")
        'cpu'
    """
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device must be available here, got {name!r}") from error
    return name
