"""What a visitor's work consists of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..images import Picture
from .settings import Settings


@dataclass(frozen=True, eq=False)
class Photo:
    """The photo to restyle.

    Attributes:
        path: its file.
        picture: the same, reduced to the size of a preview.
        size: width and height of the file, in pixels.
        depth: bits per channel of the file.
        suffix: of the results' files.
        thumbnail: a data URL of ``picture``.

    Examples:
        >>> from pathlib import Path
        >>> import torch
        >>> from fastfcs.app.items import Photo
        >>> from fastfcs.images import Picture
        >>> picture = Picture(torch.rand(3, 16, 24))
        >>> Photo(Path("a.gif"), picture, (24, 16), 8, ".png", "data:,").path.stem
        'a'
    """

    path: Path
    picture: Picture
    size: tuple[int, int]
    depth: int
    suffix: str
    thumbnail: str


@dataclass(eq=False)
class Style:
    """One of the styles that are blended.

    Attributes:
        name: of the file or the preset.
        title: of the preset, or the file's name without its suffix.
        thumbnail: a data URL.
        weight: in [0, 1].
        picture: reduced, or None for a preset.

    Examples:
        >>> from fastfcs.app.items import Style
        >>> Style("udnie", "Udnie", "data:,").weight
        1.0
    """

    name: str
    title: str
    thumbnail: str
    weight: float = 1.0
    picture: Picture | None = None


class Preview(NamedTuple):
    """A small result.

    Attributes:
        url: the picture as a data URL.
        is_last: whether no better one follows.

    Examples:
        >>> from fastfcs.app.items import Preview
        >>> Preview("data:,").is_last
        True
    """

    url: str
    is_last: bool = True


@dataclass(frozen=True, eq=False)
class Result:
    """A picture that was made at full size.

    Attributes:
        photo: that was restyled.
        settings: the controls.
        name: of its file, without a suffix.
        title: what it is.
        command: that makes the same.
        before: the photo as a data URL.
        after: the result as a data URL.
        thumbnail: the result, small, as a data URL.
        file: the picture as `torch.save` writes it, of 16 bits per channel.

    Examples:
        >>> from fastfcs.app.items import Result
        >>> Result.__match_args__[:2]
        ('photo', 'settings')
    """

    photo: Photo
    settings: Settings
    name: str
    title: str
    command: str
    before: str
    after: str
    thumbnail: str
    file: Path


@dataclass(frozen=True)
class Batch:
    """What has become of a batch.

    Attributes:
        archive: a zip file, in which the pictures have their own names.
        photos: how many there were.
        errors: a sentence on every photo that could not be restyled.

    Examples:
        >>> from pathlib import Path
        >>> from fastfcs.app.items import Batch
        >>> Batch(Path("restyled.zip"), 3, ["c.jpg is no picture."]).photos
        3
    """

    archive: Path
    photos: int
    errors: list[str]
