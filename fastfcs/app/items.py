"""What a visitor's work consists of."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ..images import Picture
from .settings import Settings

_LONGEST = 100  # bytes of a part of a file's name


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


@dataclass(frozen=True, eq=False)
class Style:
    """A reference picture or a preset.

    Attributes:
        name: of the file or the preset.
        title: of the preset, or the file's name without its suffix.
        thumbnail: a data URL.
        picture: reduced, or None for a preset.

    Examples:
        >>> from fastfcs.app.items import Style
        >>> Style("udnie", "Udnie", "data:,").picture is None
        True
    """

    name: str
    title: str
    thumbnail: str
    picture: Picture | None = None


@dataclass(frozen=True, eq=False)
class Masks:
    """Painted regions.

    Attributes:
        content: of the photo, (R, H, W).
        style: of the style, (R, H', W').

    Examples:
        >>> import torch
        >>> from fastfcs.app.items import Masks
        >>> Masks(torch.ones(2, 16, 24), torch.ones(2, 20, 20)).content.shape
        torch.Size([2, 16, 24])
    """

    content: Tensor
    style: Tensor


@dataclass(frozen=True)
class Choice:
    """The pictures that a visitor has chosen, at one moment.

    Attributes:
        photo: the photo, if there is one.
        styles: the styles that are blended.
        weights: of the styles, in [0, 1].
        masks: the painted regions of the photo and of the only style, if there are any.

    Examples:
        >>> from fastfcs.app.items import Choice, Style
        >>> choice = Choice(styles=(Style("the-scream", "The Scream", "data:,"),), weights=(1.0,))
        >>> choice.title, choice.label, choice.can_paint
        ('The Scream', 'the-scream', False)
    """

    photo: Photo | None = None
    styles: tuple[Style, ...] = ()
    weights: tuple[float, ...] = ()
    masks: Masks | None = None

    @property
    def has_preset(self) -> bool:
        """Whether a style has strokes of its own."""
        return any(style.picture is None for style in self.styles)

    @property
    def can_paint(self) -> bool:
        """Whether regions make sense: with a photo and one reference picture."""
        return self.photo is not None and len(self.styles) == 1 and not self.has_preset

    @property
    def title(self) -> str:
        """The styles, for people."""
        return " + ".join(style.title for style in self.styles)

    @property
    def label(self) -> str:
        """The styles, for file names."""
        return shortened("+".join(Path(style.name).stem for style in self.styles))

    @property
    def name(self) -> str:
        """The name of a result's file, without a suffix."""
        return f"{shortened(self.photo.path.stem) if self.photo else ''}-{self.label}"

    @property
    def mask_names(self) -> tuple[str, str]:
        """The names of the masks' files."""
        photo = shortened(self.photo.path.stem) if self.photo else ""
        return f"{photo}-photo-regions.png", f"{self.label}-style-regions.png"

    def command(self, settings: Settings) -> str:
        """Write the command that makes the same picture.

        Args:
            settings: the controls.

        Returns:
            A line for a shell; it is empty without a photo and a style.
        """
        if self.photo is None or not self.styles:
            return ""
        styles = [(s.name, w) for s, w in zip(self.styles, self.weights, strict=True)]
        masks = None if self.masks is None else self.mask_names
        output = f"{self.name}{self.photo.suffix}"
        return settings.command(self.photo.path.name, styles, output, masks)


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
        choice: the photo and the styles.
        photo: the photo.
        settings: the controls.
        before: the photo as a data URL.
        after: the result as a data URL.
        thumbnail: the result, small, as a data URL.
        file: the picture as `torch.save` writes it, with 16 bits per channel.

    Examples:
        >>> from fastfcs.app.items import Result
        >>> Result.__match_args__[:3]
        ('choice', 'photo', 'settings')
    """

    choice: Choice
    photo: Photo
    settings: Settings
    before: str
    after: str
    thumbnail: str
    file: Path

    @property
    def title(self) -> str:
        """What it is, for people."""
        return f"{'Photograph' if self.settings.photograph else 'Painting'}, {self.choice.title}"


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


def shortened(name: str, longest: int = _LONGEST) -> str:
    """Cut a file's name and keep its suffix; what no name may hold becomes "_".

    Args:
        name: the name.
        longest: bytes of the result.

    Returns:
        The name of a file in any folder.

    Examples:
        >>> from fastfcs.app.items import shortened
        >>> shortened("a/b.jpg"), shortened("é" * 10 + ".jpg", 10)
        ('a_b.jpg', 'ééé.jpg')
    """
    name = re.sub(r"[/\\\x00-\x1f\x7f]", "_", name)
    suffix = Path(name).suffix[:10]
    stem = name.removesuffix(suffix).encode()[: longest - len(suffix.encode())]
    return f"{stem.decode(errors='ignore') or '_'}{suffix}" if name.strip(".") else "_"
