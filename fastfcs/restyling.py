"""What every command does with one picture: open it, restyle it, and report what happened."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, BinaryIO, NamedTuple, TypeVar

import torch
from torch import Tensor

from . import images, presets
from .checks import MIN_SIDE
from .constraints import KeepShadows
from .constraints.registry import is_photoreal
from .errors import BAD_INPUT
from .images import Picture
from .look import Look, representatives
from .losses import luma
from .regions import read_regions, resize
from .stylizer import LOOK_SIZE, SMALL_STYLE, Stylizer

T = TypeVar("T")

_CANDIDATES, _REPRESENTATIVES = 32, 6  # pictures of a series, to choose from and chosen
_SMALL_REGION = 0.001  # fraction of the picture
_UNMASKED = 0.005  # fraction of the content outside all regions above which a note is printed
_NIGHT = 0.5  # fraction of a content that is nearly black from which it is called a night
_BRIGHTER = 0.1  # how much brighter than a night a style must be for a note


def open_picture(
    source: str | BinaryIO,
    max_size: int | None = None,
    more_notes: Callable[[Picture], list[str]] = lambda picture: [],
) -> tuple[Picture, list[str]]:
    """Read a picture and reduce it.

    Args:
        source: a file, or a binary stream.
        max_size: longer side, in pixels, to which a larger picture is reduced.
        more_notes: returns further notes on the picture before it is reduced.

    Returns:
        The picture, and notes for the user: what was converted, dropped or reduced.

    Raises:
        PictureError: the picture cannot be read.

    Examples:
        >>> from io import BytesIO
        >>> import torch
        >>> from fastfcs import images
        >>> from fastfcs.restyling import open_picture
        >>> stream = BytesIO()
        >>> images.write(images.Picture(torch.rand(3, 20, 40)), stream)
        >>> _ = stream.seek(0)
        >>> picture, notes = open_picture(stream, max_size=20)
        >>> picture.size, notes
        ((20, 10), ['reduced from 40 x 20 to a longer side of 20 pixels'])
    """
    picture = images.read(source)
    notes = [*picture.notes, *more_notes(picture), *reduction_notes(picture, max_size)]
    return picture if max_size is None else images.fit_picture(picture, max_size), notes


def open_content(
    source: str | BinaryIO, format: str, max_size: int | None = None
) -> tuple[Picture, list[str]]:
    """Read the picture to restyle, as `open_picture` does.

    Args:
        source: a file, or a binary stream.
        format: that of the output, one of the values of `fastfcs.images.WRITABLE`.
        max_size: see `open_picture`.

    Returns:
        The picture, and notes that include what the format cannot hold.

    Raises:
        PictureError: the picture cannot be read, or the format cannot hold its transparency.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import torch
        >>> from fastfcs import images
        >>> from fastfcs.restyling import open_content
        >>> source = str(Path(tempfile.mkdtemp()) / "deep.png")
        >>> images.write(images.Picture(torch.rand(3, 16, 16), depth=16), source)
        >>> open_content(source, "JPEG")[1]
        ['16 bits per channel reduced to 8: JPEG is written with no more']
    """
    return open_picture(source, max_size, lambda picture: images.conversion_notes(picture, format))


def open_style(path: str, max_size: int | None = None) -> tuple[Picture, list[str]]:
    """Read a style picture, as `open_picture` does.

    Args:
        path: a file.
        max_size: see `open_picture`.

    Returns:
        The picture, and notes that include whether it is very small.

    Raises:
        PictureError: the picture cannot be read.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import torch
        >>> from fastfcs import images
        >>> from fastfcs.restyling import open_style
        >>> path = str(Path(tempfile.mkdtemp()) / "style.png")
        >>> images.write(images.Picture(torch.rand(3, 16, 16)), path)
        >>> picture, notes = open_style(path)
        >>> picture.size, notes
        ((16, 16), ['only 16 x 16 pixels: a style this small has unreliable strokes and colours'])
    """
    return open_picture(path, max_size, _size_notes)


def _size_notes(style: Picture) -> list[str]:
    width, height = style.size
    note = f"only {width} x {height} pixels: a style this small has unreliable strokes and colours"
    return [note] if min(style.size) < SMALL_STYLE else []


def reduction_notes(picture: Picture, max_size: int | None) -> list[str]:
    """Report whether a picture is reduced.

    Args:
        picture: before it is reduced.
        max_size: its longer side, in pixels, afterwards; None never reduces it.

    Returns:
        One note, or none.

    Examples:
        >>> import torch
        >>> from fastfcs.restyling import reduction_notes
        >>> from fastfcs.images import Picture
        >>> reduction_notes(Picture(torch.rand(3, 20, 40)), 32)
        ['reduced from 40 x 20 to a longer side of 32 pixels']
    """
    if max_size is None or max(picture.size) <= max_size:
        return []
    width, height = picture.size
    return [f"reduced from {width} x {height} to a longer side of {max_size} pixels"]


class Mask(NamedTuple):
    """The regions of one picture, as read from a file.

    Attributes:
        path: the file, for errors.
        names: the names of the R regions, for notes.
        regions: masks (R, H, W).
        notes: notes for the user.

    Examples:
        >>> import torch
        >>> from fastfcs.restyling import Mask
        >>> Mask("mask.png", ("red",), torch.ones(1, 16, 24)).notes
        ()
    """

    path: str
    names: tuple[str, ...]
    regions: Tensor
    notes: tuple[str, ...] = ()


def open_masks(content: str, style: str) -> tuple[Mask, Mask]:
    """Read the masks of a content and a style, as `fastfcs.read_regions` does.

    Args:
        content: a file, the mask of the content.
        style: a file, the mask of the style.

    Returns:
        Both masks; the content's has a note if they have no effect.

    Raises:
        PictureError: a file cannot be read.
        ValueError: see `fastfcs.read_regions`.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from fastfcs.restyling import open_masks
        >>> path = str(Path(tempfile.mkdtemp()) / "black.png")
        >>> Image.new("L", (24, 16)).save(path)
        >>> open_masks(path, path)[0].notes
        ('its mask has one region and therefore no effect',)
    """
    names, *both = read_regions(content, style)
    is_whole = len(names) == 1 and all(regions.all() for regions in both)
    notes = ("its mask has one region and therefore no effect",) if is_whole else ()
    return Mask(content, names, both[0], notes), Mask(style, names, both[1])


def fit_mask(mask: Mask, picture: Picture) -> tuple[Tensor, list[str]]:
    """Bring a mask to the size of its picture.

    Args:
        mask: the mask.
        picture: the picture it belongs to, of H x W pixels.

    Returns:
        The masks (R, H, W) of the regions, and notes, also if their size has changed or a region is
        very small.

    Raises:
        ValueError: the aspect ratios differ by more than the rounding of either size.

    Examples:
        >>> import torch
        >>> from fastfcs.restyling import Mask, fit_mask
        >>> from fastfcs.images import Picture
        >>> mask = Mask("mask.png", ("red", "blue"), torch.ones(2, 8, 12) / 2)
        >>> masks, notes = fit_mask(mask, Picture(torch.rand(3, 16, 24)))
        >>> masks.shape, notes
        (torch.Size([2, 16, 24]), ['its mask was resized to 24 x 16'])
    """
    width, height = picture.size
    rows, columns = mask.regions.shape[1:]
    # There is a scale at which both sides of the smaller one fit to within a pixel.
    if abs(columns * height - rows * width) > max(columns + rows, width + height):
        raise ValueError(
            f"{mask.path} must have its picture's aspect ratio, {width} x {height}, "
            f"got {columns} x {rows}"
        )
    notes = list(mask.notes)
    if (rows, columns) != (height, width):
        notes.append(f"its mask was resized to {width} x {height}")
    shares = mask.regions.mean((1, 2)).tolist()
    notes += [
        f"its region {name} is only {share:.2%} of it"
        for name, share in zip(mask.names, shares, strict=True)
        if share < _SMALL_REGION
    ]
    return resize(mask.regions, (height, width)), notes


def set_style(
    stylizer: Stylizer,
    styles: Sequence[str],
    blend: Sequence[float] | None = None,
    mask: Mask | None = None,
) -> list[str]:
    """Set pictures or presets as the style of a stylizer.

    Args:
        stylizer: the stylizer.
        styles: files, or names of presets.
        blend: weights of several styles; equal by default.
        mask: the regions of a single style.

    Returns:
        Notes for the user.

    Raises:
        PictureError: a picture cannot be read.
        ValueError: see `fastfcs.Stylizer.set_style`.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import torch
        >>> from fastfcs import Stylizer, images
        >>> from fastfcs.restyling import set_style
        >>> path = str(Path(tempfile.mkdtemp()) / "style.png")
        >>> images.write(images.Picture(torch.rand(3, 100, 100)), path)
        >>> set_style(Stylizer(weights="tiny"), [path])
        []
    """
    loaded: list[Any] = []
    notes: list[str] = []
    regions = mask.regions if mask else None
    for style in styles:
        if presets.find(style) is not None:
            loaded.append(style)
            continue
        picture, picture_notes = open_style(style)
        picture_notes += reduction_notes(picture, stylizer.style_size)  # by the stylizer
        if mask:
            regions, mask_notes = fit_mask(mask, picture)
            picture_notes += mask_notes
        notes += [f"{style}: {note}" for note in picture_notes]
        loaded.append(picture)
    if len(loaded) > 1 and blend is None:
        blend = [1.0] * len(loaded)
    stylizer.set_style(loaded, blend=blend, regions=regions)
    return notes


class Restyled(NamedTuple):
    """A restyled picture, and how it was made.

    Attributes:
        picture: the result, with the content's metadata.
        solve_size: width and height, in pixels, at which it was restyled.
        tiles: the number of tiles of the last scale.
        notes: for the user.

    Examples:
        >>> import torch
        >>> from fastfcs.images import Picture
        >>> from fastfcs.restyling import Restyled
        >>> Restyled(Picture(torch.rand(3, 16, 24)), (24, 16), 1, []).picture.size
        (24, 16)
    """

    picture: Picture
    solve_size: tuple[int, int]
    tiles: int
    notes: list[str]


def restyle(stylizer: Stylizer, picture: Picture, mask: Mask | None = None) -> Restyled:
    """Restyle a picture, with notes for the user.

    Args:
        stylizer: with a style; with ``mask``, one per region.
        picture: the content.
        mask: its regions.

    Returns:
        The result.

    Raises:
        ValueError, RuntimeError: see `fit_mask` and `fastfcs.Stylizer.forward`.

    Examples:
        >>> import torch
        >>> from fastfcs import Stylizer
        >>> from fastfcs.images import Picture
        >>> from fastfcs.restyling import restyle
        >>> stylizer = Stylizer(torch.rand(3, 24, 32), weights="tiny")
        >>> restyle(stylizer, Picture(torch.rand(3, 16, 24))).solve_size
        (24, 16)
    """
    notes, regions = [], None
    if mask:
        regions, mask_notes = fit_mask(mask, picture)
        notes += mask_notes
        unmasked = 1 - regions.sum(0).mean().item()
        if unmasked > _UNMASKED:
            notes.append(
                f"{unmasked:.0%} of it is not restyled: it is in no region that both masks have"
            )
    notes += content_notes(stylizer, picture)
    width, height = picture.size
    rows, columns = stylizer.solved_at(height, width)
    tiles = stylizer.tiles(height, width)
    with torch.inference_mode(), warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", message="not enough memory")
        result = stylizer(picture, regions)
    notes += [str(warning.message) for warning in caught]
    return Restyled(result, (columns, rows), tiles, notes)


def find_look(
    stylizer: Stylizer,
    sources: Sequence[T],
    read: Callable[[T], Picture] = lambda source: images.read(source),  # type: ignore[arg-type]
) -> Look:
    """Find one look for a series, from a few of its pictures that differ most.

    Args:
        stylizer: makes photographs.
        sources: the pictures.
        read: reads one of them; those that cannot be read are passed over.

    Returns:
        The look.

    Raises:
        ValueError: there are no pictures that can be restyled; or see `fastfcs.Stylizer.look`.

    Examples:
        >>> import torch
        >>> from fastfcs import Stylizer
        >>> from fastfcs.images import Picture
        >>> from fastfcs.restyling import find_look
        >>> style, *series = torch.rand(4, 3, 24, 32)
        >>> stylizer = Stylizer(style, weights="tiny", constraint="photoreal")
        >>> find_look(stylizer, series, Picture).points
        33
    """
    step = -(-len(sources) // _CANDIDATES)
    candidates = []
    for source in sources[:: step or 1]:
        with suppress(*BAD_INPUT):  # reported when its turn comes
            picture = read(source)
            visible = picture.alpha is None or picture.alpha.any()
            if visible and min(picture.size) >= MIN_SIDE:
                side = images.least_side(picture.size, LOOK_SIZE)
                candidates.append(images.fit_picture(picture, side))
    if not candidates:
        raise ValueError("content must hold pictures that can be restyled, got none")
    chosen = representatives(candidates, _REPRESENTATIVES)
    with torch.inference_mode():
        return stylizer.look([candidates[k] for k in chosen])


def content_notes(stylizer: Stylizer, picture: Picture) -> list[str]:
    """Report how a picture is restyled.

    Args:
        stylizer: with a style.
        picture: the content.

    Returns:
        Notes if it is restyled at a smaller size, or is a night that stays dark.

    Examples:
        >>> import torch
        >>> from fastfcs import Stylizer
        >>> from fastfcs.images import Picture
        >>> from fastfcs.restyling import content_notes
        >>> style, content = torch.rand(2, 3, 36, 48)
        >>> stylizer = Stylizer(style, weights="tiny", constraint="photoreal", solve_size=24)
        >>> content_notes(stylizer, Picture(content))
        ['restyled at 24 x 18, and the change applied at full size']
    """
    width, height = picture.size
    rows, columns = stylizer.solved_at(height, width)
    notes = _night_notes(stylizer, picture)
    if (rows, columns) != (height, width):
        notes.append(f"restyled at {columns} x {rows}, and the change applied at full size")
    return notes


def _night_notes(stylizer: Stylizer, picture: Picture) -> list[str]:
    """A note if a photograph of the night is asked to become much brighter."""
    statistics = stylizer.statistics.get()
    if statistics is None or not is_photoreal(stylizer.constraint):
        return []
    picture = images.fit_picture(picture, stylizer.solve_size or max(picture.size))
    content = picture.srgb[None]
    visible = 1 if picture.alpha is None else picture.alpha / picture.alpha.mean().clamp_min(1e-6)
    dark = (KeepShadows(content).dark * visible).mean().item()
    mean = (luma(content) * visible).mean()
    brighter = (luma(statistics[-1].colours[..., None, None]).mean() - mean).item()
    if dark < _NIGHT or brighter < _BRIGHTER:
        return []
    return [f"{dark:.0%} of it is nearly black and stays dark, since brightening would show noise"]
